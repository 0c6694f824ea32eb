"""
How much damping the next update gets: Levenberg-Marquardt, from the reduction ratio of the applied step.

rho = actual / predicted improvement, predicted = gᵀ (applied step). Below 1/4 the model of the step was too optimistic:
more damping. Above 3/4: back towards the configured damping, and never below it by default, because rho is measured on
the batch that the step was fitted to, and damping also regularises against that batch's noise.
Thresholds and factor: Martens, "Deep learning via Hessian-free optimization", 2010, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from sb3_trpo_ext.core.status import UpdateStatus

LOW_RATIO, HIGH_RATIO = 0.25, 0.75
FACTOR = 1.5
RETRY_FACTOR = 10.0
"""A failed solve is retried with ten times the damping: curvature that is wrong beyond rounding needs more than a nudge."""

RANGE_FACTOR = 1e3
"""The default range of damping ends at this many times the configured one."""


@dataclass(frozen=True)
class DampingState:
    """
    Damping of the next update, and the range that it stays in.

    :param value: lambda, in the unit of the bounded KL
    :param low: its lower end, >= 0
    :param high: its upper end, >= low
    :param adaptive: whether it may change at all
    """

    value: float
    low: float
    high: float
    adaptive: bool = True


@dataclass(frozen=True)
class DampingEvidence:
    """
    What one update says about its damping.

    :param status: what became of the policy
    :param reduction_ratio: actual / predicted improvement of the applied step; None without one
    """

    status: UpdateStatus
    reduction_ratio: float | None


def next_damping(state: DampingState, evidence: DampingEvidence) -> DampingState:
    """
    Choose the next damping. Skipped, stale and degenerate updates say nothing about it and change nothing.

    :param state: damping of this update (without its retries)
    :param evidence: how the update went
    :return: damping of the next update
    """
    if not state.adaptive:
        return state
    if evidence.status is UpdateStatus.LINE_SEARCH_FAILED:
        return _moved(state, FACTOR)
    ratio = evidence.reduction_ratio
    if evidence.status is not UpdateStatus.ACCEPTED or ratio is None:
        return state
    if ratio < LOW_RATIO:
        return _moved(state, FACTOR)
    return _moved(state, 1.0 / FACTOR) if ratio > HIGH_RATIO else state


def retry_dampings(state: DampingState) -> tuple[float, ...]:
    """
    Dampings to try in turn, for one update only: the state's, then ten times more each, up to the end of the range.

    :param state: damping of this update
    :return: at least one value, rising
    """
    values = [state.value]
    while state.adaptive and values[-1] < state.high:
        values.append(min(state.high, _raised(state, values[-1], RETRY_FACTOR)))
    return tuple(values)


def _raised(state: DampingState, value: float, factor: float) -> float:
    # In a range from zero, ten times (next to) nothing is nothing: begin where the range of the default would.
    return max(factor * value, state.high / RANGE_FACTOR) if state.low == 0.0 else factor * value


def _moved(state: DampingState, factor: float) -> DampingState:
    moved = _raised(state, state.value, factor) if factor > 1.0 else factor * state.value
    return DampingState(min(state.high, max(state.low, moved)), state.low, state.high, state.adaptive)
