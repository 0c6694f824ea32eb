"""KL, entropy, log-probability and metric against torch.distributions, dense Hessians and 60-digit arithmetic."""

from itertools import pairwise

import mpmath
import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core.distributions import ActionDistribution, DiagonalGaussian, MultiBernoulli, MultiCategorical
from tests.core.problems import (
    FAMILIES,
    as_torch,
    dense_metric,
    n_phi,
    random_phi,
    reference_kl,
    reference_log_prob,
    sample_actions,
)

every_family = pytest.mark.parametrize("distribution", FAMILIES.values(), ids=FAMILIES.keys())


def assert_equal_to(value: Tensor, reference: Tensor, tolerance: float) -> None:
    assert value.dtype == reference.dtype == torch.float64
    torch.testing.assert_close(value, reference, rtol=tolerance, atol=tolerance)


@every_family
def test_log_prob_is_that_of_torch(distribution: ActionDistribution) -> None:
    phi = random_phi(distribution, 50)
    actions = sample_actions(distribution, phi)
    assert_equal_to(distribution.log_prob(phi, actions), reference_log_prob(distribution, phi, actions), 1e-12)


@every_family
def test_kl_is_that_of_torch(distribution: ActionDistribution) -> None:
    new, old = random_phi(distribution, 50), random_phi(distribution, 50)
    assert_equal_to(distribution.kl(new, old), reference_kl(distribution, new, old), 1e-12)
    assert not torch.allclose(distribution.kl(new, old), distribution.kl(old, new)), "the test must tell directions apart"


@every_family
def test_entropy_is_that_of_torch_or_none(distribution: ActionDistribution) -> None:
    phi = random_phi(distribution, 50)
    entropy = distribution.entropy(phi)
    if isinstance(distribution, DiagonalGaussian) and distribution.squashed:
        assert entropy is None
        return
    assert entropy is not None
    assert_equal_to(entropy, torch.stack([part.entropy() for part in as_torch(distribution, phi)]).sum(dim=0), 1e-12)


def test_squashing_changes_neither_kl_nor_ratios() -> None:
    family = DiagonalGaussian(2, squashed=True)
    new, old = random_phi(family, 30), random_phi(family, 30)
    before = sample_actions(family, old)

    def squashed(phi: Tensor) -> td.TransformedDistribution:
        return td.TransformedDistribution(td.Normal(phi[:, :2], phi[:, 2:].exp()), [td.TanhTransform(cache_size=1)])

    action = torch.tanh(before)
    true_ratio = (squashed(new).log_prob(action) - squashed(old).log_prob(action)).sum(dim=-1)
    ratio = family.log_prob(new, torch.atanh(action)) - family.log_prob(old, torch.atanh(action))
    torch.testing.assert_close(ratio, true_ratio, rtol=1e-9, atol=1e-9)


@every_family
def test_kl_of_a_policy_with_itself_is_exactly_zero(distribution: ActionDistribution) -> None:
    phi = 10.0 * random_phi(distribution, 200)
    assert torch.equal(distribution.kl(phi, phi.clone()), torch.zeros(200, dtype=torch.float64))


@every_family
def test_metric_is_the_dense_hessian_of_the_kl(distribution: ActionDistribution) -> None:
    phi = random_phi(distribution, 8)
    tangent = torch.randn_like(phi)
    dense = torch.stack([dense_metric(distribution, row) @ v for row, v in zip(phi, tangent, strict=True)])
    assert_equal_to(distribution.metric_at(phi)(tangent), dense, 1e-10)


@every_family
def test_sampled_scores_have_mean_zero_and_the_metric_as_covariance(distribution: ActionDistribution) -> None:
    n, phi = 200_000, random_phi(distribution, 1)
    scores = distribution.score_sample(phi.expand(n, -1), torch.Generator().manual_seed(1))
    metric = dense_metric(distribution, phi[0])
    deviation = metric.diagonal().sqrt()
    assert float((scores.mean(dim=0).abs() / deviation).max()) < 5.0 / n**0.5
    error = (scores.T @ scores / n - metric).abs() / torch.outer(deviation, deviation)
    # Of the fourth moments of these scores the largest, that of z^2 - 1 and of rare choices, is below 30.
    assert float(error.max()) < 5.0 * (30.0 / n) ** 0.5


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampled_scores_are_scores_of_actions_and_can_be_drawn_again(
    distribution: ActionDistribution, dtype: torch.dtype
) -> None:
    phi = random_phi(distribution, 20).to(dtype).requires_grad_()
    scores = distribution.score_sample(phi.detach(), torch.Generator().manual_seed(1))
    assert (scores.dtype, scores.shape) == (dtype, phi.shape)
    assert torch.equal(scores, distribution.score_sample(phi.detach(), torch.Generator().manual_seed(1)))
    assert not torch.equal(scores, distribution.score_sample(phi.detach(), torch.Generator().manual_seed(2)))
    actions = action_with_score(distribution, phi.detach(), scores)
    (gradient,) = torch.autograd.grad(distribution.log_prob(phi, actions).sum(), phi)
    torch.testing.assert_close(scores, gradient, rtol=1e-4, atol=1e-4)


def action_with_score(distribution: ActionDistribution, phi: Tensor, scores: Tensor) -> Tensor:
    if isinstance(distribution, DiagonalGaussian):
        mean, log_std = phi.chunk(2, dim=-1)
        return mean + scores.chunk(2, dim=-1)[0] * (2.0 * log_std).exp()
    if isinstance(distribution, MultiCategorical):
        return torch.stack([part.argmax(dim=-1) for part in scores.split(list(distribution.sizes), dim=-1)], dim=-1)
    return (scores > 0.0).to(phi.dtype)


@every_family
@given(data=st.data())
def test_metric_is_symmetric_positive_semi_definite(distribution: ActionDistribution, data: st.DataObject) -> None:
    entries = st.lists(st.floats(-20.0, 20.0), min_size=n_phi(distribution), max_size=n_phi(distribution))
    phi, u, v = (torch.tensor([data.draw(entries)], dtype=torch.float64) for _ in range(3))
    mu, mv = (distribution.metric_at(phi)(vector) for vector in (u, v))
    # Cauchy's bound on the rounding of the inner products, not on the metric itself.
    slack = 1e-14 * float(u.abs().sum() * v.abs().sum()) * max(1.0, float((-2.0 * phi).exp().max()))
    assert abs(float((u * mv).sum() - (v * mu).sum())) <= slack
    assert float((v * mv).sum()) >= -1e-14 * float(v.abs().sum()) ** 2


@every_family
@given(data=st.data())
def test_kl_is_not_negative_beyond_rounding(distribution: ActionDistribution, data: st.DataObject) -> None:
    entries = st.lists(st.floats(-30.0, 30.0), min_size=n_phi(distribution), max_size=n_phi(distribution))
    new, old = (torch.tensor([data.draw(entries)], dtype=torch.float64) for _ in range(2))
    kl = float(distribution.kl(new, old))
    # Rounding of each term is eps |d| p; of the log-probabilities (up to 60 here) only the square enters.
    assert kl >= -1e-15 * float((new - old).abs().sum()) - 1e-27


@every_family
def test_kl_of_close_policies_keeps_its_digits(distribution: ActionDistribution) -> None:
    old = torch.randn(50, n_phi(distribution), dtype=torch.float64)
    new = old + 1e-7 * torch.randn_like(old)
    kl = distribution.kl(new, old)
    with mpmath.workdps(60):
        exact = [float(exact_kl(distribution, a, b)) for a, b in zip(new, old, strict=True)]
    torch.testing.assert_close(kl, torch.tensor(exact, dtype=torch.float64), rtol=1e-6, atol=0.0)


def exact_kl(distribution: ActionDistribution, new: Tensor, old: Tensor) -> mpmath.mpf:
    """KL(new || old) of one sample in 60 digits."""
    a, b = ([mpmath.mpf(float(x)) for x in row] for row in (new, old))
    if isinstance(distribution, DiagonalGaussian):
        dims, total = distribution.dims, mpmath.mpf(0)
        for i in range(dims):
            d = a[dims + i] - b[dims + i]
            total += (mpmath.exp(2 * d) + ((a[i] - b[i]) / mpmath.exp(b[dims + i])) ** 2 - 1) / 2 - d
        return total
    blocks = [[x, mpmath.mpf(0)] for x in a], [[x, mpmath.mpf(0)] for x in b]
    if isinstance(distribution, MultiCategorical):
        cuts = [sum(distribution.sizes[:i]) for i in range(len(distribution.sizes) + 1)]
        blocks = tuple([x[i:j] for i, j in pairwise(cuts)] for x in (a, b))
    total = mpmath.mpf(0)
    for p, q in zip(*blocks, strict=True):
        log_p, log_q = ([x - mpmath.log(mpmath.fsum(map(mpmath.exp, block))) for x in block] for block in (p, q))
        total += mpmath.fsum(mpmath.exp(x) * (x - y) for x, y in zip(log_p, log_q, strict=True))
    return total


@every_family
@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4, 1e-6])
def test_kl_of_close_policies_has_the_digits_that_a_trust_region_needs(
    distribution: ActionDistribution, distance: float
) -> None:
    """Relative to delta >= 1e-8 the error is nothing: at most a few eps, absolutely, whatever the KL."""
    old = random_phi(distribution, 5)
    new = old + distance * torch.randn_like(old)
    with mpmath.workdps(60):
        exact = [float(exact_kl(distribution, a, b)) for a, b in zip(new, old, strict=True)]
    error = (distribution.kl(new, old) - torch.tensor(exact, dtype=torch.float64)).abs()
    # A Gaussian's error shrinks with the distance; a log-probability's stays at eps times its own size.
    scale = distance if isinstance(distribution, DiagonalGaussian) else 1.0
    assert float(error.max()) <= 40.0 * torch.finfo(torch.float64).eps * scale * (1.0 + max(exact))


def test_extreme_logits_stay_finite_and_right() -> None:
    family = MultiCategorical((2,))
    new = torch.tensor([[800.0, -800.0], [0.0, 0.0]], dtype=torch.float64)
    old = torch.tensor([[0.0, 0.0], [800.0, -800.0]], dtype=torch.float64)
    log_two = torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(family.kl(new, old), torch.stack([log_two, 800.0 - log_two]), rtol=1e-12, atol=0)
    bits = MultiBernoulli(1)
    new, old = torch.tensor([[800.0], [0.0]], dtype=torch.float64), torch.tensor([[0.0], [800.0]], dtype=torch.float64)
    torch.testing.assert_close(bits.kl(new, old), torch.stack([log_two, 400.0 - log_two]), rtol=1e-12, atol=0)
    entropy = bits.entropy(new)
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([0.0, float(log_two)])


def test_a_choice_of_probability_zero_counts_nothing() -> None:
    family, masked = MultiCategorical((3,)), torch.tensor([[0.3, -torch.inf, -0.2]], dtype=torch.float64)
    kept = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    other = torch.tensor([[0.1, -torch.inf, 0.4]], dtype=torch.float64)
    expected = MultiCategorical((2,)).kl(kept, other[:, [0, 2]])
    torch.testing.assert_close(family.kl(masked, other), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(family.entropy(masked), MultiCategorical((2,)).entropy(kept), rtol=1e-14, atol=0)
    assert float(family.kl(torch.zeros(1, 3, dtype=torch.float64), masked)) == torch.inf, "new may do what old never does"
    assert float(family.kl(masked, torch.zeros(1, 3, dtype=torch.float64))) < torch.inf
    product = family.metric_at(masked)(torch.tensor([[1.0, 5.0, 2.0]], dtype=torch.float64))
    assert bool(torch.isfinite(product).all())
    assert float(product[0, 1]) == 0.0


@every_family
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_never_a_small_kl(distribution: ActionDistribution, bad: float) -> None:
    good = random_phi(distribution, n_phi(distribution))
    broken = good.clone()
    broken.diagonal().fill_(bad)
    if isinstance(distribution, MultiBernoulli) and bad == torch.inf:
        # A certain action is a distribution like any other: -log q is its divergence, and infinity the other way round.
        certain = -F.logsigmoid(good.diagonal())
        assert bool((distribution.kl(broken, good) >= (1.0 - 1e-12) * certain).all())
        assert bool((distribution.kl(good, broken) == torch.inf).all())
        return
    for kl in (distribution.kl(broken, good), distribution.kl(good, broken)):
        assert not bool((kl <= 1.0).any()), kl


@every_family
def test_nan_stays_nan(distribution: ActionDistribution) -> None:
    good = random_phi(distribution, n_phi(distribution))
    broken = good.clone()
    broken.diagonal().fill_(torch.nan)
    actions = sample_actions(distribution, good)
    assert bool(distribution.log_prob(broken, actions).isnan().any())
    assert bool(distribution.kl(broken, good).isnan().all())
    entropy = distribution.entropy(broken)
    assert entropy is None or bool(entropy.isnan().any())


def test_independent_dimensions_are_those_that_contrib_averages_over() -> None:
    assert [family.independent_dims for family in FAMILIES.values()] == [3, 2, 1, 1, 3]
