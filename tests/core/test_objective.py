"""The surrogate, what candidates are judged by, and the advantages that go into it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.fisher import FisherOperator, Rung
from sb3_trpo_ext.core.flat import Parameters, flatten, unflatten
from sb3_trpo_ext.core.ladder import LADDER
from sb3_trpo_ext.core.objective import ADVANTAGE_EPS, Surrogate, likelihood_divergence, prepare_advantages
from sb3_trpo_ext.core.reduce import WeightedMean, chunked
from tests.core.problems import (
    FAMILIES,
    Case,
    as_torch,
    gradient_of,
    make_case,
    reference_kl,
    reference_log_prob,
    with_surrogate,
)

every_family = pytest.mark.parametrize("distribution", FAMILIES.values(), ids=FAMILIES.keys())


def mean_of(n: int, weights: Tensor | None = None) -> WeightedMean:
    return WeightedMean(torch.ones(n, dtype=torch.float64) if weights is None else weights, chunked(n, 7))


# ---------------------------------------------------------------- advantages


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40).filter(lambda a: np.std(a) > 1e-2))
def test_normalised_advantages_are_those_of_numpy(raw: list[float]) -> None:
    values = np.array(raw)
    advantages = prepare_advantages(torch.tensor(raw, dtype=torch.float64), mean_of(len(raw)), normalize=True)
    expected = (values - values.mean()) / (values.std(ddof=1) + ADVANTAGE_EPS)
    np.testing.assert_allclose(advantages.values.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert (advantages.mean, advantages.std) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-9, abs=1e-9)
    assert not advantages.degenerate
    assert advantages.start == 0.0


def test_weights_count_samples() -> None:
    """A sample of weight three is three samples, one of weight zero is none."""
    raw, weights = torch.randn(9, dtype=torch.float64), torch.tensor([1, 3, 0, 2, 1, 0, 1, 1, 4], dtype=torch.float64)
    repeated = raw.repeat_interleave(weights.long())
    weighted = prepare_advantages(raw, mean_of(9, weights), normalize=True)
    plain = prepare_advantages(repeated, mean_of(len(repeated)), normalize=True)
    assert (weighted.mean, weighted.std) == pytest.approx((plain.mean, plain.std), rel=1e-13)
    torch.testing.assert_close(weighted.values.repeat_interleave(weights.long()), plain.values, rtol=1e-12, atol=1e-14)


def test_without_normalisation_values_are_the_raw_ones() -> None:
    raw = torch.randn(30, dtype=torch.float64) + 5.0
    advantages = prepare_advantages(raw, mean_of(30), normalize=False)
    assert torch.equal(advantages.values, raw)
    assert advantages.start == pytest.approx(float(raw.mean()), rel=1e-14)


def test_quantiles_are_samples() -> None:
    raw = torch.randperm(101).double()
    assert prepare_advantages(raw, mean_of(101), normalize=True).quantiles == (0.0, 5.0, 50.0, 95.0, 100.0)


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.7, 1e6, 1e-20])
def test_equal_advantages_are_degenerate(constant: float) -> None:
    raw = torch.full((50,), constant, dtype=torch.float32).double()
    assert prepare_advantages(raw, mean_of(50), normalize=True).degenerate


def test_the_rounding_of_float32_around_a_large_constant_is_no_signal() -> None:
    raw = (1e6 + 1e-3 * torch.randn(50, dtype=torch.float64)).float().double()
    raw[3] = torch.nextafter(raw[3].float(), torch.tensor(torch.inf)).double()
    assert float(raw.std()) > 0.0
    assert prepare_advantages(raw, mean_of(50), normalize=True).degenerate


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_a_small_but_real_signal_is_none_at_any_unit(size: float) -> None:
    raw = size * (1.0 + 1e-5 * torch.randn(50, dtype=torch.float64))
    assert not prepare_advantages(raw, mean_of(50), normalize=True).degenerate


def test_not_a_number_is_degenerate() -> None:
    raw = torch.randn(50, dtype=torch.float64)
    raw[7] = torch.nan
    assert prepare_advantages(raw, mean_of(50), normalize=True).degenerate


def test_dropped_transitions_do_not_save_a_degenerate_batch() -> None:
    raw, weights = torch.ones(50, dtype=torch.float64), torch.ones(50, dtype=torch.float64)
    raw[:5], weights[:5] = 9.0, 0.0
    assert prepare_advantages(raw, mean_of(50, weights), normalize=True).degenerate


def test_one_sample_has_no_variance() -> None:
    assert prepare_advantages(torch.tensor([3.0]).double(), mean_of(1), normalize=True).degenerate


# ---------------------------------------------------------------- gradient


def naive_surrogate(surrogate: Surrogate, theta: Parameters) -> Tensor:
    phi = surrogate.actor(theta, slice(None))
    ratio = (reference_log_prob(surrogate.distribution, phi, surrogate.actions) - surrogate.log_prob).exp()
    weights = surrogate.mean.weights
    return (weights * surrogate.advantages * ratio).sum() / weights.sum()


def weighted_case(distribution: ActionDistribution) -> Case:
    return make_case(distribution, weights=torch.rand(48, dtype=torch.float64))


@every_family
def test_gradient_is_that_of_the_surrogate_by_autograd_and_by_differences(distribution: ActionDistribution) -> None:
    problem = weighted_case(distribution).problem
    leaves = tuple(part.clone().requires_grad_() for part in problem.theta)
    exact = flatten(torch.autograd.grad(naive_surrogate(problem.surrogate, leaves), leaves))
    g = gradient_of(problem)
    torch.testing.assert_close(g, exact, rtol=1e-10, atol=1e-13)
    direction, h = torch.randn_like(g), 1e-5
    start = flatten(problem.theta)

    def along(t: float) -> float:
        return problem.surrogate.evaluate(unflatten(start + t * direction, problem.theta)).improvement

    assert (along(h) - along(-h)) / (2.0 * h) == pytest.approx(float(g @ direction), rel=1e-6, abs=1e-9)


def test_gradient_does_not_depend_on_the_chunks() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    whole = with_surrogate(problem, mean=WeightedMean(problem.surrogate.mean.weights, (slice(0, 48),)))
    torch.testing.assert_close(gradient_of(problem), gradient_of(whole), rtol=1e-12, atol=1e-15)


def test_a_parameter_that_the_policy_ignores_has_gradient_zero() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    actor = problem.surrogate.actor
    theta = (*problem.theta, torch.ones(3, dtype=torch.float64))
    curvature = replace(problem.linearised.curvature, actor=lambda theta, rows: actor(theta[:-1], rows), theta=theta)
    for choice in LADDER:
        if choice.rung is not Rung.CLOSED_FORM:
            g = FisherOperator(curvature, choice).gradient(problem.surrogate.slopes)
            assert g[-3:].tolist() == [0.0, 0.0, 0.0]


# ---------------------------------------------------------------- evaluation


@every_family
def test_at_theta_k_everything_is_exactly_zero(distribution: ActionDistribution) -> None:
    problem = make_case(distribution, chunk=48).problem
    judged = problem.surrogate.evaluate(problem.theta)
    assert (judged.kl, judged.kl_joint, judged.kl_reverse, judged.kl_max, judged.improvement) == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert judged.finite


@every_family
def test_a_candidate_is_judged_as_by_torch(distribution: ActionDistribution) -> None:
    case = weighted_case(distribution)
    surrogate = case.problem.surrogate
    candidate = tuple(part + 0.3 * torch.randn_like(part) for part in case.problem.theta)
    judged = surrogate.evaluate(candidate)
    new, old, weights = surrogate.actor(candidate, slice(None)), surrogate.phi, case.weights / case.weights.sum()
    kl, reverse = reference_kl(distribution, new, old), reference_kl(distribution, old, new)
    scale = 1.0 / distribution.independent_dims
    assert judged.kl_joint == pytest.approx(float((weights * kl).sum()), rel=1e-11)
    assert judged.kl == pytest.approx(scale * judged.kl_joint, rel=1e-15)
    assert judged.kl_reverse == pytest.approx(scale * float((weights * reverse).sum()), rel=1e-11)
    assert judged.kl_max == pytest.approx(scale * float(kl.max()), rel=1e-11)
    naive = float(naive_surrogate(surrogate, candidate) - naive_surrogate(surrogate, case.problem.theta))
    assert judged.improvement == pytest.approx(naive, rel=1e-10, abs=1e-13)


def test_no_digits_are_lost_on_a_tiny_step() -> None:
    """A step of 1e-12: the naive difference of surrogates has four digits left, this one all of them."""
    problem = make_case(FAMILIES["gaussian"], dtype=torch.float64).problem
    problem = with_surrogate(problem, advantages=problem.surrogate.advantages + 100.0)
    g = gradient_of(problem)
    step = 1e-9 * g / g.norm() ** 2
    judged = problem.surrogate.evaluate(unflatten(flatten(problem.theta) + step, problem.theta))
    assert judged.improvement == pytest.approx(1e-9, rel=1e-4)
    assert judged.improvement > problem.surrogate.rounding_of_improvement()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_candidate_that_is_not_finite_says_so(bad: float) -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    candidate = tuple(part.clone() for part in problem.theta)
    candidate[0][0, 0] = bad
    assert not problem.surrogate.evaluate(candidate).finite


def test_a_parameter_that_is_not_finite_but_has_no_effect_still_counts() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    actor = problem.surrogate.actor
    surrogate = with_surrogate(problem, actor=lambda theta, rows: actor(theta[:-1], rows)).surrogate
    assert surrogate.evaluate((*problem.theta, torch.ones(1))).finite
    assert not surrogate.evaluate((*problem.theta, torch.full((1,), torch.nan))).finite


def test_the_least_improvement_is_eight_eps_of_the_mean_advantage() -> None:
    surrogate = weighted_case(FAMILIES["gaussian"]).problem.surrogate
    weights = surrogate.mean.weights
    size = float((weights * surrogate.advantages.abs()).sum() / weights.sum())
    assert surrogate.rounding_of_improvement() == pytest.approx(8.0 * 2.0**-52 * size, rel=1e-12)


# ---------------------------------------------------------------- k3


@given(st.lists(st.tuples(st.floats(-50.0, 50.0), st.floats(-50.0, 50.0)), min_size=1, max_size=20))
def test_k3_is_never_negative_beyond_rounding_and_zero_where_both_agree(pairs: list[tuple[float, float]]) -> None:
    behaviour, policy = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    assert bool((likelihood_divergence(behaviour, policy) >= -1e-16 * (policy - behaviour).abs()).all())
    assert not likelihood_divergence(policy, policy).any()


@every_family
def test_k3_is_an_unbiased_estimate_of_the_kl(distribution: ActionDistribution) -> None:
    old = 0.5 * torch.randn(1, make_case(distribution).problem.surrogate.phi.shape[1], dtype=torch.float64)
    new = old + 0.2 * torch.randn_like(old)
    many = 40_000
    actions = torch.stack([part.sample() for part in as_torch(distribution, old.expand(many, -1))], dim=-1)
    k3 = likelihood_divergence(
        distribution.log_prob(old.expand(many, -1), actions), distribution.log_prob(new.expand(many, -1), actions)
    )
    error = float(k3.std()) / many**0.5
    assert float(k3.mean()) == pytest.approx(float(distribution.kl(old, new)), abs=5.0 * error)
    assert error < 0.1 * float(k3.mean())
