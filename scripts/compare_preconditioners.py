"""
How soon is CG as good as 25 plain iterations? Without a preconditioner and with K-FAC, on the batches of compare_precision.

Targets: the quadratic model's gain after 25 plain float64 iterations (the field's solver), 99 % of it (where 25 iterations
have all but converged, the last digits take most of them), the gain after 25 re-orthogonalised ones, and after 25 of
sb3-contrib's own solver in float32, on the same system: what users have today. Counted: iterations of our CG
(re-orthogonalised, default precision unless --precision says otherwise) until its gain, evaluated in float64, reaches the
target. With --timings, the whole policy step with exactly that many iterations (gradient, factors, solve, line search) is
timed against sb3-contrib's with 25, in turn in one run, on a batch of each trained policy. For both, the early stop of
preconditioned CG is off; "as shipped" it is on: K-FAC and at most the Zoo's 25 iterations.

    python scripts/collect_batches.py && python scripts/compare_preconditioners.py
    python scripts/compare_preconditioners.py --timings    # on a machine that does nothing else

Written: results/precision_preconditioners.csv and results/precision_step_timings.csv, which `compare_precision.py --report`
puts on its page.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import sb3_contrib
import torch
from collect_batches import FOLDER, STEPS, Checkpoint
from compare_precision import LESS_DAMPING, SEEDS, describe, policies, write_rows
from evidence.provenance import REPO
from precision_tables import COUNTS, STEP_TIMINGS, Row, count_table, read, step_time_table
from real_batches import PolicyStep, batch_of, collect, contrib_unit, kept_policy, without_early_stop
from rich.console import Console

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.flat import Snapshot

ITERATIONS, LIMIT = 25, 50
PRECONDITIONERS = ("none", "kfac")
DEFAULT = inspect.signature(TRPO).parameters["cg_precision"].default
REACHED = 1.0 - 1e-6
"""A target counts as reached at this share of it: 25 iterations of another precision are 25 iterations."""

PLAIN, OF_CONTRIB, AS_SHIPPED, CONTRIB = "25 plain", "25 of sb3-contrib", "as shipped", "sb3-contrib"
TARGETS: dict[str, tuple[int | None, float]] = {
    PLAIN: (0, REACHED),
    "99 % of 25 plain": (0, 0.99),
    "25 re-orthogonalised": (ITERATIONS, REACHED),
    OF_CONTRIB: (None, REACHED),
}
"""Residuals that the solver of the target keeps (None: it is sb3-contrib's), and the share of its gain that counts."""


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
    :return: gain of 25 iterations, evaluated in float64, or a share of it; NaN if sb3-contrib's solver breaks down
    """
    keep, share = TARGETS[target]
    if keep is None:
        solution = step.contrib_solution(ITERATIONS, damping)
    else:
        solution = step.solve("float64", keep, ITERATIONS, damping)[0].solution
    return share * step.gain(solution, damping)


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
            if not math.isfinite(gain):
                continue  # no gain to be reached
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
    unit = contrib_unit(model)
    changes = {"target_kl": model.target_kl / unit, "cg_damping": model.cg_damping / unit}
    changes |= {"cg_max_steps": ITERATIONS, "n_critic_updates": 0}
    contrib = kept_policy(checkpoint, seed, cls=sb3_contrib.TRPO, **changes)
    contrib.rollout_buffer = copy.deepcopy(model.rollout_buffer)
    return contrib


def seconds_of(step: Callable[[], None], model: Any) -> float:
    """
    Time a policy step, and undo it: the next one is the same, down to what K-FAC samples.

    :param step: does it
    :param model: whose parameters it changes
    :return: seconds
    """
    before, updates = Snapshot.take(model.policy.parameters()), model._n_updates
    start = time.perf_counter()
    step()
    taken = time.perf_counter() - start
    before.restore()
    model._n_updates = updates
    return taken


def alternate(models: dict[str, Any], repetitions: int) -> dict[str, list[float]]:
    """
    Time policy steps in turn.

    :param models: by name
    :param repetitions: of each; another one, before, warms up
    :return: milliseconds by name
    """
    taken: dict[str, list[float]] = {name: [] for name in models}
    for repetition in range(repetitions + 1):
        for name, model in models.items():
            seconds = seconds_of(model.train, model)
            if repetition > 0:
                taken[name].append(1e3 * seconds)
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
    step, reference = batch_of(checkpoint, None, seed)
    damping = float(reference.cg_damping)
    fixed = {"adaptive_damping": False, "n_critic_updates": 0, "max_critic_updates": 0, "cg_precision": args.precision}
    models = {name: kept_policy(checkpoint, seed, cg_preconditioner=name, **fixed) for name in PRECONDITIONERS}
    for model in models.values():
        collect(model, seed)
    contrib = contrib_like(reference, checkpoint, seed)
    count = {name: counter(step, args.precision, damping, name) for name in PRECONDITIONERS}
    goals = {target: target_gain(step, target, damping) for target in TARGETS}
    plain, of_contrib = (goals[target] / REACHED for target in (PLAIN, OF_CONTRIB))
    for target in (*TARGETS, AS_SHIPPED):
        shipped = target == AS_SHIPPED
        steps = {"kfac": ITERATIONS} if shipped else {name: count[name](goals[target]) for name in models}
        for name, most in steps.items():
            models[name].cg_max_steps = most
        timed = {name: models[name] for name, most in steps.items() if most is not None}  # others do not get there
        with nullcontext() if shipped else without_early_stop():
            taken = alternate({CONTRIB: contrib, **timed}, args.repetitions)
        base = statistics.median(taken[CONTRIB])
        for name, milliseconds in taken.items():
            median = statistics.median(milliseconds)
            row: Row = {"target": target, "model": CONTRIB, "iterations": ITERATIONS, "gain_share": of_contrib / plain}
            if name != CONTRIB:
                row |= {"model": f"{name}, {args.precision}", **last_solve(models[name], step, damping, plain)}
                if not shipped and row["iterations"] != steps[name]:
                    sys.exit(f"compare_preconditioners: {name}: {row['iterations']} CG iterations, asked for {steps[name]}")
            row |= {"median_ms": median, "ratio": median / base, "repetitions": len(milliseconds)}
            yield {**describe(checkpoint, policy), **row}


def last_solve(model: Any, step: PolicyStep, damping: float, plain: float) -> Row:
    """
    Say what a timed solve came to.

    :param model: ours, after an update
    :param step: the policy step that it did
    :param damping: lambda
    :param plain: gain of 25 plain iterations
    :return: columns
    """
    solve = model.session.update_inputs.result.solve
    gain = step.gain(solve.direction.vector, damping)
    return {"iterations": model.last_update.cg_iterations, "gain_share": gain / plain}


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
            step, model = batch_of(checkpoint, sigma, seed)
            about = {**describe(checkpoint, policy), "seed": seed}
            rows += [{**about, **row} for row in measure(step, args.precision, float(model.cg_damping))]
        console.print(f"{checkpoint.task} {policy}: {len(rows)} rows")
    path = args.results / (STEP_TIMINGS if args.timings else COUNTS)
    write_rows(path, rows)
    console.print((step_time_table if args.timings else count_table)(read(path)), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
