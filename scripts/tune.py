"""
Tune zoo_configs/trpo.yml: search with short trainings, choose among the best with long ones, write the winner.

    python scripts/tune.py --tasks Hopper-v5 Walker2d-v5 --trials 150     # may be killed at any moment; the same goes on
    python scripts/tune.py --tasks Hopper-v5 Walker2d-v5 --status
    python scripts/tune.py --tasks Hopper-v5 Walker2d-v5 --export         # finished trials to results/tuning_trials.csv
    python scripts/tune.py --tasks Hopper-v5 --choose                     # best 5 and the current entry at full length

Seeds 100 to 102 are for trials, 200 to 202 for the choice, 0 to 4 for reports (scripts/evaluate_configs.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import optuna
from evidence.command_line import RESULTS, guarded
from evidence.configurations import BadInput, check_task, our_entry
from evidence.provenance import REPO
from rich.console import Console
from tuning.choose import choose
from tuning.search import Broken, search
from tuning.study import Tuning
from tuning.table import export, show_status

FOLDER = REPO / ".cache" / "tuning"
TRIAL_SEEDS = (100, 101, 102)
TRIAL_STEPS = 300_000


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True, metavar="ID", help="environment ids")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--status", action="store_true", help="show the studies")
    action.add_argument("--export", action="store_true", help="write finished trials to RESULTS/tuning_trials.csv")
    action.add_argument("--choose", action="store_true", help="train the best trials again, and write the winner's entry")
    parser.add_argument("--trials", type=int, default=150, help="finished trials a task shall have (default: %(default)s)")
    parser.add_argument("--steps", type=int, help=f"of a trial's trainings (default: {TRIAL_STEPS:,}, or n_timesteps if less)")
    parser.add_argument("--best", type=int, default=5, help="trials to choose from (default: %(default)s)")
    parser.add_argument(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --choose: the current entry changed, too",
    )
    parser.add_argument("--choose-steps", type=int, help="of the choice's trainings (default: n_timesteps of the entry)")
    parser.add_argument("--dry-run", action="store_true", help="with --choose: only say what would run")
    parser.add_argument("--jobs", type=int, default=1, help="with --choose: trainings at a time (default: %(default)s)")
    parser.add_argument("--config", type=Path, metavar="FILE.yml", help="our settings (default: zoo_configs/trpo.yml)")
    parser.add_argument("--storage", type=Path, default=FOLDER, help="folder of the journals (default: .cache/tuning/)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs (default: results/)")
    args = parser.parse_args(argv)
    for name in ("trials", "steps", "best", "choose_steps", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


def make_tuning(task: str, args: argparse.Namespace) -> Tuning:
    """
    Say what is searched for on a task.

    :param task: environment id
    :param args: the command line
    :return: the same for the same task, entry and steps
    :raises BadInput: if the task or its entry can't be used
    """
    check_task(task)
    entry, source = our_entry(task, args.config)
    if "n_timesteps" not in entry:
        raise BadInput(f"{source} has no n_timesteps")
    steps = args.steps or min(TRIAL_STEPS, int(entry["n_timesteps"]))
    tuning = Tuning(task, steps, TRIAL_SEEDS, entry, args.storage.absolute())
    _ = tuning.space  # an entry that lies in no space is bad input
    return tuning


def main(argv: list[str] | None = None) -> int:
    """
    Search, or what else was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code; 1 if trainings failed
    """
    args = parse_arguments(argv)
    console = Console()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def body() -> int:
        tunings = [make_tuning(task, args) for task in dict.fromkeys(args.tasks)]
        if args.status:
            show_status(tunings, console)
        elif args.export:
            console.print(export(tunings, args.results), highlight=False, soft_wrap=True)
        elif args.choose:
            return max(choose(tuning, args, console) for tuning in tunings)
        else:
            search(tunings, args.trials, console)
        return 0

    try:
        return guarded("tune", body)
    except Broken as error:
        print(f"tune: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
