"""Round and round the tasks: the one with the fewest finished trials is next, whoever is killed whenever."""

from __future__ import annotations

import time

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from tuning.objective import Train, do_trial
from tuning.study import Tuning, best_trials, claimed_study, finished_trials, open_study
from tuning.worker import quarters

DEATHS = 3
"""So many trials in a row whose process died are no accident."""
WAIT_SECONDS = 5.0


class Broken(RuntimeError):
    """Trainings die, whatever their settings."""


def search(tunings: list[Tuning], trials: int, console: Console, train: Train = quarters) -> None:
    """
    Do trials until each task has enough.

    :param tunings: the tasks
    :param trials: finished trials that each shall have
    :param console: where a line a trial is shown
    :param train: gives the score of each quarter of a training
    :raises Broken: if trainings die
    """
    deaths = 0
    while True:
        counts = {tuning.task: len(finished_trials(open_study(tuning))) for tuning in tunings}
        waiting = sorted((tuning for tuning in tunings if counts[tuning.task] < trials), key=lambda one: counts[one.task])
        if not waiting:
            return
        trial = _next_trial(waiting, trials, console, train)
        if trial is None:
            time.sleep(WAIT_SECONDS)
            continue
        deaths = deaths + 1 if trial.state == TrialState.FAIL else 0
        if deaths == DEATHS:
            raise Broken(f"{DEATHS} trials in a row died; the last: {trial.user_attrs['reason']}")


def _next_trial(tunings: list[Tuning], trials: int, console: Console, train: Train) -> FrozenTrial | None:
    """Do a trial of the first task that no other process is at; None if there is none."""
    for tuning in tunings:
        with claimed_study(tuning) as study:
            if study is None:
                continue
            trial = do_trial(study, tuning, train)
            best = best_trials(study, 1)
            place = f"{tuning.task} {len(finished_trials(study))}/{trials}"
            leader = f"; best: trial {best[0].number}, {best[0].value:,.1f}" if best else ""
            text = (
                f"[{place}] trial {trial.number}{_origin(trial)}: {_outcome(trial)}, {trial.user_attrs['seconds']} s{leader}"
            )
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            return trial
    return None


def _origin(trial: FrozenTrial) -> str:
    point = trial.user_attrs.get("point")
    return f" ({point})" if point else ""


def _outcome(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"{trial.value:,.1f}"
    return f"{trial.state.name.lower()}, {trial.user_attrs['reason']}"
