"""
Choose: the best trials and the current entry, trained at full length on seeds of their own; the winner is written.

What is best after 300,000 steps need not be after a million, and the best of many noisy trials is in part the luckiest: both
are why the choice has trainings of its own. They are done by the Evidence runner, kept in ``results/tuning/``, and never done
twice. The reported seeds, 0 to 4, take no part.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from evidence.command_line import WORK, carry_out
from evidence.configurations import BadInput, Entry, parse_overrides, refuse_unknown, show_overrides
from evidence.runs import CURVE_POINTS, Run
from evidence.store import Store, write_whole
from rich import box
from rich.console import Console
from rich.table import Table

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.zoo import config_file
from tuning.points import CURRENT, entry_of, params_of, with_warning
from tuning.study import Tuning, best_trials, finished_trials, open_study
from tuning.yaml_entry import with_entry

BY_HAND = "by hand"
CHOICE_SEEDS = (200, 201, 202)
LATE_POINTS = CURVE_POINTS // 4
"""A training's score is the mean of the evaluations in its last quarter, as in the trials."""


@dataclass(frozen=True)
class Candidate:
    """
    Settings to choose from.

    :param name: where they come from
    :param entry: complete settings
    :param runs: its trainings
    """

    name: str
    entry: Entry
    runs: tuple[Run, ...]


def choose(tuning: Tuning, args: argparse.Namespace, console: Console) -> int:
    """
    Train the candidates and write the winner's entry.

    :param tuning: whose trials
    :param args: the command line
    :param console: where to show what happens
    :return: exit code; 1 if a training failed
    :raises BadInput: if there is no trial to choose from
    """
    steps = args.choose_steps or int(tuning.entry["n_timesteps"])
    candidates = find_candidates(tuning, args.best, steps, [parse_overrides(texts, "--also") for texts in args.also])
    machinery = argparse.Namespace(jobs=args.jobs, results=args.results / "tuning", work=WORK / "tuning", dry_run=args.dry_run)
    failed = carry_out([run for candidate in candidates for run in candidate.runs], machinery, console)
    if args.dry_run:
        return 0
    store = Store(machinery.results, machinery.work)
    scores = late_scores(store)
    # A training that failed (a non-finite reward) says enough about its settings
    whole = [one for one in candidates if all(run.id in scores for run in one.runs)]
    if not whole or whole[0].name != CURRENT:
        console.print(f"{tuning.task}: the current entry failed, so there is nothing to compare with", style="red")
        return 1
    means = {one.name: [scores[run.id] for run in one.runs] for one in whole}
    commits = {row["run"]: row["commit"] for row in store.rows("runs")}
    winner = max(whole, key=lambda one: statistics.mean(means[one.name]))
    _show(tuning.task, means, winner.name, console)
    path = args.config or config_file()
    made_with = sorted({commits[run.id] for run in winner.runs})
    comment = comment_of(tuning, means, winner, made_with)
    write_whole(path, with_entry(path.read_text(), tuning.task, winner.entry, comment))
    console.print(f"{path.name}: {tuning.task} is now {winner.name}", highlight=False)
    return 1 if failed else 0


def find_candidates(tuning: Tuning, best: int, steps: int, changes: Sequence[Entry] = ()) -> list[Candidate]:
    """
    List what is chosen from.

    :param tuning: whose trials
    :param best: how many of them
    :param steps: length of a training
    :param changes: of the current entry, each a candidate that was made by hand
    :return: the current entry, then the best trials, each once, then those made by hand
    :raises BadInput: if there is neither a trial nor a change, or a change names no setting
    """
    trials = best_trials(open_study(tuning))
    if not trials and not changes:
        raise BadInput(f"{tuning.task}: no trial has trained every seed yet")
    # A trial of the current entry is the same settings in other words, so its hash would differ: points are compared
    named, points = {CURRENT: tuning.entry}, [params_of(tuning.entry)]
    for trial in trials:
        if len(points) <= best and trial.params not in points:
            points.append(trial.params)
            named[f"trial {trial.number}"] = entry_of(trial.params, tuning.entry)
    for change in changes:
        refuse_unknown(change, "--also")
        named[f"{BY_HAND}: {show_overrides(change)}"] = with_warning(tuning.entry | change)
    return [Candidate(name, entry, _runs(tuning, name, entry, steps)) for name, entry in named.items()]


def _runs(tuning: Tuning, name: str, entry: Entry, steps: int) -> tuple[Run, ...]:
    source = f"{tuning.name}: {name}"
    return tuple(Run(tuning.task, seed, "ours", steps, entry, source, "", NUMERICS_VERSION) for seed in CHOICE_SEEDS)


def late_scores(store: Store) -> dict[str, float]:
    """
    Score runs.

    :param store: where they are
    :return: mean return of the evaluations in the last quarter of each finished run
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in store.rows("curves"):
        curves.setdefault(row["run"], []).append((int(row["steps"]), float(row["return_mean"])))
    finished = store.finished()
    return {
        run: statistics.mean(value for _, value in sorted(points)[-LATE_POINTS:])
        for run, points in curves.items()
        if run in finished
    }


def comment_of(tuning: Tuning, means: dict[str, list[float]], winner: Candidate, commits: list[str]) -> str:
    """
    Say how an entry came to be.

    :param tuning: whose trials
    :param means: scores by candidate that could be trained
    :param winner: the chosen one
    :param commits: that trained it
    :return: the comment that stands above it
    """
    study = open_study(tuning)
    count, steps = len(finished_trials(study)), winner.runs[0].steps
    searched = (
        f"{count} trials of {tuning.steps:,} steps (seeds {tuning.seeds[0]} to {tuning.seeds[-1]})" if count else "no search"
    )
    by_hand = sum(name.startswith(BY_HAND) for name in means)
    of_them = f" ({by_hand} made by hand)" if by_hand else ""
    before = "and it was so before" if winner.name == CURRENT else f"before {_show_scores(means[CURRENT])}"
    return (
        f"tuned {datetime.now(timezone.utc):%Y-%m-%d} (scripts/tune.py, {', '.join(commits)}, "
        f"NUMERICS_VERSION {NUMERICS_VERSION}): {searched}; "
        f"best of {len(means)}{of_them} at {steps:,} steps (seeds {CHOICE_SEEDS[0]} to {CHOICE_SEEDS[-1]}), "
        f"late return {_show_scores(means[winner.name])}, {before}"
    )


def _show_scores(scores: list[float]) -> str:
    return f"{statistics.mean(scores):,.1f} ± {statistics.stdev(scores):,.1f}"


def _show(task: str, means: dict[str, list[float]], winner: str, console: Console) -> None:
    table = Table("settings", title=f"{task}: mean return of the last quarter", box=box.SIMPLE_HEAD)
    for seed in CHOICE_SEEDS:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("mean ± std", justify="right")
    for name, scores in means.items():
        style = "bold" if name == winner else None
        table.add_row(name, *(f"{score:,.1f}" for score in scores), _show_scores(scores), style=style)
    console.print(table)
