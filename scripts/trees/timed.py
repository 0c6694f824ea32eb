"""
Time one case with the package of one tree. Started by ``time_trees.py``.

    python -m trees.timed CASE TREE UPDATES RESULT
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import sb3_trpo_ext
from trees.cases import CASES, make, steps_of

WARM_UP = 2
"""Updates that are not timed: the ladder is climbed, pools are filled."""


def main() -> None:
    """Train, and write the CPU seconds of an update and of the whole."""
    name, tree, updates, result = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    assert Path(sb3_trpo_ext.__file__).resolve().is_relative_to(tree.resolve()), "another tree's package was loaded"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case, seconds = CASES[name], []
    model, callbacks = make(case, tree / "zoo_configs" / "trpo.yml")
    one, train = steps_of(case, model) // case.updates, model.train

    def timed() -> None:
        begin = time.process_time()
        train()
        seconds.append(time.process_time() - begin)

    model.train = timed  # type: ignore[method-assign]
    model.learn(WARM_UP * one, callback=callbacks)
    seconds.clear()
    begin = time.process_time()
    model.learn(updates * one, callback=callbacks, reset_num_timesteps=False)
    whole = time.process_time() - begin
    assert len(seconds) == updates
    Path(result).write_text(json.dumps({"update": float(np.median(seconds)), "training": whole / updates}))


if __name__ == "__main__":
    main()
