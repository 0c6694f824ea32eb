"""
What precision costs and what it buys: {float32, mixed, float64} x {plain, re-orthogonalised} CG on batches of real training.

Policies: those of scripts/collect_batches.py, early and late, and the late one with all standard deviations lowered to 1e-3
("small sigma": where float32 hurts). Batches: 2,048 samples each, collected as in training (VecNormalize goes on learning),
3 seeds. Damping: the Zoo's, and 10 and 100 times less. The linear system is the one that TRPO.train solves. All that is
reported of a solution is evaluated in float64: the quadratic model's gain gᵀx - xᵀ(F + lambda I)x/2, as a share of what
float64 re-orthogonalised CG reaches in as many iterations; the relative residual; and for the scaled step, on the parameters
as deployed and without backtracking, the KL as a share of its bound and the surrogate's improvement.

    python scripts/collect_batches.py && python scripts/compare_precision.py
    python scripts/compare_precision.py --timings          # milliseconds of a solve: on a machine that does nothing else

Written: results/precision.csv, results/precision_timings.csv, and from both docs/precision.md with its figure.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from collect_batches import FOLDER, STAGES, STEPS, Checkpoint
from evidence.provenance import REPO, provenance
from evidence.store import write_whole
from precision_tables import RE_ORTHOGONALISED, REFERENCE, SOLVERS, TIMINGS, VALUES, Row
from real_batches import PolicyStep, batch_of
from report_precision import report
from rich.console import Console

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.core.cg import CGResult
from sb3_trpo_ext.core.step_scale import StepScale

ITERATIONS = (10, 25)
LESS_DAMPING = (1, 10, 100)
SEEDS = (1, 2, 3)  # 0 trained the policies
SMALL_SIGMA = 1e-3


def policies(folder: Path, tasks: list[str]) -> Iterator[tuple[str, Checkpoint, float | None]]:
    """
    List the policies.

    :param folder: of ``collect_batches``
    :param tasks: environment ids
    :yields: name of the policy, where it is, its standard deviation if changed
    """
    for task in tasks:
        for stage in STAGES:
            yield stage, Checkpoint(folder, task, stage), None
        yield "small sigma", Checkpoint(folder, task, "late"), SMALL_SIGMA


def describe(checkpoint: Checkpoint, policy: str) -> Row:
    """
    Say where a row comes from.

    :param checkpoint: the policy
    :param policy: its name
    :return: columns
    """
    about, here = json.loads(checkpoint.path("json").read_text()), provenance()
    source = {name: here[name] for name in ("commit", "dirty", "torch", "machine")}
    kept = {name: about[name] for name in ("steps", "config_hash")}
    return {"task": checkpoint.task, "policy": policy, **kept, "numerics_version": NUMERICS_VERSION, **source}


def solve(step: PolicyStep, solver: tuple[str, str], iterations: int, damping: float) -> tuple[CGResult, StepScale | None]:
    """
    Solve once.

    :param step: the policy step
    :param solver: of ``SOLVERS``
    :param iterations: of CG
    :param damping: lambda
    :return: the solve, and how far the step goes
    """
    precision, recurrence = solver
    return step.solve(precision, iterations if recurrence == RE_ORTHOGONALISED else 0, iterations, damping)


def judge(step: PolicyStep, found: CGResult, scale: StepScale | None, best: torch.Tensor, damping: float) -> Row:
    """
    Evaluate a solution in float64.

    :param step: the policy step
    :param found: the solve
    :param scale: how far the step goes
    :param best: the reference's solution
    :param damping: lambda
    :return: columns
    """
    x = found.solution.double()
    gain, best_gain, models = step.gain(x, damping), step.gain(best, damping), found.model_history
    row: Row = {
        "status": found.status.value,
        "iterations_done": found.iterations,
        "gain": gain,
        "gain_lost": 1.0 - gain / best_gain if best_gain > 0.0 else math.nan,
        "last_iteration_added": 1.0 - models[-2] / models[-1] if len(models) > 1 and models[-1] else None,
        "residual": float((step.g - step.exact_product(x, damping)).norm() / step.g.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(x, best, dim=0)),
    }
    if scale is None:
        return row
    after = step.judge(scale.scale * x)
    share = after.kl / step.settings.max_kl
    return {**row, "kl_joint": after.kl_joint, "kl_share": share, "improvement": after.improvement}


def measure(step: PolicyStep, zoo_damping: float) -> Iterator[Row]:
    """
    Run all solvers on one batch.

    :param step: its policy step
    :param zoo_damping: the configured damping
    :yields: a row a solver, number of iterations and damping
    """
    for less in LESS_DAMPING:
        damping = zoo_damping / less
        for iterations in ITERATIONS:
            solves = {solver: solve(step, solver, iterations, damping) for solver in SOLVERS}
            best = solves[REFERENCE][0].solution
            for (precision, recurrence), (found, scale) in solves.items():
                row: Row = {"damping": damping, "less_damping": less, "iterations": iterations}
                row |= {"precision": precision, "recurrence": recurrence}
                yield {**row, **judge(step, found, scale, best, damping)}


def measure_all(args: argparse.Namespace, console: Console) -> list[Row]:
    """
    Measure what solutions are worth.

    :param args: the command line
    :param console: where to say how far it is
    :return: rows
    """
    rows: list[Row] = []
    for policy, checkpoint, sigma in policies(args.folder, args.tasks):
        for seed in args.seeds:
            step, model = batch_of(checkpoint, sigma, seed)
            about = {**describe(checkpoint, policy), "seed": seed, "samples": len(step.surrogate.advantages)}
            about["std"] = float(model.policy.log_std.detach().exp().mean()) if hasattr(model.policy, "log_std") else None
            rows += [{**about, **row} for row in measure(step, float(model.cg_damping))]
            console.print(f"{checkpoint.task} {policy}, seed {seed}: {len(rows)} rows")
    return rows


def time_all(args: argparse.Namespace, console: Console) -> list[Row]:
    """
    Time solvers in turn, on one batch of each late policy: graphs, iterations and verification.

    :param args: the command line
    :param console: where to say how far it is
    :return: rows
    """
    rows: list[Row] = []
    for policy, checkpoint, sigma in policies(args.folder, args.tasks):
        if policy != "late":
            continue
        step, model = batch_of(checkpoint, sigma, args.seeds[0])
        for iterations in ITERATIONS:
            seconds: dict[tuple[str, str], list[float]] = {solver: [] for solver in SOLVERS}
            for repetition in range(args.repetitions + 1):
                for solver in SOLVERS:
                    start = time.perf_counter()
                    solve(step, solver, iterations, float(model.cg_damping))
                    if repetition > 0:  # the first warms up
                        seconds[solver].append(time.perf_counter() - start)
            for (precision, recurrence), taken in seconds.items():
                low, median, high = (1e3 * value for value in statistics.quantiles(taken, n=4))
                row = {"iterations": iterations, "precision": precision, "recurrence": recurrence}
                times = {"median_ms": median, "low_ms": low, "high_ms": high, "repetitions": len(taken)}
                rows.append({**describe(checkpoint, policy), **row, **times})
        console.print(f"{checkpoint.task} timed")
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """
    Write a CSV.

    :param path: the file
    :param rows: of one kind
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list({name: None for row in rows for name in row}), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_whole(path, text.getvalue())


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(STEPS), metavar="ID", help=f"default: {' '.join(STEPS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="of the batches")
    parser.add_argument("--timings", action="store_true", help="measure time, and nothing else")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the page again")
    parser.add_argument("--repetitions", type=int, default=7, help="of each timing (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the policies (default: .cache/batches)")
    parser.add_argument("--results", type=Path, default=REPO / "results", help="default: results/")
    parser.add_argument("--docs", type=Path, default=REPO / "docs", help="default: docs/")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """
    Measure, then write the page.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args, console = parse_arguments(argv), Console()
    missing = [c.path("json") for _, c, _ in policies(args.folder, args.tasks) if not c.finished and not args.report]
    if missing:
        sys.exit(f"compare_precision: {missing[0].name} is missing: python scripts/collect_batches.py makes it")
    torch.set_num_threads(1)
    if args.timings:
        write_rows(args.results / TIMINGS, time_all(args, console))
    elif not args.report:
        write_rows(args.results / VALUES, measure_all(args, console))
    if (args.results / VALUES).exists():
        console.print(report(args.results, args.docs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
