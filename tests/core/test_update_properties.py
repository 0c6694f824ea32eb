"""Whatever the problem: accepted means verified, anything else means not one bit moved. Planted bugs are caught."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core import update
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.fisher import Rung, RungChoice
from sb3_trpo_ext.core.flat import Parameters, as_deployed, assign, flatten, unflatten
from sb3_trpo_ext.core.line_search import LineSearchResult
from sb3_trpo_ext.core.objective import Surrogate
from sb3_trpo_ext.core.status import LineSearchStatus, TrialStatus, UpdateStatus
from sb3_trpo_ext.core.update import Direction, PolicyProblem, PolicyResult, PolicySettings
from tests.core.problems import FAMILIES, SETTINGS, Case, make_case, reference_gradient, with_rung


@dataclass
class Scenario:
    """A random problem, from numbers that hypothesis can shrink."""

    seed: int
    family: str
    dtype: torch.dtype
    max_kl: float
    damping: float
    precision: str
    thinned: bool
    dropped: bool
    far_out: bool

    def build(self) -> tuple[Case, PolicySettings, DampingState]:
        torch.manual_seed(self.seed)
        weights = torch.ones(48, dtype=torch.float64)
        if self.dropped:
            weights[torch.randperm(48)[:12]] = 0.0
        observations = torch.randn(48, 3, dtype=torch.float64)
        if self.far_out:
            observations[40:] *= 100.0
        case = make_case(FAMILIES[self.family], dtype=self.dtype, weights=weights, observations=observations)
        # A policy in half precision disagrees with itself: that is another test's subject.
        nothing = torch.zeros_like(case.problem.noise)
        mean = case.problem.fisher_mean
        thinned_mean = mean.subsample(torch.arange(0, 40, 3), 5) if self.thinned else None
        case.problem = replace(case.problem, evidence=nothing, noise=nothing, thinned_mean=thinned_mean)
        rungs = (Rung.DOUBLE_VJP, Rung.FORWARD_REVERSE, Rung.DOUBLE_BACKWARD)
        case.problem = with_rung(case.problem, RungChoice(rungs[self.seed % 3], retained=False))
        chosen = replace(SETTINGS, max_kl=self.max_kl, cg_precision=self.precision)
        return case, chosen, DampingState(self.damping, self.damping, 1e3 * self.damping)


scenarios = st.builds(
    Scenario,
    seed=st.integers(0, 10_000),
    family=st.sampled_from(sorted(FAMILIES)),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    max_kl=st.sampled_from([1e-5, 0.01, 1.0]),
    damping=st.sampled_from([1e-5, 0.1]),
    precision=st.sampled_from(["float64", "mixed", "float32"]),
    thinned=st.booleans(),
    dropped=st.booleans(),
    far_out=st.booleans(),
)


def check(case: Case, chosen: PolicySettings, damping: DampingState) -> PolicyResult:
    """Run one update, and recompute what it claims with torch.distributions."""
    live = case.problem.parameters
    before = [part.clone() for part in live]
    result = update.update_policy(case.problem, chosen, damping)
    kl, gain = case.independent(live)
    if result.status is UpdateStatus.ACCEPTED:
        assert all(bool(torch.isfinite(part).all()) for part in live)
        assert kl <= chosen.max_kl * (1.0 + 1e-9)
        assert gain > 0.0
        assert result.accepted is not None
        assert result.advantages is not None
        assert result.accepted.kl == pytest.approx(kl, rel=1e-6, abs=1e-13)
        assert result.accepted.improvement * (result.advantages.std + 1e-8) == pytest.approx(gain, rel=1e-6, abs=1e-12)
        applied = flatten(part.double() for part in live) - flatten(part.double() for part in before)
        surrogate = replace(case.problem.surrogate, advantages=result.advantages.values)
        expected = float(reference_gradient(surrogate, case.problem.theta) @ applied)
        assert result.expected_improvement == pytest.approx(expected, rel=1e-9, abs=1e-15)
    else:
        assert all(torch.equal(part, old) for part, old in zip(live, before, strict=True))
        assert result.accepted is None
        assert result.reduction_ratio is None
    allowed = {damping.value, 1.5 * damping.value, damping.value / 1.5, damping.low, damping.high}
    assert result.damping.value in allowed
    return result


def test_accepted_is_verified_and_anything_else_moves_nothing() -> None:
    seen: list[PolicyResult] = []

    @settings(max_examples=150)
    @given(scenario=scenarios)
    def property_test(scenario: Scenario) -> None:
        seen.append(check(*scenario.build()))

    property_test()
    # Or the property would be true of nothing: both endings were reached, and every way to backtrack.
    statuses = [result.status for result in seen]
    assert statuses.count(UpdateStatus.ACCEPTED) > 40
    assert statuses.count(UpdateStatus.LINE_SEARCH_FAILED) > 5
    verdicts = {trial.status for result in seen if result.search for trial in result.search.trials}
    assert verdicts >= {TrialStatus.ACCEPTED, TrialStatus.KL_TOO_LARGE, TrialStatus.NOT_IMPROVED}


# ---------------------------------------------------------------- planted bugs

honest_search, honest_backtrack = update.search_along, update.backtrack


def searches_on_the_subsample(
    direction: Direction, surrogate: Surrogate, problem: PolicyProblem, chosen: PolicySettings
) -> LineSearchResult:
    return honest_search(direction, replace(surrogate, mean=problem.fisher_mean), problem, chosen)


def casts_after_judging(start: Tensor, step: Tensor, deploy: Any, evaluate: Any, limits: Any) -> LineSearchResult:
    like: Parameters = deploy(start)
    result = honest_backtrack(start, step, lambda v: unflatten(v, like), evaluate, limits)
    if result.parameters is None:
        return result
    return replace(result, parameters=as_deployed(flatten(result.parameters), like))


def accepts_the_full_step(start: Tensor, step: Tensor, deploy: Any, evaluate: Any, limits: Any) -> LineSearchResult:
    result = honest_backtrack(start, step, deploy, evaluate, replace(limits, max_trials=1))
    trial = replace(result.trials[0], status=TrialStatus.ACCEPTED)
    return LineSearchResult(LineSearchStatus.ACCEPTED, deploy(start + step), (trial,))


def applies_the_full_step(start: Tensor, step: Tensor, deploy: Any, evaluate: Any, limits: Any) -> LineSearchResult:
    result = honest_backtrack(start, step, deploy, evaluate, limits)
    return result if result.parameters is None else replace(result, parameters=deploy(start + step))


def ignores_the_improvement(start: Tensor, step: Tensor, deploy: Any, evaluate: Any, limits: Any) -> LineSearchResult:
    return honest_backtrack(start, step, deploy, evaluate, replace(limits, min_improvement=-1e9))


def leaves_rejected_candidates_behind(
    direction: Direction, surrogate: Surrogate, problem: PolicyProblem, chosen: PolicySettings
) -> LineSearchResult:
    result = honest_search(direction, surrogate, problem, chosen)
    if result.parameters is None:
        full = flatten(problem.theta) + direction.scale.scale * direction.vector
        assign(problem.parameters, as_deployed(full, problem.parameters))
    return result


def forgets_the_weights(
    direction: Direction, surrogate: Surrogate, problem: PolicyProblem, chosen: PolicySettings
) -> LineSearchResult:
    mean = replace(surrogate.mean, weights=torch.ones_like(surrogate.mean.weights))
    return honest_search(direction, replace(surrogate, mean=mean), problem, chosen)


PLANTED: list[tuple[str, Callable[..., LineSearchResult]]] = [
    ("search_along", searches_on_the_subsample),
    ("search_along", leaves_rejected_candidates_behind),
    ("search_along", forgets_the_weights),
    ("backtrack", casts_after_judging),
    ("backtrack", accepts_the_full_step),
    ("backtrack", applies_the_full_step),
    ("backtrack", ignores_the_improvement),
]


@pytest.mark.parametrize(("step", "bug"), PLANTED, ids=[bug.__name__ for _, bug in PLANTED])
def test_the_property_test_catches_a_planted_bug(
    step: str, bug: Callable[..., LineSearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, step, bug)

    @settings(max_examples=120, phases=[Phase.generate], report_multiple_bugs=False)
    @given(scenario=scenarios)
    def property_test(scenario: Scenario) -> None:
        check(*scenario.build())

    with pytest.raises(AssertionError):
        property_test()
