"""Weights & Biases without a key: offline, where the Zoo's ``--track`` would end in a traceback."""

import importlib.util
import os
import sys

from sb3_trpo_ext.monitoring.wandb_mode import must_go_offline

NOTICE = "W&B: no API key found, so --track logs offline to ./wandb (see `wandb login`)."


def choose_wandb_mode() -> None:
    """Set ``WANDB_MODE=offline`` where wandb is installed, no mode is chosen and no key is configured; say so once."""
    if importlib.util.find_spec("wandb") is None or not must_go_offline():
        return
    os.environ["WANDB_MODE"] = "offline"
    print(NOTICE, file=sys.stderr)
