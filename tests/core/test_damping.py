"""The next damping: a table, and what must hold for every state and every evidence."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_trpo_ext.core.damping import FACTOR, DampingEvidence, DampingState, next_damping, retry_dampings
from sb3_trpo_ext.core.status import UpdateStatus

STATE = DampingState(value=0.4, low=0.1, high=100.0)
SILENT = [s for s in UpdateStatus if s not in (UpdateStatus.ACCEPTED, UpdateStatus.LINE_SEARCH_FAILED)]


@st.composite
def states(draw: st.DrawFn, adaptive: bool = True, from_zero: bool = True) -> DampingState:
    positive = st.floats(1e-8, 10.0)
    low = draw(st.one_of(st.just(0.0), positive) if from_zero else positive)
    high = draw(st.floats(max(low, 1e-8), 1e6))
    return DampingState(draw(st.floats(low, high)), low, high, adaptive)


ratios = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
evidence = st.builds(DampingEvidence, st.sampled_from(UpdateStatus), ratios)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(-3.0, 0.6), (0.0, 0.6), (0.2499, 0.6), (0.25, 0.4), (0.5, 0.4), (0.75, 0.4), (0.7501, 0.4 / 1.5), (9.0, 0.4 / 1.5)],
)
def test_the_ratio_decides_after_an_accepted_step(ratio: float, expected: float) -> None:
    assert next_damping(STATE, DampingEvidence(UpdateStatus.ACCEPTED, ratio)).value == pytest.approx(expected, rel=1e-15)


def test_a_rejected_step_raises_the_damping() -> None:
    assert next_damping(STATE, DampingEvidence(UpdateStatus.LINE_SEARCH_FAILED, None)).value == pytest.approx(0.6, rel=1e-15)


@pytest.mark.parametrize("ratio", [None, math.nan])
def test_no_ratio_is_no_evidence(ratio: float | None) -> None:
    assert next_damping(STATE, DampingEvidence(UpdateStatus.ACCEPTED, ratio)) == STATE


@pytest.mark.parametrize("status", SILENT, ids=str)
@pytest.mark.parametrize("ratio", [None, 0.01, 0.99])
def test_an_update_without_a_line_search_changes_nothing(status: UpdateStatus, ratio: float | None) -> None:
    assert next_damping(STATE, DampingEvidence(status, ratio)) == STATE


@given(state=states(), evidence=evidence)
def test_it_stays_in_its_range_whatever_happens(state: DampingState, evidence: DampingEvidence) -> None:
    after = next_damping(state, evidence)
    assert (after.low, after.high, after.adaptive) == (state.low, state.high, state.adaptive)
    assert state.low <= after.value <= state.high


@given(state=states(adaptive=False), evidence=evidence)
def test_fixed_damping_never_changes(state: DampingState, evidence: DampingEvidence) -> None:
    assert next_damping(state, evidence) == state
    assert retry_dampings(state) == (state.value,)


@given(state=states(from_zero=False))
def test_it_rises_by_one_factor_also_in_a_range_wider_than_the_default(state: DampingState) -> None:
    raised = next_damping(state, DampingEvidence(UpdateStatus.LINE_SEARCH_FAILED, None)).value
    assert raised == min(state.high, FACTOR * state.value)


@given(state=states(from_zero=False))
def test_retries_rise_tenfold_also_in_a_range_wider_than_the_default(state: DampingState) -> None:
    values = retry_dampings(state)
    assert all(high == min(state.high, 10.0 * low) for low, high in pairwise(values))


@given(state=states())
def test_retries_begin_at_the_damping_rise_strictly_and_end_with_the_range(state: DampingState) -> None:
    values = retry_dampings(state)
    assert values[0] == state.value
    assert values[-1] == state.high
    assert all(low < high for low, high in pairwise(values))
    assert len(values) <= 20


def test_the_retries_of_the_default() -> None:
    assert retry_dampings(DampingState(0.1, 0.1, 100.0)) == pytest.approx((0.1, 1.0, 10.0, 100.0), rel=1e-15)


def test_at_the_end_of_the_range_nothing_is_retried() -> None:
    assert retry_dampings(DampingState(100.0, 0.1, 100.0)) == (100.0,)


def test_zero_damping_can_leave_zero_and_retries_begin_within_the_range() -> None:
    state = DampingState(0.0, 0.0, 10.0)
    assert next_damping(state, DampingEvidence(UpdateStatus.LINE_SEARCH_FAILED, None)).value == pytest.approx(0.01)
    assert retry_dampings(state) == pytest.approx((0.0, 0.01, 0.1, 1.0, 10.0))


def test_zero_damping_without_a_range_stays_zero() -> None:
    state = DampingState(0.0, 0.0, 0.0)
    assert next_damping(state, DampingEvidence(UpdateStatus.LINE_SEARCH_FAILED, None)) == state
    assert retry_dampings(state) == (0.0,)
