"""
What "the return falls" means, once for all incidents and all sides.

The return of an update is the mean of the training episodes that ended during its rollout. A run falls at the first update
at which the mean of the last ten updates' returns is below the best such mean that the run has had by more than a quarter of
the range from the random policy's return to the best one. An incident counts where sb3-contrib's run falls, or dies of an
exception, on at least three of five seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from incident_suite.scenario import BEST_RETURN, RANDOM_RETURN

WINDOW, FALL, LEAST, ENOUGH = 10, 0.25, 3, 5


@dataclass(frozen=True)
class Verdict:
    """
    How a run's return went.

    :param best: largest mean of ten updates
    :param end: mean of the last ten
    :param fell_at: first update, from 1, at which it had fallen; None: never
    """

    best: float
    end: float
    fell_at: int | None


def running_means(returns: list[float | None]) -> list[float | None]:
    """
    Average over the last ten updates.

    :param returns: one an update; None where no episode ended
    :return: one an update; None before the tenth, and where none of the ten has a return
    """
    means: list[float | None] = []
    for end in range(1, len(returns) + 1):
        known = [value for value in returns[max(0, end - WINDOW) : end] if value is not None]
        means.append(sum(known) / len(known) if known and end >= WINDOW else None)
    return means


def judge(returns: list[float | None]) -> Verdict:
    """
    Find out whether a run has fallen.

    :param returns: one an update; None where no episode ended
    :return: the verdict
    """
    best, end, fell_at = RANDOM_RETURN, RANDOM_RETURN, None
    for update, mean in enumerate(running_means(returns), start=1):
        if mean is None:
            continue
        best, end = max(best, mean), mean
        if fell_at is None and best - mean > FALL * (BEST_RETURN - RANDOM_RETURN):
            fell_at = update
    return Verdict(best, end, fell_at)
