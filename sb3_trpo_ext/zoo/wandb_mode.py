"""Weights & Biases without a key: offline, where the Zoo's ``--track`` would end in a traceback."""

import importlib.util
import os
import sys

from sb3_trpo_ext.monitoring.wandb_mode import must_go_offline

NOTICE = "W&B: no API key found, so --track logs offline to ./wandb (see `wandb login`)."

OFFLINE = "offline"
_chosen_here = False


def choose_wandb_mode() -> None:
    """Set ``WANDB_MODE=offline`` where wandb is installed, no mode is chosen and no key is configured."""
    global _chosen_here
    if importlib.util.find_spec("wandb") is None or not must_go_offline():
        return
    os.environ["WANDB_MODE"] = OFFLINE
    _chosen_here = True


def say_wandb_mode() -> None:
    """Say so, to somebody who tracks a run."""
    if _chosen_here and os.environ.get("WANDB_MODE") == OFFLINE:
        print(NOTICE, file=sys.stderr)
