"""The line search: whatever the evaluations are, acceptance is recomputed from scratch, and planted bugs are caught."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core import line_search
from sb3_trpo_ext.core.flat import Parameters, as_deployed
from sb3_trpo_ext.core.line_search import LineSearchResult, LineSearchSettings, backtrack
from sb3_trpo_ext.core.objective import Evaluation
from sb3_trpo_ext.core.status import LineSearchStatus, TrialStatus

SETTINGS = LineSearchSettings(max_kl=0.01, min_improvement=1e-12, shrink=0.8, max_trials=6)
LIKE = (torch.zeros(2, dtype=torch.float32), torch.zeros(1, dtype=torch.float32))
Judge = Callable[[Evaluation, LineSearchSettings], TrialStatus]


def evaluation(kl: float = 0.005, improvement: float = 0.1, finite: bool | None = None) -> Evaluation:
    all_finite = math.isfinite(kl) and math.isfinite(improvement)
    return Evaluation(kl, 3.0 * kl, kl, kl, improvement, all_finite if finite is None else finite)


# Numbers where bugs live: the limits themselves, their neighbours, and what is no number.
kls = st.sampled_from([0.0, 0.005, 0.01, math.nextafter(0.01, 1.0), 0.02, -1e-18, math.nan, math.inf, -math.inf])
gains = st.sampled_from([0.1, 1e-12, math.nextafter(1e-12, 1.0), 0.0, -0.1, math.nan, math.inf, -math.inf])
evaluations = st.one_of(st.builds(evaluation, kls, gains), st.builds(evaluation, kls, gains, st.just(False)))


def run(numbers: list[Evaluation]) -> tuple[LineSearchResult, list[Parameters]]:
    """Search where the i-th candidate is judged by the i-th evaluation."""
    seen: list[Parameters] = []

    def evaluate(candidate: Parameters) -> Evaluation:
        seen.append(candidate)
        return numbers[len(seen) - 1]

    start = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    step = torch.tensor([1.0, -1.0, 1.0 / 3.0], dtype=torch.float64)
    return backtrack(start, step, lambda v: as_deployed(v, LIKE), evaluate, SETTINGS), seen


def check(result: LineSearchResult, seen: list[Parameters], numbers: list[Evaluation]) -> None:
    """What must hold for any search, from the definition of acceptance alone."""

    def acceptable(e: Evaluation) -> bool:
        return e.finite and math.isfinite(e.kl) and e.kl <= 0.01 and math.isfinite(e.improvement) and e.improvement > 1e-12

    first = next((i for i, e in enumerate(numbers) if acceptable(e)), None)
    assert [trial.evaluation for trial in result.trials] == numbers[: len(result.trials)]
    assert [trial.fraction for trial in result.trials] == pytest.approx([0.8**i for i in range(len(result.trials))])
    assert all(trial.status is not TrialStatus.ACCEPTED for trial in result.trials[:-1])
    assert len(seen) == len(result.trials)
    if first is None:
        assert result.status is LineSearchStatus.REJECTED
        assert result.parameters is None
        assert result.accepted is None
        assert len(result.trials) == len(numbers)
        return
    assert result.status is LineSearchStatus.ACCEPTED
    assert len(result.trials) == first + 1
    assert result.accepted is numbers[first]
    assert result.parameters is seen[first], "what is applied is what was judged"


six_evaluations = st.lists(evaluations, min_size=6, max_size=6)


@given(numbers=six_evaluations)
def test_accepted_means_finite_within_the_region_and_better(numbers: list[Evaluation]) -> None:
    check(*run(numbers), numbers)


def accepts_nan_kl(e: Evaluation, s: LineSearchSettings) -> TrialStatus:
    return TrialStatus.KL_TOO_LARGE if e.kl > s.max_kl else accepts_any_kl(e, s)


def accepts_any_kl(e: Evaluation, s: LineSearchSettings) -> TrialStatus:
    return TrialStatus.ACCEPTED if e.improvement > s.min_improvement else TrialStatus.NOT_IMPROVED


def accepts_no_improvement(e: Evaluation, s: LineSearchSettings) -> TrialStatus:
    good = e.finite and e.kl <= s.max_kl and e.improvement >= s.min_improvement
    return TrialStatus.ACCEPTED if good else TrialStatus.NOT_IMPROVED


def accepts_nan_improvement(e: Evaluation, s: LineSearchSettings) -> TrialStatus:
    good = e.kl <= s.max_kl and not e.improvement <= s.min_improvement
    return TrialStatus.ACCEPTED if good else TrialStatus.NOT_IMPROVED


def ignores_finite(e: Evaluation, s: LineSearchSettings) -> TrialStatus:
    good = e.kl <= s.max_kl and e.improvement > s.min_improvement
    return TrialStatus.ACCEPTED if good else TrialStatus.NOT_IMPROVED


def refuses_the_boundary(e: Evaluation, s: LineSearchSettings) -> TrialStatus:
    good = e.finite and e.kl < s.max_kl and e.improvement > s.min_improvement
    return TrialStatus.ACCEPTED if good else TrialStatus.NOT_IMPROVED


MUTANTS = [
    accepts_nan_kl,
    accepts_any_kl,
    accepts_no_improvement,
    accepts_nan_improvement,
    ignores_finite,
    refuses_the_boundary,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_property_test_catches_a_planted_bug(mutant: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_search, "judge", mutant)

    @settings(max_examples=500, phases=[Phase.generate], report_multiple_bugs=False)
    @given(numbers=six_evaluations)
    def property_test(numbers: list[Evaluation]) -> None:
        check(*run(numbers), numbers)

    with pytest.raises(AssertionError):
        property_test()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, TrialStatus.ACCEPTED),
        ({"finite": False}, TrialStatus.NON_FINITE),
        ({"kl": 0.011}, TrialStatus.KL_TOO_LARGE),
        ({"kl": math.nan}, TrialStatus.KL_TOO_LARGE),
        ({"improvement": 0.0}, TrialStatus.NOT_IMPROVED),
        ({"improvement": math.nan}, TrialStatus.NOT_IMPROVED),
    ],
)
def test_every_verdict(changes: dict[str, float], verdict: TrialStatus) -> None:
    assert line_search.judge(replace(evaluation(), **changes), SETTINGS) is verdict


def test_a_limit_that_is_nan_accepts_nothing() -> None:
    """Not-a-number advantages make the least improvement NaN."""
    assert line_search.judge(evaluation(), replace(SETTINGS, min_improvement=math.nan)) is TrialStatus.NOT_IMPROVED
    assert line_search.judge(evaluation(), replace(SETTINGS, max_kl=math.nan)) is TrialStatus.KL_TOO_LARGE


def test_candidates_are_rounded_before_they_are_judged_and_only_once() -> None:
    result, seen = run([evaluation(kl=1.0)] * 3 + [evaluation()] * 3)
    start, step = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([1.0, -1.0, 1.0 / 3.0]).double()
    assert all(part.dtype is torch.float32 for candidate in seen for part in candidate)
    assert result.parameters is not None
    exact = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64) + 0.8**3 * torch.tensor(
        [1.0, -1.0, 1.0 / 3.0], dtype=torch.float64
    )
    applied = torch.cat([part.reshape(-1) for part in result.parameters])
    assert torch.equal(applied, exact.float())
    assert not torch.equal(applied, (start + 0.8**3 * step).float() + 1e-7), "the comparison can tell one ulp"


def test_nothing_is_written_to_the_start() -> None:
    start = torch.ones(3, dtype=torch.float64)
    before: Tensor = start.clone()
    backtrack(start, start, lambda v: as_deployed(v, LIKE), lambda _: evaluation(kl=1.0), SETTINGS)
    assert torch.equal(start, before)
