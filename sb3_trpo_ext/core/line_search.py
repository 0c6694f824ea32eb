"""
Backtracking line search on the parameters as they would be deployed.

Candidate i is theta_k + shrink^i * step, rounded to the policy's dtype *before* it is judged. It is accepted only if it is
finite, its mean KL is within delta and its surrogate is higher beyond rounding, all in float64 over the whole batch.
Nothing is written while searching: a rejected update leaves the parameters untouched by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.objective import Evaluation
from sb3_trpo_ext.core.status import LineSearchStatus, TrialStatus


@dataclass(frozen=True)
class LineSearchSettings:
    """
    When to accept, how to backtrack.

    :param max_kl: delta > 0, in the unit of the bounded KL
    :param min_improvement: improvements up to this are rounding, >= 0
    :param shrink: factor between candidates, in (0, 1)
    :param max_trials: number of candidates, >= 1
    """

    max_kl: float
    min_improvement: float
    shrink: float
    max_trials: int


@dataclass(frozen=True)
class Trial:
    """
    One candidate.

    :param fraction: share of the full step
    :param evaluation: its KL divergences and improvement
    :param status: the verdict
    """

    fraction: float
    evaluation: Evaluation
    status: TrialStatus


@dataclass(frozen=True)
class LineSearchResult:
    """
    How the search ended.

    :param status: accepted or rejected
    :param parameters: the accepted parameters in the policy's dtypes, None if rejected
    :param trials: every candidate, in order; the last one is the accepted one
    """

    status: LineSearchStatus
    parameters: Parameters | None
    trials: tuple[Trial, ...]

    @property
    def accepted(self) -> Evaluation | None:
        """Evaluation of the accepted candidate, None if there is none."""
        return self.trials[-1].evaluation if self.status is LineSearchStatus.ACCEPTED else None


def judge(evaluation: Evaluation, settings: LineSearchSettings) -> TrialStatus:
    """
    Decide on one candidate; every comparison is written so that NaN rejects.

    :param evaluation: the candidate's numbers
    :param settings: the limits
    :return: the verdict
    """
    if not evaluation.finite:
        return TrialStatus.NON_FINITE
    if not evaluation.kl <= settings.max_kl:
        return TrialStatus.KL_TOO_LARGE
    if not evaluation.improvement > settings.min_improvement:
        return TrialStatus.NOT_IMPROVED
    return TrialStatus.ACCEPTED


def backtrack(
    start: Tensor,
    step: Tensor,
    deploy: Callable[[Tensor], Parameters],
    evaluate: Callable[[Parameters], Evaluation],
    settings: LineSearchSettings,
) -> LineSearchResult:
    """
    Search along a step.

    :param start: theta_k, flat, shape (n,), float64
    :param step: full step, flat, shape (n,), float64
    :param deploy: rounds a flat candidate to the policy's dtypes
    :param evaluate: judges deployed parameters
    :param settings: the limits
    :return: the first acceptable candidate, or none, and every trial
    """
    trials: list[Trial] = []
    for i in range(settings.max_trials):
        fraction = settings.shrink**i
        candidate = deploy(start + fraction * step)
        evaluation = evaluate(candidate)
        trials.append(Trial(fraction, evaluation, judge(evaluation, settings)))
        if trials[-1].status is TrialStatus.ACCEPTED:
            return LineSearchResult(LineSearchStatus.ACCEPTED, candidate, tuple(trials))
    return LineSearchResult(LineSearchStatus.REJECTED, None, tuple(trials))
