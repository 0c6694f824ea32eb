"""
What it costs to orthogonalise CG's residuals against the newest few only, where memory does not allow for all.

The same system (F + lambda I) x = g is solved with windows of several lengths; counted is the gain of the quadratic model, in
float64, as a share of that with all residuals. Systems: the policies of scripts/collect_batches.py, and an untrained actor of
10.3 million parameters with a robot-like batch. What is in the CSV is not measured again.

    python scripts/collect_batches.py --tasks Hopper-v5 --late 100000
    python scripts/compare_windows.py            # results/residual_window.csv, and a table
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks.cells import RobotLike, Shape, season
from benchmarks.large import LARGE_MLP, Update
from collect_batches import FOLDER, STAGES, STEPS, Checkpoint
from evidence.provenance import REPO, provenance
from evidence.store import write_whole
from real_batches import PolicyStep, batch_of, policy_step
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core import NUMERICS_VERSION

CSV = REPO / "results" / "residual_window.csv"
KEY = ["system", "samples", "precision", "damping", "iterations", "window"]
SOURCE = ["numerics_version", "commit", "dirty", "python", "torch", "machine", "finished"]
COLUMNS = [*KEY, "parameters", "gain", "gain_share", "residual", "status", "residuals_mib", *SOURCE]
WINDOWS = (60, 40, 25, 20, 10, 5, 2, 0)
LARGE_SAMPLES = 512
DAMPINGS = (0.1, 0.003)
"""With little damping orthogonality is lost sooner."""
Row = dict[str, str]


def large() -> PolicyStep:
    """
    Make the policy step of a large actor.

    :return: of 10.3 million parameters
    """
    policy, policy_kwargs = Update(LARGE_MLP, LARGE_SAMPLES).policy
    env = DummyVecEnv([partial(RobotLike, Shape(348, 17, 0.01))] * 4)
    settings: dict[str, Any] = {"n_steps": LARGE_SAMPLES // 4, "policy_kwargs": policy_kwargs, "seed": 0, "device": "cpu"}
    model = TRPO(policy, env, kl_reduction="mean", warn_on_risky=False, **settings)
    season(model.policy)
    model.set_logger(configure(None, []))
    _, callback = model._setup_learn(10**9, None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return policy_step(model)


def systems() -> Iterator[tuple[str, int, tuple[int, ...], Callable[[], PolicyStep]]]:
    """
    List what is solved.

    :yields: name, samples, CG iterations, and what makes the policy step
    """
    for checkpoint in (Checkpoint(FOLDER, task, stage) for task in STEPS for stage in STAGES):
        if checkpoint.path("zip").exists():
            name = f"{checkpoint.task} {checkpoint.stage}"
            yield name, 2048, (25, 60), lambda checkpoint=checkpoint: batch_of(checkpoint, None, 1)[0]
    yield LARGE_MLP, LARGE_SAMPLES, (25,), large


def read() -> list[Row]:
    """
    Read what was measured.

    :return: rows of the CSV; none if there is no file
    """
    if not CSV.exists():
        return []
    with CSV.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add(row: Row) -> None:
    """
    Add a row to the CSV, which is written whole.

    :param row: all of ``COLUMNS``
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*read(), row])
    write_whole(CSV, text.getvalue())


def measure(name: str, samples: int, iterations: int, step: PolicyStep, damping: float) -> None:
    """
    Solve one system with every window that is not longer than the solve.

    :param name: of the system
    :param samples: in the batch
    :param iterations: of CG
    :param step: the policy step
    :param damping: lambda
    """
    precision = step.settings.cg_precision
    n_parameters = step.g.numel()
    best: float | None = None
    for window in (window for window in WINDOWS if window <= iterations):
        key = [name, str(samples), precision, f"{damping:g}", str(iterations), str(window)]
        known = [row for row in read() if [row[column] for column in KEY] == key]
        if known:
            best = best or float(known[0]["gain"])
            continue
        started = time.perf_counter()
        result, _ = step.solve(precision, window, iterations, damping)
        x = result.solution.double()
        gain = float(step.g.dot(x) - 0.5 * x.dot(result.damped_product.double()))
        best = best or gain
        source = {"numerics_version": NUMERICS_VERSION, **provenance()}
        found = [n_parameters, f"{gain:.10g}", f"{gain / best:.6f}", f"{result.residual:.4g}", result.status.value]
        found += [f"{window * n_parameters * 8 / 2**20:.4g}", *(source[column] for column in SOURCE)]
        add(dict(zip(COLUMNS, [*key, *map(str, found)], strict=True)))
        print(
            f"{name}, {iterations} iterations, window {window}: {gain / best:.4f} in {time.perf_counter() - started:.0f} s",
            flush=True,
        )


def main() -> int:
    """
    Measure what is missing.

    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", help="names (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, samples, counts, make in systems():
        if args.systems and name not in args.systems:
            continue
        step = make()
        for damping in (0.1,) if name == LARGE_MLP else DAMPINGS:
            for iterations in counts:
                measure(name, samples, iterations, step, damping)
    return 0


if __name__ == "__main__":
    sys.exit(main())
