"""
Time what stands between a simulator and an algorithm: Monitor, DummyVecEnv, VecNormalize (SB3's and ours), and processes.

    python scripts/benchmark_environments.py                  # both tables, the cells below
    python scripts/benchmark_environments.py --write          # results/benchmark_environments.csv and docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmark_training import parse_cell
from benchmarks import page, training_page, whole_page
from benchmarks.environments import BARE, DUMMY, HEAVY, MONITOR, NORMALIZE, Stepped, process_sides, wrapper_sides
from benchmarks.measure import row
from benchmarks.trainings import alternate
from evidence.provenance import REPO
from rich.console import Console

CSV = REPO / "results" / training_page.ENVIRONMENTS_CSV
WRAPPED = [("HalfCheetah-v5", 2), ("HalfCheetah-v5", 8), ("CartPole-v1", 8)]
PROCESSES = [(task, n) for task in ("CartPole-v1", "HalfCheetah-v5", "Humanoid-v5", HEAVY) for n in (2, 8, 16)]
STEPS = {HEAVY: 64}
OTHER_STEPS = 4096
STEP = "step"
ADDED_TO = {MONITOR: BARE, DUMMY: MONITOR, f"Fast{DUMMY}": MONITOR, NORMALIZE: DUMMY, f"Fast{NORMALIZE}": DUMMY}
"""What a wrapper is added to; what it costs is the difference."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrappers", nargs="*", type=parse_cell, default=WRAPPED, metavar="ID:N")
    parser.add_argument("--processes", nargs="*", type=parse_cell, default=PROCESSES, metavar="ID:N")
    parser.add_argument("--few", type=int, default=os.cpu_count() or 2, metavar="K", help="processes (default: the cores)")
    parser.add_argument("--repetitions", type=int, default=7, metavar="K", help="(default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"add the rows to {CSV.name} and write docs/benchmarks.md")
    return parser.parse_args(argv)


def measure(sides: list[Stepped], task: str, repetitions: int) -> dict[str, list[float]]:
    """
    Step all sides in turn.

    :param sides: the sides
    :param task: environment id
    :param repetitions: timed ones of each
    :return: by name: microseconds an environment step, one a repetition
    """
    steps = STEPS.get(task, OTHER_STEPS)
    try:
        run: Callable[[Any, int], Any] = lambda side, steps: side.train(steps)  # noqa: E731
        alternate(sides, steps, 1, run)
        found = alternate(sides, steps, repetitions, run)
    finally:
        for side in sides:
            side.close()
    return {name: [each[STEP] for each in values] for name, values in found.items()}


def wrapper_rows(task: str, n_envs: int, repetitions: int) -> list[dict[str, Any]]:
    """
    Measure what each wrapper adds.

    :param task: environment id
    :param n_envs: environments
    :param repetitions: timed ones
    :return: rows; ratios of ours are to SB3's
    """
    found = measure(wrapper_sides(task, n_envs), task, repetitions)
    rows = [row("wrapper adds", BARE, found[BARE], found[BARE], "us")]
    added = {name: _difference(found[name], found[base]) for name, base in ADDED_TO.items()}
    for name, values in added.items():
        rows.append(row("wrapper adds", name, values, added[name.removeprefix("Fast")], "us"))
    return [{"task": task, "n_envs": n_envs, **each} for each in rows]


def _difference(values: list[float], base: list[float]) -> list[float]:
    """Against the base's median: a difference within one repetition would be mostly noise, and sometimes negative."""
    middle = statistics.median(base)
    return [value - middle for value in values]


def process_rows(task: str, n_envs: int, few: int, repetitions: int) -> list[dict[str, Any]]:
    """
    Measure processes.

    :param task: environment id
    :param n_envs: environments
    :param few: processes of the grouped side
    :param repetitions: timed ones
    :return: rows; ratios are to SB3's DummyVecEnv
    """
    found = measure(process_sides(task, n_envs, few), task, repetitions)
    rows = [row("processes", name, values, found[DUMMY], "us") for name, values in found.items()]
    return [{"task": task, "n_envs": n_envs, **each} for each in rows]


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parse_arguments(argv)
    command = shlex.join(["python", "scripts/benchmark_environments.py", *(sys.argv[1:] if argv is None else argv)])
    source, console = page.origin(command), Console(highlight=False)
    jobs: list[tuple[Callable[..., list[dict[str, Any]]], tuple[Any, ...]]] = [
        *((wrapper_rows, (task, n_envs)) for task, n_envs in args.wrappers),
        *((process_rows, (task, n_envs, args.few)) for task, n_envs in args.processes),
    ]
    for measured, where in jobs:
        cells = training_page.as_cells(measured(*where, args.repetitions), source)
        console.print(training_page.screen_table(cells, "SB3"))
        if args.write:
            training_page.add(CSV, cells)
    if args.write:
        whole_page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
