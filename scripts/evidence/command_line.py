"""What the scripts with runs share: arguments, the runs that every comparison needs, doing what is not finished."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from evidence.configurations import BadInput, check_task
from evidence.display import ProgressDisplay
from evidence.provenance import REPO
from evidence.runner import Runner
from evidence.runs import RANDOM, Run
from evidence.store import Store

RESULTS = REPO / "results"
WORK = REPO / ".cache" / "evidence"


def add_runs(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments that say on what, how often and how long to train.

    :param parser: of the script
    """
    parser.add_argument("--tasks", nargs="+", required=True, metavar="ID", help="environment ids")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 to 4")
    parser.add_argument("--steps", type=int, help="environment steps (default: n_timesteps of the settings)")


def add_machinery(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments that every script with runs has.

    :param parser: its parser
    """
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs (default: results/)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for unfinished runs (default: .cache/evidence/)")
    parser.add_argument("--dry-run", action="store_true", help="only say what is finished and what would run")


def check_numbers(args: argparse.Namespace) -> None:
    """
    Refuse numbers that can't be meant.

    :param args: the command line
    :raises BadInput: naming the argument
    """
    if args.jobs < 1:
        raise BadInput(f"--jobs must be at least 1, not {args.jobs}")
    if min(args.seeds) < 0:
        raise BadInput(f"--seeds must not be negative: {min(args.seeds)}")
    if args.steps is not None and args.steps < 1:
        raise BadInput(f"--steps must be at least 1, not {args.steps}")


def random_run(task: str) -> Run:
    """
    Make the evaluation of the random policy.

    :param task: environment id
    :return: the run
    :raises BadInput: if the environment can't be made
    """
    check_task(task)
    return Run(task, 0, RANDOM, 0)


def add(runs: dict[str, Run], run: Run | None) -> None:
    """
    Add a run that is not there yet.

    :param runs: runs by id
    :param run: one more, or None
    """
    if run is not None:
        runs.setdefault(run.id, run)


def carry_out(runs: list[Run], args: argparse.Namespace, console: Console) -> list[Run]:
    """
    Do what is not finished.

    :param runs: what is wanted
    :param args: the command line (``add_machinery``)
    :param console: where to show it
    :return: runs that failed; with ``--dry-run``, none
    """
    store = Store(args.results, args.work)
    finished = store.finished()
    missing = [run for run in runs if run.id not in finished]
    console.print(f"{len(runs)} runs: {len(runs) - len(missing)} finished, {len(missing)} to do", highlight=False)
    if args.dry_run:
        for run in missing:
            console.print(f"  {run.title}  ({run.source or 'no settings'})", markup=False, highlight=False, soft_wrap=True)
        return []
    with ProgressDisplay(missing, store, console) as display:
        return Runner(store, args.jobs, display).do(missing)


def guarded(name: str, body: Callable[[], int]) -> int:
    """
    Run a script's body; a bad command line is one line.

    :param name: of the script
    :param body: gives the exit code
    :return: exit code: 2 for bad input, 130 after Ctrl-C
    """
    try:
        return body()
    except BadInput as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        return 130
