"""
Train one case with the package of one tree, and write down what came out. Started by ``runs.py``.

    python -m trees.train CASE TREE RESULT        # writes RESULT.0, of rank 0, and so on
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

import sb3_trpo_ext
from sb3_trpo_ext import TRPO
from trees.cases import CASES, RUN, make, steps_of


class Reports(BaseCallback):
    """Keeps the report of every update, of rank 0; ``rows`` are plain data."""

    reads_step_values = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        report = self.model.last_update  # type: ignore[attr-defined]
        if report is not None and (not self.rows or self.rows[-1]["n_updates"] < report.n_updates):
            self.rows.append(json.loads(report.to_json()))

    _on_training_end = _on_rollout_start


def plain(value: Any, name: str = "") -> Iterator[tuple[str, bytes]]:
    """
    Walk through containers.

    :param value: tensors, arrays and plain values in dictionaries, lists and tuples
    :param name: where it is
    :return: each part with its place
    """
    if isinstance(value, dict):
        for key, part in value.items():
            yield from plain(part, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from plain(part, f"{name}/{index}")
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().numpy() if isinstance(value, torch.Tensor) else value)
        yield name, f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    else:
        yield name, repr(value).encode()


def digest(value: Any) -> str:
    """
    Hash a value, bit for bit.

    :param value: as in ``plain``
    :return: hexadecimal
    """
    found = hashlib.sha256()
    for name, data in plain(value):
        found.update(name.encode() + b"\0" + data + b"\0")
    return found.hexdigest()[:16]


def run_files() -> dict[str, Any]:
    """
    Look at the run folder.

    :return: names of its files, the logged keys, and hashes of the files that hold numbers only
    """
    folder = Path(RUN)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    logged = (folder / "progress.csv").read_text().partition("\n")[0] if "progress.csv" in files else None
    # updates.jsonl has the reports, which are compared field by field; the monitor files have the time of the day.
    numbers = [*folder.glob("*.npy"), *folder.glob("alarms.jsonl")]
    return {
        "files": files,
        "logged keys": logged,
        **{path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in numbers},
    }


def values(model: TRPO) -> dict[str, Any]:
    """
    Sum up what a training leaves.

    :param model: after ``learn``
    :return: by place: hashes of each weight and buffer, of the optimiser, statistics and random streams; counts
    """
    normalizer = model.get_vec_normalize_env()
    # Not as attributes: a wrapper that does not normalise observations has no such statistics.
    kept = {} if normalizer is None else vars(normalizer)
    statistics = {name: vars(kept[name]) for name in ("obs_rms", "ret_rms") if name in kept}
    return {
        **{f"policy {name}": digest(tensor) for name, tensor in model.policy.state_dict().items()},
        "optimiser": digest(model.policy.optimizer.state_dict()),
        "VecNormalize": digest(statistics),
        "num_timesteps": model.num_timesteps,
        "random stream of torch": digest(torch.get_rng_state()),
        "random stream of numpy": digest(np.random.get_state()),  # noqa: NPY002
        "random stream of Python": digest(random.getstate()),
        **(run_files() if Path(RUN).is_dir() else {}),
    }


def main() -> None:
    """Train, and write."""
    name, tree, result = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    loaded = Path(sb3_trpo_ext.__file__).resolve()
    assert loaded.is_relative_to(tree.resolve()), f"{loaded} was loaded, which is not below {tree}"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case, reports = CASES[name], Reports()
    model, callbacks = make(case, tree / "zoo_configs" / "trpo.yml")
    model.learn(steps_of(case, model), callback=[*callbacks, reports])
    found = {"reports": reports.rows, "values": values(model)}
    Path(f"{result}.{os.environ.get('RANK', '0')}").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
