"""
Train and evaluate: tasks × seeds × implementations, each finished run kept in results/ and never repeated.

    python scripts/evaluate_configs.py --tasks Hopper-v5 --seeds 0 1 2 --steps 300000
    python scripts/evaluate_configs.py --implementations contrib-zoo --tasks HalfCheetah-v5 Hopper-v5 --seeds 0 1 2 3 4

ours          our TRPO with zoo_configs/trpo.yml (or --config), changed by --set
ours-plain-cg the same, but its CG re-orthogonalises nothing
contrib-ours  sb3-contrib's TRPO with the same settings, converted to its units (convert-config)
contrib-zoo   sb3-contrib's TRPO with the RL Zoo's settings; its MuJoCo entries (-v4) are copied to -v5
ppo-zoo       SB3's PPO with the RL Zoo's settings, likewise copied

It may be killed at any moment: the same command goes on, and starts only what was unfinished, those runs from their
beginning. The score of the random policy on each task is measured too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from evidence import configurations
from evidence.configurations import BadInput, make_run, parse_overrides
from evidence.display import ProgressDisplay
from evidence.provenance import REPO
from evidence.runner import Runner
from evidence.runs import IMPLEMENTATIONS, OURS, PLAIN_CG, RANDOM, Run
from evidence.store import Store
from rich.console import Console

RESULTS = REPO / "results"
WORK = REPO / ".cache" / "evidence"
OUR_SETTINGS = (OURS, PLAIN_CG, "contrib-ours")
"""Implementations that read our YAML."""


def add_machinery(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments that every script with runs has.

    :param parser: its parser
    """
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs (default: results/)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for unfinished runs (default: .cache/evidence/)")
    parser.add_argument("--dry-run", action="store_true", help="only say what is finished and what would run")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True, metavar="ID", help="environment ids")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 to 4")
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=["ours", "contrib-zoo"])
    parser.add_argument("--steps", type=int, help="environment steps (default: n_timesteps of the settings)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="change our settings")
    parser.add_argument("--config", type=Path, metavar="FILE.yml", help="our settings (default: zoo_configs/trpo.yml)")
    add_machinery(parser)
    return parser.parse_args(argv)


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


def plan(args: argparse.Namespace, console: Console) -> list[Run]:
    """
    List the runs that are wanted, seed by seed, so that an early look sees every task.

    :param args: the command line
    :param console: where to say what is left out
    :return: runs, each once
    :raises BadInput: if one can't be made
    """
    check_numbers(args)
    overrides = parse_overrides(args.overrides)
    if (overrides or args.config) and not set(OUR_SETTINGS) & set(args.implementations):
        raise BadInput(f"--set and --config change our settings: add {' or '.join(OUR_SETTINGS)} to --implementations")
    runs: dict[str, Run] = {}
    for task in args.tasks:
        add(runs, random_run(task))
    for seed in args.seeds:
        for task in args.tasks:
            for implementation in args.implementations:
                run = make_run(implementation, task, seed, steps_of(args, implementation, task), overrides, args.config)
                add(runs, run)
                if run is None and seed == args.seeds[0]:
                    console.print(f"{implementation}: the Zoo has no settings for {task}: left out", highlight=False)
    if all(run.implementation == RANDOM for run in runs.values()):
        raise BadInput("nothing to train: the Zoo has no settings for these tasks")
    return list(runs.values())


def steps_of(args: argparse.Namespace, implementation: str, task: str) -> int:
    """
    Choose how long to train: as asked for, else as our settings say, in every implementation.

    :param args: the command line
    :param implementation: whose run
    :param task: environment id
    :return: environment steps
    :raises BadInput: if our settings don't say
    """
    if args.steps is not None:
        return int(args.steps)
    entry, source = configurations.our_entry(task, args.config)
    if "n_timesteps" not in entry:
        raise BadInput(f"{source} has no n_timesteps: add --steps")
    return int(entry["n_timesteps"])


def random_run(task: str) -> Run:
    """
    Make the evaluation of the random policy.

    :param task: environment id
    :return: the run
    :raises BadInput: if the environment can't be made
    """
    configurations.check_task(task)
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


def main(argv: list[str] | None = None) -> int:
    """
    Plan and do.

    :param argv: arguments; None for the process's own
    :return: exit code; 1 if a run failed
    """
    args = parse_arguments(argv)
    console = Console()

    def body() -> int:
        failed = carry_out(plan(args, console), args, console)
        if failed:
            console.print(f"{len(failed)} failed (results/failures.csv); the same command tries them again", style="red")
        return 1 if failed else 0

    return guarded("evaluate_configs", body)


if __name__ == "__main__":
    sys.exit(main())
