"""
One trial: the mean, over the seeds, of what a training scores at its end.

Between seeds the same settings differ as much as good settings from mediocre ones (HalfCheetah at 300k steps: 2,600 ± 1,400
over three seeds), so one training is no measurement. A trial trains its seeds one after the other, the same in all trials,
and most trials are given up before the second: see ``pruner``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import optuna
from evidence.provenance import provenance
from evidence.runs import Run
from optuna.trial import FrozenTrial, TrialState

from sb3_trpo_ext.core import NUMERICS_VERSION
from tuning.points import entry_of
from tuning.pruner import QUARTERS
from tuning.study import Tuning
from tuning.worker import BadSettings, WorkerDied, quarters

Train = Callable[[Run], Iterator[float]]


def do_trial(study: optuna.Study, tuning: Tuning, train: Train = quarters) -> FrozenTrial:
    """
    Do the next trial.

    :param study: a claimed study
    :param tuning: what it searches for
    :param train: gives the score of each quarter of a training
    :return: the trial as it ended: complete; pruned, with a reason; failed, if its process died
    """
    trial = study.ask(tuning.space)
    begin = _clocks()
    origin = provenance()
    for key, value in {"numerics_version": NUMERICS_VERSION, "commit": origin["commit"], "dirty": origin["dirty"]}.items():
        trial.set_user_attr(key, value)
    value, state, reason = None, TrialState.PRUNED, None
    try:
        value, state = _mean_of_seeds(trial, tuning, train), TrialState.COMPLETE
    except optuna.TrialPruned as error:
        reason = str(error)
    except BadSettings as error:
        reason = str(error)
    except WorkerDied as error:
        reason, state = str(error), TrialState.FAIL
    if reason is not None:
        trial.set_user_attr("reason", reason)
    for clock, end in _clocks().items():
        trial.set_user_attr(clock, round(end - begin[clock]))
    return study.tell(trial, value, state)


def _clocks() -> dict[str, float]:
    """Time, and CPU time of workers that have ended; what an interrupted trial had spent is not counted."""
    times = os.times()
    return {"seconds": times.elapsed, "cpu_seconds": times.children_user + times.children_system}


def _mean_of_seeds(trial: optuna.Trial, tuning: Tuning, train: Train) -> float:
    """Train seed after seed; what an interrupted trial had finished is not trained again."""
    entry = entry_of(trial.params, tuning.entry)
    scores: list[float] = []
    for seed in tuning.seeds:
        run = Run(tuning.task, seed, "ours", tuning.steps, entry, numerics_version=NUMERICS_VERSION)
        kept = trial.user_attrs.get(f"seed_{seed}")
        path: list[float] = []
        for score in kept or train(run):
            if not math.isfinite(score):
                raise BadSettings(f"the return of an evaluation is {score}")
            path.append(score)
            if not scores:
                _report(trial, len(path), score)
        if len(path) < QUARTERS:
            raise WorkerDied(f"the training ended after {len(path)} of {QUARTERS} quarters")
        trial.set_user_attr(f"seed_{seed}", path)
        scores.append(path[-1])
        if 1 < len(scores) < len(tuning.seeds):
            _report(trial, QUARTERS + len(scores) - 1, float(np.mean(scores)))
    return float(np.mean(scores))


def _report(trial: optuna.Trial, rung: int, score: float) -> None:
    trial.report(score, rung)
    if trial.should_prune():
        raise optuna.TrialPruned(f"rung {rung}: {score:.6g}")
