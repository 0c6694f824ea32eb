"""The arithmetic of a report: plain arrays in, plain numbers out. Intervals are rliable's stratified bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rliable import library as rly
from rliable import metrics as rliable_metrics

Array = NDArray[np.float64]
Interval = tuple[float, float, float]

REPETITIONS = 10_000
SLOW_REPETITIONS = 2_000  # rank tests and whole curves
BOOTSTRAP_SEED = 0
DRAWDOWN_FLOOR = 0.1
"""A drawdown counts from where the running maximum is this share of the way from random to reference: below it, a fall of
nothing from next to nothing would be a large share."""


def normalise(scores: Array, random: float, reference: float) -> Array:
    """
    Put returns on a scale that tasks share.

    :param scores: returns, any shape
    :param random: mean return of the random policy: becomes 0
    :param reference: mean return of the reference: becomes 1
    :return: (score - random) / (reference - random), shape of ``scores``
    :raises ValueError: if the reference is no better than random, where the scale would be meaningless
    """
    if not reference > random:
        raise ValueError(f"the reference ({reference:.4g}) is no better than the random policy ({random:.4g})")
    return (np.asarray(scores, dtype=float) - random) / (reference - random)


def iqm(scores: Array) -> float:
    """
    Interquartile mean: the mean of the middle half of all runs on all tasks.

    :param scores: shape (n_seeds, n_tasks)
    :return: the mean
    """
    return float(rliable_metrics.aggregate_iqm(scores))


def bootstrap(scores: list[Array], statistic: Callable[..., Array], repetitions: int = REPETITIONS) -> tuple[Array, Array]:
    """
    Percentile intervals of 95 % by rliable's bootstrap: seeds are resampled within each task.

    :param scores: one array, or two that are resampled independently; shape (n_seeds, n_tasks, ...)
    :param statistic: of them, a one-dimensional array
    :param repetitions: resamples
    :return: point estimates, shape (n,), and intervals, shape (2, n)
    """
    # rliable 1.2 draws from NumPy's global generator, whatever random_state it is given.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(BOOTSTRAP_SEED)  # noqa: NPY002
    try:
        data = {"x": scores[0] if len(scores) == 1 else tuple(scores)}
        points, intervals = rly.get_interval_estimates(data, statistic, reps=repetitions)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return points["x"], intervals["x"]


def _one(points: Array, intervals: Array) -> Interval:
    return float(points[0]), float(intervals[0, 0]), float(intervals[1, 0])


def iqm_interval(scores: Array) -> Interval:
    """
    Interquartile mean with its interval.

    :param scores: normalised, shape (n_seeds, n_tasks)
    :return: estimate, lower and upper end
    """
    return _one(*bootstrap([scores], lambda sample: np.array([iqm(sample)])))


def mean_interval(scores: Array) -> Interval:
    """
    Mean with its interval: for differences that are paired by seed.

    :param scores: shape (n_seeds, n_tasks)
    :return: estimate, lower and upper end
    """
    return _one(*bootstrap([scores], lambda sample: np.array([sample.mean()])))


def median_interval(scores: Array) -> Interval:
    """
    Median with its interval: for ratios that are paired.

    :param scores: shape (n_pairs, 1)
    :return: estimate, lower and upper end
    """
    return _one(*bootstrap([scores], lambda sample: np.array([np.median(sample)])))


def improvement_interval(scores: Array, reference: Array) -> Interval:
    """
    Probability that a random run is better than a random run of the reference, averaged over tasks.

    :param scores: shape (n_seeds, n_tasks)
    :param reference: the same of the reference
    :return: estimate, lower and upper end
    """
    both = [scores, reference]
    probability = rliable_metrics.probability_of_improvement
    return _one(*bootstrap(both, lambda x, y: np.array([probability(x, y)]), SLOW_REPETITIONS))


def iqm_curve(scores: Array) -> tuple[Array, Array]:
    """
    Interquartile mean at each point of the learning curves.

    :param scores: normalised, shape (n_seeds, n_tasks, n_points)
    :return: estimates, shape (n_points,), and intervals, shape (2, n_points)
    """
    n_points = scores.shape[-1]
    return bootstrap(
        [scores], lambda sample: np.array([iqm(sample[..., point]) for point in range(n_points)]), SLOW_REPETITIONS
    )


def max_drawdown(returns: Array, random: float, reference: float, cap: float = np.inf) -> float:
    """
    Largest fall of a learning curve, as a share of its running maximum above random.

    :param returns: evaluation returns in the order of training, shape (n_points,)
    :param random: mean return of the random policy
    :param reference: mean return of the reference (for ``DRAWDOWN_FLOOR``)
    :param cap: returns above it count as it, so that nobody is charged for losing what others never had
    :return: 0 (never fell) to 1 (fell back to random) or more; 0 if it never rose above the floor
    """
    heights = np.minimum(np.asarray(returns, dtype=float), cap) - random
    best = np.maximum.accumulate(heights)
    counted = best >= DRAWDOWN_FLOOR * (reference - random)
    return float(np.max((best - heights)[counted] / best[counted], initial=0.0))


def lowered_share(returns: Array) -> float:
    """
    Share of the evaluations whose return is below that of the one before.

    :param returns: shape (n_points,), at least 2
    :return: 0 to 1
    """
    return float(np.mean(np.diff(returns) < 0))


def mean_height(steps: Array, returns: Array) -> float:
    """
    Area under a learning curve, divided by its length: the mean return during training.

    :param steps: ascending, shape (n_points,)
    :param returns: shape (n_points,); a point without a value (NaN) is left out
    :return: a return
    """
    known = np.isfinite(returns)
    steps, returns = np.asarray(steps, dtype=float)[known], np.asarray(returns, dtype=float)[known]
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))
