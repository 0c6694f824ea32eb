"""
How soon is CG as good as 25 plain iterations? Without a preconditioner and with K-FAC, on the batches of compare_precision.

Targets: the quadratic model's gain after 25 plain float64 iterations (the field's solver), 99 % of it (where 25 iterations
have all but converged, the last digits take most of them), and the gain after 25 re-orthogonalised ones. Counted: iterations
of our CG (re-orthogonalised, default precision unless --precision says otherwise) until its gain, evaluated in float64,
reaches the target. With --timings, the whole policy step with that many iterations (gradient, factors, solve, line search) is
timed against sb3-contrib's with 25, in turn in one run, on a batch of each trained policy.

    python scripts/collect_batches.py && python scripts/compare_preconditioners.py
    python scripts/compare_preconditioners.py --timings    # on a machine that does nothing else

Written: results/precision_preconditioners.csv and results/precision_step_timings.csv, which `compare_precision.py --report`
puts on its page.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sb3_contrib
import torch
from collect_batches import FOLDER, STEPS, Checkpoint
from compare_precision import LESS_DAMPING, SEEDS, describe, policies, write_rows
from evidence.provenance import REPO
from precision_tables import COUNTS, STEP_TIMINGS, Row, count_table, read, step_time_table
from real_batches import PolicyStep, collect, kept_policy, policy_step
from rich.console import Console

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.flat import Snapshot

ITERATIONS, LIMIT = 25, 50
PRECONDITIONERS = ("none", "kfac")
DEFAULT = inspect.signature(TRPO).parameters["cg_precision"].default
REACHED = 1.0 - 1e-6
"""A target counts as reached at this share of it: 25 iterations of another precision are 25 iterations."""

TARGETS = {"25 plain": (0, REACHED), "99 % of 25 plain": (0, 0.99), "25 re-orthogonalised": (ITERATIONS, REACHED)}
"""Residuals that the solver of the target keeps, and the share of its gain that counts."""


def counter(step: PolicyStep, precision: str, damping: float, preconditioner: str) -> Callable[[float], int | None]:
    """
    Prepare to count the iterations to a gain.

    :param step: the policy step
    :param precision: of the solve
    :param damping: lambda
    :param preconditioner: one of ``PRECONDITIONERS``
    :return: gain -> how many; None if it is not reached in ``LIMIT``
    """
    models = step.solve(precision, LIMIT, LIMIT, damping, preconditioner)[0].model_history

    def iterations_to(target: float) -> int | None:
        # The recurrence says where to look, float64 whether it is true.
        first = next((done for done, model in enumerate(models, 1) if -model >= target), len(models))
        for done in range(first, len(models) + 1):
            if step.gain(step.solve(precision, done, done, damping, preconditioner)[0].solution, damping) >= target:
                return done
        return None

    return iterations_to


def target_gain(step: PolicyStep, target: str, damping: float) -> float:
    """
    Say what must be reached.

    :param step: the policy step
    :param target: of ``TARGETS``
    :param damping: lambda
    :return: gain of 25 iterations in float64, or a share of it
    """
    keep, share = TARGETS[target]
    return share * step.gain(step.solve("float64", keep, ITERATIONS, damping)[0].solution, damping)


def measure(step: PolicyStep, precision: str, zoo_damping: float) -> Iterator[Row]:
    """
    Count on one batch.

    :param step: its policy step
    :param precision: of the solves that are counted
    :param zoo_damping: the configured damping
    :yields: a row a damping and target
    """
    for less in LESS_DAMPING:
        damping = zoo_damping / less
        count = {name: counter(step, precision, damping, name) for name in PRECONDITIONERS}
        for target in TARGETS:
            gain = target_gain(step, target, damping)
            row = {"less_damping": less, "damping": damping, "precision": precision, "target": target, "target_gain": gain}
            yield {**row, **{f"{name}_iterations": count[name](gain) for name in PRECONDITIONERS}}


def contrib_like(model: TRPO, checkpoint: Checkpoint, seed: int) -> Any:
    """
    Make sb3-contrib's model of the same policy, batch, bound and damping.

    :param model: ours, with a full buffer
    :param checkpoint: its policy
    :param seed: of the batch
    :return: the model, whose ``train()`` does 25 iterations and no critic epoch
    """
    unit = 1.0 if model.kl_unit == "mean" else model.action_space.shape[0]  # type: ignore[index]  # Box: sb3-contrib averages
    changes = {"target_kl": model.target_kl / unit, "cg_damping": model.cg_damping / unit}
    changes |= {"cg_max_steps": ITERATIONS, "n_critic_updates": 0}
    contrib = kept_policy(checkpoint, seed, cls=sb3_contrib.TRPO, **changes)
    contrib.rollout_buffer = copy.deepcopy(model.rollout_buffer)
    return contrib


def seconds_of(step: Callable[[], None], model: Any) -> float:
    """
    Time a policy step, and undo it.

    :param step: does it
    :param model: whose parameters it changes
    :return: seconds
    """
    before = Snapshot.take(model.policy.parameters())
    start = time.perf_counter()
    step()
    taken = time.perf_counter() - start
    before.restore()
    return taken


def time_policy(checkpoint: Checkpoint, policy: str, args: argparse.Namespace) -> Iterator[Row]:
    """
    Time policy steps of equal gain in turn.

    :param checkpoint: the policy
    :param policy: its name
    :param args: the command line
    :yields: a row a target and preconditioner
    """
    seed = args.seeds[0]
    fixed = {"adaptive_damping": False, "n_critic_updates": 0, "max_critic_updates": 0, "cg_precision": args.precision}
    models = {name: kept_policy(checkpoint, seed, cg_preconditioner=name, **fixed) for name in PRECONDITIONERS}
    for model in models.values():
        collect(model, seed)
    step, damping = policy_step(models["none"]), float(models["none"].cg_damping)
    contrib = contrib_like(models["none"], checkpoint, seed)
    count = {name: counter(step, args.precision, damping, name) for name in PRECONDITIONERS}
    for target in TARGETS:
        for name, model in models.items():
            model.cg_max_steps = count[name](target_gain(step, target, damping)) or LIMIT
        taken: dict[str, list[float]] = {"sb3-contrib": [], **{name: [] for name in models}}
        for repetition in range(args.repetitions + 1):
            for name, model in [("sb3-contrib", contrib), *models.items()]:
                seconds = seconds_of(model.train, model)
                if repetition > 0:  # the first warms up
                    taken[name].append(1e3 * seconds)
        base = statistics.median(taken["sb3-contrib"])
        for name, milliseconds in taken.items():
            label = name if name == "sb3-contrib" else f"{name}, {args.precision}"
            row: Row = {"target": target, "model": label}
            done = ITERATIONS if name == "sb3-contrib" else models[name].last_update.cg_iterations
            median = statistics.median(milliseconds)
            row |= {"iterations": done, "median_ms": median, "ratio": median / base, "repetitions": len(milliseconds)}
            yield {**describe(checkpoint, policy), **row}


def main(argv: list[str] | None = None) -> int:
    """
    Measure and print.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(STEPS), metavar="ID", help=f"default: {' '.join(STEPS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="of the batches")
    parser.add_argument("--precision", default=DEFAULT, help="of the solves that are counted (default: %(default)s)")
    parser.add_argument("--timings", action="store_true", help="time the policy step, and nothing else")
    parser.add_argument("--repetitions", type=int, default=7, help="of each timing (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the policies (default: .cache/batches)")
    parser.add_argument("--results", type=Path, default=REPO / "results", help="default: results/")
    args, console = parser.parse_args(argv), Console()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for policy, checkpoint, sigma in policies(args.folder, args.tasks):
        if args.timings:
            rows += time_policy(checkpoint, policy, args) if sigma is None else ()
            continue
        for seed in args.seeds:
            model = kept_policy(checkpoint, seed, sigma)
            collect(model, seed)
            about = {**describe(checkpoint, policy), "seed": seed}
            rows += [{**about, **row} for row in measure(policy_step(model), args.precision, float(model.cg_damping))]
        console.print(f"{checkpoint.task} {policy}: {len(rows)} rows")
    path = args.results / (STEP_TIMINGS if args.timings else COUNTS)
    write_rows(path, rows)
    console.print((step_time_table if args.timings else count_table)(read(path)), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
