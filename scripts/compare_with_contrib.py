"""
Drop-in equivalence: at equal settings, do ours and sb3-contrib's learn alike?

Ours with adaptive_damping=False, max_critic_updates=n_critic_updates, cg_rtol=0 and a constant target_kl, against sb3-contrib
with the same settings (convert-config), by default on CartPole-v1 (50k steps), Pendulum-v1 (100k) and Hopper-v5 (200k), 5
seeds each. Compared is the area under the learning curve divided by its length, in returns: of training episodes (all of
them: least noise), or with `--curve evaluation` of deterministic ones. A task passes if the 95 % interval of the difference
(bootstrap over pairs of equal seeds) contains 0 and is no wider than 30 % of the absolute value of sb3-contrib's mean
(Pendulum's is negative).
TASK@DAMPING is the task with another cg_damping on both sides, in the unit of our YAML. At the Zoo's 0.001 on CartPole,
sb3-contrib's float32 solver and ours give different steps; at 0.1, its default, they solve the same system.

    python scripts/compare_with_contrib.py
    python scripts/compare_with_contrib.py --tasks Hopper-v5 --seeds 0 1 2 3 4 5 6 7 8 9

Finished runs are kept in results/ and never repeated. Needs the extra `bench` (rliable, matplotlib, pandas < 3).
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from evidence.command_line import add, add_machinery, carry_out, check_numbers, guarded, random_run
from evidence.configurations import BadInput, Entry, equivalence_overrides, make_run
from evidence.provenance import REPO
from evidence.runs import Run
from evidence.store import write_whole
from rich.console import Console
from rich.table import Table

try:
    import numpy as np
    from evidence import figures, metrics, scores, tables
except ImportError as error:
    sys.exit(f"compare_with_contrib: {error}: pip install -e '.[bench]' brings what reports need")

STEPS = {"CartPole-v1": 50_000, "Pendulum-v1": 100_000, "Hopper-v5": 200_000}
CASES = ("CartPole-v1@0.001", "CartPole-v1@0.1", "Pendulum-v1", "Hopper-v5")
WIDEST = 0.3
PAIR = ("contrib-ours", "ours")
NAMES = {"contrib-ours": "sb3-contrib", "ours": "sb3_trpo_ext, same settings"}
COLUMNS = {"training": "training_return", "evaluation": "return_mean"}


@dataclass(frozen=True)
class Verdict:
    """
    The comparison on one task.

    :param task: environment id, and the damping if it is another
    :param n_seeds: pairs of runs
    :param contrib: sb3-contrib's mean area
    :param ours: our mean area
    :param difference: ours - sb3-contrib's, with its interval
    """

    task: str
    n_seeds: int
    contrib: float
    ours: float
    difference: metrics.Interval

    @property
    def width(self) -> float:
        """Width of the interval as a share of the absolute value of sb3-contrib's mean."""
        return (self.difference[2] - self.difference[1]) / abs(self.contrib)

    @property
    def reason(self) -> str | None:
        """Why it does not pass; None if it does."""
        if not self.difference[1] <= 0.0 <= self.difference[2]:
            return "differs"
        return None if self.width <= WIDEST else "too wide: more seeds"

    def cells(self) -> list[str]:
        """Texts for a table."""
        estimate = tables.with_interval(self.difference, self.n_seeds)
        areas = [tables.number(value, 4) for value in (self.contrib, self.ours)]
        return [self.task, str(self.n_seeds), *areas, estimate, tables.percent(self.width), self.reason or "passes"]


TITLES = ["task", "seeds", "sb3-contrib", "ours", "difference [95 %]", "width / mean", "verdict"]


def compare(task: str, contrib: metrics.Array, ours: metrics.Array) -> Verdict:
    """
    Compare areas that are paired by seed.

    :param task: environment id, and the damping if it is another
    :param contrib: sb3-contrib's, shape (n_seeds,)
    :param ours: ours, in the same order of seeds
    :return: the verdict
    """
    difference = metrics.mean_interval((ours - contrib)[:, None])
    return Verdict(task, len(ours), float(contrib.mean()), float(ours.mean()), difference)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=CASES, metavar="ID[@DAMPING]", help=f"default: {' '.join(CASES)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 to 4")
    parser.add_argument("--steps", type=int, help="environment steps (default: 50k, 100k, 200k; other tasks need it)")
    parser.add_argument("--curve", choices=sorted(COLUMNS), default="training", help="default: %(default)s")
    parser.add_argument("--docs", type=Path, default=REPO / "docs", help="where to write (default: docs/)")
    add_machinery(parser)
    return parser.parse_args(argv)


def read_case(case: str) -> tuple[str, Entry]:
    """
    Read ``TASK`` or ``TASK@DAMPING``.

    :param case: what was typed
    :return: environment id, and the overrides of our settings
    :raises BadInput: if there is no such task, or the damping is no number >= 0
    """
    task, at, damping = case.partition("@")
    changes = equivalence_overrides(task)
    if at:
        try:
            changes["cg_damping"] = float(damping)
        except ValueError:
            changes["cg_damping"] = math.nan
        if not 0.0 <= changes["cg_damping"] < math.inf:
            raise BadInput(f"{case}: after @ stands a damping, a number >= 0, not {damping!r}")
    return task, changes


def plan(args: argparse.Namespace) -> dict[str, dict[str, list[Run]]]:
    """
    List the runs that are wanted.

    :param args: the command line
    :return: case to implementation to runs, in the order of the seeds
    :raises BadInput: if one can't be made
    """
    check_numbers(args)
    if len(set(args.seeds)) < 2:
        raise BadInput("--seeds: an interval needs at least two")
    wanted: dict[str, dict[str, list[Run]]] = {}
    for case in args.tasks:
        task, changes = read_case(case)
        steps = args.steps or STEPS.get(task)
        if steps is None:
            raise BadInput(f"{task}: add --steps")
        made = {name: [make_run(name, task, seed, steps, changes) for seed in sorted(set(args.seeds))] for name in PAIR}
        wanted[case] = {name: [run for run in runs if run is not None] for name, runs in made.items()}
    return wanted


def curves_of(runs: list[Run], folder: Path, column: str) -> tuple[metrics.Array, metrics.Array]:
    """
    Read the curves of finished runs.

    :param runs: of one task and implementation
    :param folder: of results
    :param column: of ``curves.csv``
    :return: steps, shape (n_points,), and returns, shape (n_runs, n_points)
    """
    rows = scores.read_table(folder, "curves")
    rows = rows[rows.run.isin([run.id for run in runs])]
    table = rows.pivot_table(index="run", columns="steps", values=column, dropna=False).loc[[run.id for run in runs]]
    return table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)


def report(wanted: dict[str, dict[str, list[Run]]], args: argparse.Namespace, command: str, console: Console) -> bool:
    """
    Compare, print, draw and write.

    :param wanted: from ``plan``, all finished
    :param args: the command line
    :param command: how to make it again
    :param console: where to print
    :return: whether every task passes
    """
    verdicts, panels = [], {}
    for task, runs in wanted.items():
        curves = {name: curves_of(runs[name], args.results, COLUMNS[args.curve]) for name in PAIR}
        areas = {n: np.array([metrics.mean_height(steps, row) for row in rows]) for n, (steps, rows) in curves.items()}
        verdicts.append(compare(task, areas[PAIR[0]], areas[PAIR[1]]))
        panels[f"{task} ({verdicts[-1].n_seeds} seeds)"] = {NAMES[name]: curve for name, curve in curves.items()}
    table = Table(*TITLES, title=f"mean {args.curve} return during training")
    for verdict in verdicts:
        table.add_row(*verdict.cells())
    console.print(table)
    note = f"Return of {args.curve} episodes; thin: seeds, bold: their mean.\n{command}"
    figures.seeds_figure(args.docs / "figures" / "equivalence", panels, ("environment steps", "return"), note)
    failed = [f"{verdict.task}: {verdict.reason}" for verdict in verdicts if verdict.reason]
    page = ["# Equivalence with sb3-contrib", f"Written by `{command}`: do not edit.", (__doc__ or "").split("\n\n")[1]]
    page += [
        tables.table(TITLES, [verdict.cells() for verdict in verdicts]),
        "Not passed: " + "; ".join(failed) if failed else "",
    ]
    page.append("![learning curves of both at equal settings](figures/equivalence.svg)")
    write_whole(args.docs / "equivalence.md", "\n\n".join(part for part in page if part) + "\n")
    return not failed


def main(argv: list[str] | None = None) -> int:
    """
    Do the runs, then compare.

    :param argv: arguments; None for the process's own
    :return: exit code; 1 if a run failed or a task does not pass
    """
    args = parse_arguments(argv)
    console = Console()

    def body() -> int:
        wanted = plan(args)
        runs: dict[str, Run] = {}
        for case in args.tasks:
            add(runs, random_run(read_case(case)[0]))
        for group in zip(*(run for task in wanted.values() for run in task.values()), strict=True):
            for run in group:
                add(runs, run)
        if carry_out(list(runs.values()), args, console):
            console.print("runs failed (results/failures.csv); the same command tries them again", style="red")
            return 1
        command = shlex.join(["python", "scripts/compare_with_contrib.py", *(sys.argv[1:] if argv is None else argv)])
        return 0 if args.dry_run or report(wanted, args, command, console) else 1

    return guarded("compare_with_contrib", body)


if __name__ == "__main__":
    sys.exit(main())
