"""
What does each part of the hardening buy? Trainings as shipped, and with one part taken away or put in, at equal seeds.

    python scripts/ablation.py --tasks HalfCheetah-v5 Hopper-v5 Walker2d-v5       # trains what is missing, writes a page
    python scripts/ablation.py --tasks Hopper-v5 --steps 300000 --variants fixed-damping float32

Differences are paired by seed: variant - shipped, normalised so that the random policy is 0 and what is shipped 1, with a 95 %
bootstrap interval. An interval that contains 0 means that so many runs can't tell: such a part is said to buy nothing here.
Finished runs are kept in results/ and never repeated. Needs the extra `bench` (rliable, pandas < 3).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from evidence.command_line import add, add_machinery, add_runs, carry_out, check_numbers, guarded, random_run
from evidence.configurations import BadInput, make_run, our_entry
from evidence.provenance import REPO
from evidence.runs import RANDOM, Run
from evidence.store import write_whole
from evidence.variants import NAMES, SHIPPED, variants_of
from rich.console import Console

try:
    import numpy as np
    import pandas as pd
    from evidence import metrics, scores, tables
except ImportError as error:
    sys.exit(f"ablation: {error}: pip install -e '.[bench]' brings what reports need")

Wanted = dict[str, dict[str, list[Run]]]
"""Task to variant to runs, in the order of the seeds."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--variants", nargs="+", choices=NAMES[1:], default=NAMES[1:], help="default: all")
    parser.add_argument("--docs", type=Path, default=REPO / "docs", help="where to write (default: docs/)")
    add_machinery(parser)
    return parser.parse_args(argv)


def plan(args: argparse.Namespace) -> Wanted:
    """
    List the runs that are wanted.

    :param args: the command line
    :return: task to variant to runs, in the order of the seeds
    :raises BadInput: if one can't be made
    """
    check_numbers(args)
    seeds = sorted(set(args.seeds))
    if len(seeds) < 2:
        raise BadInput("--seeds: an interval needs at least two")
    wanted: Wanted = {}
    for task in args.tasks:
        entry, _ = our_entry(task)
        steps = args.steps or int(entry["n_timesteps"])
        chosen = {name: each for name, each in variants_of(entry).items() if name in (SHIPPED, *args.variants)}
        wanted[task] = {
            name: [_made(make_run(each.implementation, task, seed, steps, each.overrides)) for seed in seeds]
            for name, each in chosen.items()
        }
    return wanted


def _made(run: Run | None) -> Run:
    assert run is not None, "our settings have every task"
    return run


def in_turn(wanted: Wanted) -> list[Run]:
    """
    Order the runs so that an early look sees every variant of every task.

    :param wanted: from ``plan``
    :return: runs of the random policy, then seed by seed, each once
    """
    runs: dict[str, Run] = {}
    for task in wanted:
        add(runs, random_run(task))
    for group in zip(*(each for task in wanted.values() for each in task.values()), strict=True):
        for run in group:
            add(runs, run)
    return list(runs.values())


@dataclass(frozen=True)
class Measured:
    """
    The finished runs of a variant.

    :param returns: final scores, task to array in the order of the seeds
    :param cpu: seconds of CPU time, the same
    """

    returns: dict[str, metrics.Array]
    cpu: dict[str, metrics.Array]


def measured(wanted: Wanted, folder: Path) -> dict[str, Measured]:
    """
    Read what has been trained.

    :param wanted: from ``plan``, all finished
    :param folder: of results
    :return: by variant
    """
    rows = scores.read_table(folder, "runs").set_index("run")
    names = next(iter(wanted.values()))

    def column(name: str, of: str) -> dict[str, metrics.Array]:
        return {task: rows.loc[[run.id for run in runs[name]], of].to_numpy(dtype=float) for task, runs in wanted.items()}

    return {name: Measured(column(name, "return_mean"), column(name, "cpu_seconds")) for name in names}


def random_returns(rows: pd.DataFrame, tasks: list[str]) -> dict[str, float]:
    """
    Look up the zero of the scale.

    :param rows: of ``runs.csv``
    :param tasks: environment ids
    :return: mean return of the random policy on each
    """
    chosen = rows[rows.implementation == RANDOM].groupby("task").return_mean.mean()
    return {task: float(chosen[task]) for task in tasks}


def differences(variant: Measured, shipped: Measured, random: dict[str, float]) -> metrics.Array:
    """
    Compare, seed by seed.

    :param variant: what was changed
    :param shipped: what was not
    :param random: mean return of the random policy by task
    :return: normalised variant - shipped, shape (n_seeds, n_tasks)
    """
    columns = []
    for task, returns in variant.returns.items():
        scale = (random[task], float(shipped.returns[task].mean()))
        columns.append(metrics.normalise(returns, *scale) - metrics.normalise(shipped.returns[task], *scale))
    return np.stack(columns, axis=1)


def verdict(difference: metrics.Interval) -> str:
    """
    Say what a difference means.

    :param difference: estimate, lower and upper end
    :return: text
    """
    if difference[2] < 0.0:
        return "worse so"
    return "better so" if difference[1] > 0.0 else "no difference that these runs show"


def page_of(wanted: Wanted, found: dict[str, Measured], random: dict[str, float], command: str) -> str:
    """
    Write the page.

    :param wanted: from ``plan``
    :param found: from ``measured``
    :param random: mean return of the random policy by task
    :param command: how to make it again
    :return: Markdown
    """
    tasks, shipped = list(wanted), found[SHIPPED]
    n_seeds = len(next(iter(shipped.returns.values())))
    rows, per_task = [], []
    for name, one in found.items():
        what = variants_of(our_entry(tasks[0])[0])[name].what
        means = [f"{tables.number(one.returns[t].mean(), 4)} ± {tables.number(one.returns[t].std(ddof=1), 2)}" for t in tasks]
        per_task.append([name, *means])
        if name == SHIPPED:
            continue
        change = metrics.mean_interval(differences(one, shipped, random))
        time = np.concatenate(list(one.cpu.values())).sum() / np.concatenate(list(shipped.cpu.values())).sum()
        rows.append([name, what, tables.with_interval(change, n_seeds), verdict(change), f"{time:.2f}"])
    steps = {run.steps for runs in wanted.values() for run in runs[SHIPPED]}
    about = f"{', '.join(tasks)}; {n_seeds} seeds; {', '.join(f'{each:,}' for each in sorted(steps))} steps."
    parts = [
        "# What each part of the hardening buys",
        f"Written by `{command}`: do not edit.",
        about + " " + " ".join((__doc__ or "").split("\n\n")[2].split()),
        tables.table(["variant", "what is changed", "difference from shipped [95 %]", "verdict", "CPU time"], rows),
        "Final return, mean ± standard deviation of the seeds:",
        tables.table(["variant", *tasks], per_task),
        "What ordinary runs learn says nothing about the trouble that the hardening is for: for that see "
        "[debugging](debugging.md) and [resilience](resilience.md). CPU time: of all runs, against "
        "what is shipped, on a machine with other work.",
    ]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    """
    Do the runs, then compare.

    :param argv: arguments; None for the process's own
    :return: exit code; 1 if a run failed
    """
    args = parse_arguments(argv)
    console = Console()

    def body() -> int:
        wanted = plan(args)
        if carry_out(in_turn(wanted), args, console):
            console.print("runs failed (results/failures.csv); the same command tries them again", style="red")
            return 1
        if args.dry_run:
            return 0
        command = shlex.join(["python", "scripts/ablation.py", *(sys.argv[1:] if argv is None else argv)])
        random = random_returns(scores.read_table(args.results, "runs"), list(wanted))
        text = page_of(wanted, measured(wanted, args.results), random, command)
        write_whole(args.docs / "ablation.md", text)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return 0

    return guarded("ablation", body)


if __name__ == "__main__":
    sys.exit(main())
