"""
Time whole trainings: ours, sb3-contrib's TRPO and SB3's PPO take turns in one process, each as the RL Zoo runs it.

Ours runs as `python -m sb3_trpo_ext train` does, in our wrappers, with our YAML; the others as `rl_zoo3.train` does, with the
Zoo's settings (the number of environments is the cell's). The numbers are medians of ratios to sb3-contrib in the same
repetition; the split is measured in repetitions of its own, since its clocks cost time. Stop background work first.

    python scripts/benchmark_training.py                                  # HalfCheetah-v5, 2 environments
    python scripts/benchmark_training.py --cell Hopper-v5:2 Ant-v5:2 CartPole-v1:2 HalfCheetah-v5:8 --write
    python scripts/benchmark_training.py --page                           # docs/benchmarks.md again, from the CSVs
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks import page, training_page, whole_page
from benchmarks.measure import row
from benchmarks.trainings import CONTRIB, IMPLEMENTATIONS, OURS, OURS_IN_SB3S, PARTS, PPO, BareSimulator, Training, alternate
from evidence.configurations import BadInput
from evidence.provenance import REPO
from rich.console import Console

CSV = REPO / "results" / training_page.TRAINING_CSV
WARM_UP = 1
"""Untimed repetitions: the ladder is climbed, pools are filled, running statistics exist."""


def parse_cell(text: str) -> tuple[str, int]:
    """
    Read a cell.

    :param text: environment id and number of environments, ``ID:N``
    :return: both
    """
    task, _, n_envs = text.partition(":")
    if not n_envs.isdigit() or int(n_envs) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a cell is ID:N, for example HalfCheetah-v5:2")
    return task, int(n_envs)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", nargs="+", type=parse_cell, default=[("HalfCheetah-v5", 2)], metavar="ID:N")
    parser.add_argument(
        "--sides", nargs="+", choices=[OURS, OURS_IN_SB3S, PPO], default=[OURS, OURS_IN_SB3S, PPO], help="beside sb3-contrib"
    )
    parser.add_argument("--repetitions", type=int, default=7, metavar="K", help="(default: %(default)s)")
    parser.add_argument("--split-repetitions", type=int, default=3, metavar="K", help="(default: %(default)s)")
    parser.add_argument("--updates", type=int, default=2, metavar="K", help="updates in a repetition (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"add the rows to {CSV.name} and write docs/benchmarks.md")
    parser.add_argument("--page", action="store_true", help="measure nothing: write docs/benchmarks.md from the CSVs")
    return parser.parse_args(argv)


def make_sides(task: str, n_envs: int, names: list[str], folder: Path) -> list[Training]:
    """
    Make every side of a cell.

    :param task: environment id
    :param n_envs: environments
    :param names: sides beside sb3-contrib
    :param folder: where the trainings may write
    :return: the sides, sb3-contrib first
    :raises BadInput: if there is no such task
    :raises LookupError: if the Zoo has no settings for it
    """
    return [Training(name, task, n_envs, folder / name) for name in IMPLEMENTATIONS if name in (CONTRIB, *names)]


def measure_cell(task: str, n_envs: int, sides: list[Training], args: argparse.Namespace) -> list[dict[str, object]]:
    """
    Measure a cell.

    :param task: environment id
    :param n_envs: environments
    :param sides: sb3-contrib first
    :param args: the command line
    :return: rows
    """
    steps = args.updates * sides[0].steps_per_update
    simulator = BareSimulator(task, n_envs)
    alternate([*sides, simulator], steps, WARM_UP, lambda side, steps: side.train(steps))
    whole = alternate([*sides, simulator], steps, args.repetitions, lambda side, steps: side.train(steps))
    split = alternate(sides, steps, args.split_repetitions, lambda side, steps: side.split(steps))
    rows = []
    for found, parts in ((whole, whole[CONTRIB][0]), (split, PARTS)):
        for part in parts:
            base = [each[part] for each in found[CONTRIB]]
            for name, measured in found.items():
                values = [each[part] for each in measured if each.get(part)]
                if values and all(base):
                    rows.append(row(part, name, values, base, "us"))
                elif values:
                    rows.append(
                        {**row(part, name, values, values, "us"), "ratio": None, "ratio_low": None, "ratio_high": None}
                    )
    return [{"task": task, "n_envs": n_envs, **each} for each in rows]


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parse_arguments(argv)
    console = Console(highlight=False)
    if args.page:
        whole_page.write()
        return 0
    torch.set_num_threads(1)
    source = page.origin(shlex.join(["python", "scripts/benchmark_training.py", *(sys.argv[1:] if argv is None else argv)]))
    measured: list[dict[str, str]] = []
    for task, n_envs in args.cell:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                sides = make_sides(task, n_envs, args.sides, Path(folder))
            except (BadInput, LookupError) as error:
                print(f"benchmark_training: {error}", file=sys.stderr)
                return 2
            rows = measure_cell(task, n_envs, sides, args)
        cells = training_page.as_cells(rows, source)
        console.print(training_page.screen_table(cells, CONTRIB))
        measured += cells
        if args.write:
            training_page.add(CSV, cells)
    for line in training_page.verdict_lines(measured):
        console.print(line, markup=False)
    if args.write:
        whole_page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
