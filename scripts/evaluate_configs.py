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
from pathlib import Path

from evidence.command_line import add, add_machinery, add_runs, carry_out, check_numbers, guarded, random_run
from evidence.configurations import BadInput, make_run, our_entry, parse_overrides
from evidence.runs import IMPLEMENTATIONS, OURS, PLAIN_CG, RANDOM, Run
from rich.console import Console

OUR_SETTINGS = (OURS, PLAIN_CG, "contrib-ours")
"""Implementations that read our YAML."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=["ours", "contrib-zoo"])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="change our settings")
    parser.add_argument("--config", type=Path, metavar="FILE.yml", help="our settings (default: zoo_configs/trpo.yml)")
    add_machinery(parser)
    return parser.parse_args(argv)


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
    entry, source = our_entry(task, args.config)
    if "n_timesteps" not in entry:
        raise BadInput(f"{source} has no n_timesteps: add --steps")
    return int(entry["n_timesteps"])


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
