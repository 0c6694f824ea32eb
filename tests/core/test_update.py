"""The policy step from end to end: what is accepted is verified by torch.distributions, and every other ending is provoked."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core import update
from sb3_trpo_ext.core.cg import CGSettings
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.fisher import FisherOperator
from sb3_trpo_ext.core.flat import Parameters, flatten
from sb3_trpo_ext.core.reduce import WeightedMean, chunked
from sb3_trpo_ext.core.status import CGStatus, LineSearchStatus, TrialStatus, UpdateStatus
from sb3_trpo_ext.core.update import PolicyProblem, PolicyResult, PolicySettings, update_policy
from tests.core.problems import FAMILIES, SETTINGS, Case, dense_kl_hessian, make_case, reference_gradient, with_surrogate

DAMPING = DampingState(0.1, 0.1, 100.0)
every_family = pytest.mark.parametrize("distribution", FAMILIES.values(), ids=FAMILIES.keys())


def bits(parameters: Parameters) -> list[Tensor]:
    return [part.detach().clone() for part in parameters]


def same_bits(parameters: Parameters, before: list[Tensor]) -> bool:
    return all(torch.equal(part, old) for part, old in zip(parameters, before, strict=True))


def run(case: Case, settings: PolicySettings = SETTINGS, damping: DampingState = DAMPING) -> PolicyResult:
    return update_policy(case.problem, settings, damping)


def does_not_move(
    problem: PolicyProblem, settings: PolicySettings = SETTINGS, damping: DampingState = DAMPING
) -> PolicyResult:
    before = bits(problem.parameters)
    result = update_policy(problem, settings, damping)
    assert result.status is not UpdateStatus.ACCEPTED
    assert same_bits(problem.parameters, before)
    assert result.accepted is None
    return result


# ---------------------------------------------------------------- accepted


@every_family
@pytest.mark.parametrize("precision", ["float64", "mixed", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_accepted_step_is_what_it_says(distribution: ActionDistribution, precision: str, dtype: torch.dtype) -> None:
    case = make_case(distribution, dtype=dtype, weights=torch.rand(48, dtype=torch.float64))
    result = run(case, replace(SETTINGS, cg_precision=precision))
    assert result.status is UpdateStatus.ACCEPTED
    accepted, advantages = result.accepted, result.advantages
    assert accepted is not None
    assert advantages is not None
    kl, gain = case.independent(case.problem.parameters)
    assert 0.1 * 0.01 < kl <= 0.01
    assert accepted.kl == pytest.approx(kl, rel=1e-9)
    assert accepted.improvement * (advantages.std + 1e-8) == pytest.approx(gain, rel=1e-9)
    assert gain > 0.0
    assert result.search is not None
    assert result.search.parameters is not None
    assert same_bits(case.problem.parameters, list(result.search.parameters))


@every_family
def test_predictions_are_about_the_applied_step(distribution: ActionDistribution) -> None:
    case = make_case(distribution)
    surrogate = case.problem.surrogate
    result = run(case, replace(SETTINGS, max_kl=0.5, shrink=0.3))
    assert result.advantages is not None
    g = reference_gradient(replace(surrogate, advantages=result.advantages.values), case.problem.theta)
    applied = flatten(part.double() for part in case.problem.parameters) - flatten(case.problem.theta)
    assert result.expected_improvement == pytest.approx(float(g @ applied), rel=1e-12)
    assert result.accepted is not None
    assert result.reduction_ratio == pytest.approx(result.accepted.improvement / float(g @ applied), rel=1e-12)
    assert result.gradient_norm == pytest.approx(float(g.norm()), rel=1e-12)
    assert surrogate.evaluate(case.problem.theta).kl == 0.0, "the problem itself is as it was"


def test_the_direction_is_the_natural_gradient() -> None:
    """Against a dense solve with the Hessian of torch's KL."""
    case = make_case(FAMILIES["gaussian"], n=30)
    surrogate = case.problem.surrogate
    hessian = dense_kl_hessian(surrogate.distribution, surrogate.actor, case.problem.theta, case.weights)
    damped = surrogate.kl_scale * hessian + 0.1 * torch.eye(len(hessian), dtype=torch.float64)
    result = run(case, replace(SETTINGS, cg=CGSettings(200, 1e-13, 200)))
    assert result.solve is not None
    assert result.solve.direction is not None
    assert result.advantages is not None
    g = reference_gradient(replace(surrogate, advantages=result.advantages.values), case.problem.theta)
    exact = torch.linalg.solve(damped, g)
    torch.testing.assert_close(result.solve.direction.vector, exact, rtol=1e-8, atol=1e-10)
    assert result.solve.direction.scale.scale == pytest.approx((0.02 / float(exact @ damped @ exact)) ** 0.5, rel=1e-10)


def test_the_unit_of_the_kl_is_only_a_unit() -> None:
    """(delta, lambda) of the mean over A dimensions and (A delta, A lambda) of the joint KL: the same step."""
    case = make_case(FAMILIES["gaussian"], dtype=torch.float64)
    start = bits(case.problem.parameters)
    mean = run(case)
    by_mean = bits(case.problem.parameters)
    for part, old in zip(case.problem.parameters, start, strict=True):
        part.copy_(old)
    joint = with_surrogate(case.problem, kl_scale=1.0)
    result = update_policy(joint, replace(SETTINGS, max_kl=0.03), DampingState(0.3, 0.3, 300.0))
    assert mean.status is result.status is UpdateStatus.ACCEPTED
    for one, two in zip(by_mean, joint.parameters, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-13)


def test_a_float64_policy_may_be_its_own_theta() -> None:
    """Casting float64 to float64 makes no copy: theta and the live parameters are then the same tensors."""
    apart, shared = (make_case(FAMILIES["gaussian"], dtype=torch.float64) for _ in range(2))
    shared.module.load_state_dict(apart.module.state_dict())
    aliased = replace(
        apart.problem,
        parameters=shared.problem.parameters,
        linearised=FisherOperator(
            replace(apart.problem.linearised.curvature, theta=shared.problem.parameters), apart.problem.linearised.choice
        ),
    )
    one, two = run(apart), update_policy(aliased, SETTINGS, DAMPING)
    assert one.status is UpdateStatus.ACCEPTED
    assert two.expected_improvement == one.expected_improvement
    assert same_bits(shared.problem.parameters, bits(apart.problem.parameters))


def test_mixed_precision_verifies_with_a_float64_product() -> None:
    case = make_case(FAMILIES["gaussian"])
    start = bits(case.problem.parameters)
    results = {}
    for precision in ("float64", "mixed", "float32"):
        for part, old in zip(case.problem.parameters, start, strict=True):
            part.copy_(old)
        solve = run(case, replace(SETTINGS, cg_precision=precision)).solve
        assert solve is not None
        assert solve.direction is not None
        assert solve.products == solve.result.iterations + 1
        results[precision] = solve
    assert results["float32"].result.solution.dtype is torch.float32
    assert results["mixed"].result.solution.dtype is torch.float64
    reference = results["float64"].direction.vector
    for precision in ("mixed", "float32"):
        gap = float((results[precision].direction.vector - reference).norm() / reference.norm())
        assert 1e-12 < gap < 1e-3


# ---------------------------------------------------------------- every other ending


def test_stale_batch() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    result = does_not_move(replace(problem, evidence=torch.full_like(problem.evidence, 0.01)))
    assert (result.status, result.damping, result.solve) == (UpdateStatus.STALE_BATCH, DAMPING, None)


def test_a_policy_too_deterministic_to_tell_does_not_move_either() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    result = does_not_move(replace(problem, noise=torch.full_like(problem.noise, 0.01)))
    assert (result.status, result.damping) == (UpdateStatus.STALE_BATCH, DAMPING)


@pytest.mark.parametrize("explained", [0.49, -3.0, float("nan")])
def test_low_explained_variance(explained: float) -> None:
    problem = replace(make_case(FAMILIES["gaussian"]).problem, explained_variance=explained)
    result = does_not_move(problem, replace(SETTINGS, min_explained_variance=0.5))
    assert (result.status, result.damping) == (UpdateStatus.LOW_EXPLAINED_VARIANCE, DAMPING)


@pytest.mark.parametrize(("explained", "minimum"), [(0.5, 0.5), (0.9, 0.5), (None, 0.5), (-3.0, None)])
def test_explained_variance_that_is_high_enough_or_not_asked_for(explained: float | None, minimum: float | None) -> None:
    problem = replace(make_case(FAMILIES["gaussian"]).problem, explained_variance=explained)
    result = update_policy(problem, replace(SETTINGS, min_explained_variance=minimum), DAMPING)
    assert result.status is UpdateStatus.ACCEPTED


@pytest.mark.parametrize("normalize", [True, False])
def test_zero_variance_advantages(normalize: bool) -> None:
    case = make_case(FAMILIES["gaussian"], advantages=torch.full((48,), 3.0, dtype=torch.float64))
    result = does_not_move(case.problem, replace(SETTINGS, normalize_advantage=normalize))
    assert (result.status, result.damping, result.gradient_norm) == (UpdateStatus.ZERO_VARIANCE_ADVANTAGES, DAMPING, None)


def test_zero_gradient() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    actor = problem.surrogate.actor
    result = does_not_move(with_surrogate(problem, actor=lambda theta, rows: 0.0 * actor(theta, rows)))
    assert (result.status, result.damping, result.gradient_norm) == (UpdateStatus.ZERO_GRADIENT, DAMPING, 0.0)
    assert result.solve is not None
    assert result.solve.result.status is CGStatus.ZERO_GRADIENT


def thinned_problem() -> tuple[Case, PolicyProblem]:
    """An eighth of the states is far out: a sub-sample that misses them knows nothing of their curvature."""
    observations = 0.05 * torch.randn(64, 3, dtype=torch.float64)
    observations[56:] *= 200.0
    case = make_case(FAMILIES["gaussian"], n=64, observations=observations)
    return case, replace(case.problem, thinned_mean=case.problem.surrogate.mean.subsample(torch.arange(0, 56, 4), 5))


SMALL_DAMPING = DampingState(1e-4, 1e-4, 1e-1)


def test_a_subsampled_fisher_is_still_verified_on_the_whole_batch() -> None:
    case, problem = thinned_problem()
    result = update_policy(problem, replace(SETTINGS, max_trials=30), SMALL_DAMPING)
    assert result.status is UpdateStatus.ACCEPTED
    assert result.search is not None
    first = result.search.trials[0]
    assert first.evaluation.kl > 5.0 * 0.01, "what a thinned line search would have accepted"
    assert first.status is TrialStatus.KL_TOO_LARGE
    thinned = with_surrogate(problem, mean=problem.fisher_mean).surrogate
    assert result.solve is not None
    assert result.solve.direction is not None
    assert result.solve.direction.scale.predicted_kl <= 0.01
    assert thinned.evaluate(tuple(part.double() for part in problem.parameters)).kl < 0.01 / 5.0
    assert case.independent(problem.parameters)[0] <= 0.01


def test_line_search_failed_raises_the_damping() -> None:
    _, problem = thinned_problem()
    result = does_not_move(problem, replace(SETTINGS, max_trials=2), SMALL_DAMPING)
    assert result.status is UpdateStatus.LINE_SEARCH_FAILED
    assert result.search is not None
    assert result.search.status is LineSearchStatus.REJECTED
    assert len(result.search.trials) == 2
    assert (result.expected_improvement, result.reduction_ratio) == (None, None)
    assert result.damping == replace(SMALL_DAMPING, value=pytest.approx(1.5e-4))


def test_no_direction_where_products_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FisherOperator, "product", lambda self, v: torch.full_like(v, torch.nan))
    result = does_not_move(make_case(FAMILIES["gaussian"]).problem)
    assert (result.status, result.damping) == (UpdateStatus.NO_DIRECTION, DAMPING)
    assert result.solve is not None
    assert (result.solve.result.status, result.solve.retries) == (CGStatus.NON_FINITE, 3)


def test_a_weightless_part_of_the_batch_changes_nothing() -> None:
    """Dropping transitions by weight, or never having had them: the same step."""
    case = make_case(FAMILIES["categorical"])
    weights = torch.ones(48, dtype=torch.float64)
    weights[30:] = 0.0
    start = bits(case.problem.parameters)
    outcomes = []
    for mean in (
        WeightedMean(weights, chunked(48, 20)),
        WeightedMean(torch.ones_like(weights), (slice(0, 20), slice(20, 30))),
    ):
        for part, old in zip(case.problem.parameters, start, strict=True):
            part.copy_(old)
        problem = replace(with_surrogate(case.problem, mean=mean), thinned_mean=mean)
        assert update_policy(problem, SETTINGS, DAMPING).status is UpdateStatus.ACCEPTED
        outcomes.append(flatten(bits(problem.parameters)))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-6, atol=1e-7)


def test_every_update_status_has_been_provoked() -> None:
    """Here, by name: a new status needs a new test."""
    assert {status.value for status in UpdateStatus} == {
        "accepted",
        "line_search_failed",
        "no_direction",
        "zero_gradient",
        "zero_variance_advantages",
        "stale_batch",
        "low_explained_variance",
    }
    assert update.PRODUCT_DTYPE.keys() == update.RECURRENCE_DTYPE.keys()
