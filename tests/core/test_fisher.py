"""Every way to the Fisher product, on every family and kind of module, against dense matrices that share no code with it."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import flatten
from sb3_trpo_ext.core.ladder import LADDER, NoWorkingRungError, choose_rung
from sb3_trpo_ext.core.reduce import Rows, WeightedMean, chunked
from tests.core.problems import (
    FAMILIES,
    MODULES,
    Attention,
    Mlp,
    actor_of,
    dense_jacobian,
    dense_kl_hessian,
    dense_metric,
    n_phi,
    theta_of,
)

N = 7
GENERAL = [rung for rung in Rung if rung is not Rung.CLOSED_FORM]
CHOICES = [RungChoice(rung, retained) for rung in GENERAL for retained in (True, False)]
CHUNKS: dict[str, tuple[Rows, ...]] = {
    "whole": (slice(0, N),),
    "chunked": (slice(0, 1), torch.tensor([6, 5]), slice(1, 5)),
}
MATH = SDPBackend.MATH

every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.name)
every_family = pytest.mark.parametrize("distribution", FAMILIES.values(), ids=FAMILIES.keys())


def curvature_of(module: nn.Module, distribution: ActionDistribution, chunks: tuple[Rows, ...] = (slice(0, N),)) -> Curvature:
    module = module.double()
    observations, weights = torch.randn(N, 3, dtype=torch.float64), torch.rand(N, dtype=torch.float64)
    return Curvature(actor_of(module, observations), theta_of(module), distribution, 0.5, WeightedMean(weights, chunks))


def dense_fisher(curvature: Curvature) -> Tensor:
    """Scale * mean_s JᵀMJ with J row by row of reverse mode, and M the autograd Hessian of torch's KL."""
    jacobian = dense_jacobian(curvature.actor, curvature.theta, slice(None))
    phi = curvature.actor(curvature.theta, slice(None))
    metric = torch.stack([dense_metric(curvature.distribution, row) for row in phi])
    weights = curvature.mean.weights / curvature.mean.weights.sum()
    return curvature.scale * torch.einsum("s,sip,sij,sjq->pq", weights, jacobian, metric, jacobian)


def columns(operator: FisherOperator, n: int) -> Tensor:
    return torch.stack([operator.product(unit) for unit in torch.eye(n, dtype=torch.float64)], dim=-1)


def assert_same_matrix(matrix: Tensor, reference: Tensor, tolerance: float = 1e-10) -> None:
    assert float((matrix - reference).norm()) <= tolerance * float(reference.norm())


@every_family
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_every_rung_is_the_dense_matrix_on_every_family(distribution: ActionDistribution, chunks: tuple[Rows, ...]) -> None:
    curvature = curvature_of(Mlp(n_phi(distribution)), distribution, chunks)
    reference = dense_fisher(curvature)
    for choice in CHOICES:
        assert_same_matrix(columns(FisherOperator(curvature, choice), len(reference)), reference)


@every_family
@pytest.mark.parametrize("kind", MODULES)
def test_the_dense_matrix_is_the_hessian_of_the_mean_kl(distribution: ActionDistribution, kind: str) -> None:
    """So products are those of the KL that bounds the step, whatever the module."""
    curvature = curvature_of(MODULES[kind](n_phi(distribution)), distribution)
    with sdpa_kernel(MATH):
        hessian = dense_kl_hessian(distribution, curvature.actor, curvature.theta, curvature.mean.weights)
        assert_same_matrix(dense_fisher(curvature), curvature.scale * hessian)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_every_rung_is_the_dense_matrix_on_every_module(kind: str, chunks: tuple[Rows, ...]) -> None:
    distribution = FAMILIES["gaussian"]
    curvature = curvature_of(MODULES[kind](6), distribution, chunks)
    with sdpa_kernel(MATH) if kind == "attention" else contextlib.nullcontext():
        reference = dense_fisher(curvature)
        vectors = torch.randn(4, len(reference), dtype=torch.float64)
        for choice in CHOICES:
            operator = FisherOperator(curvature, choice)
            products = torch.stack([operator.product(v) for v in vectors])
            assert_same_matrix(products, vectors @ reference)


def test_experts_are_unreachable_from_some_chunks() -> None:
    """Or the case above would not be the one that its name says."""
    curvature = curvature_of(MODULES["experts"](6), FAMILIES["gaussian"], tuple(slice(i, i + 1) for i in range(N)))
    leaves = tuple(part.clone().requires_grad_() for part in curvature.theta)
    grads = torch.autograd.grad(curvature.actor(leaves, slice(0, 1)).sum(), leaves, allow_unused=True)
    assert any(grad is None for grad in grads)
    reference = dense_fisher(curvature)
    for choice in CHOICES:
        assert_same_matrix(columns(FisherOperator(curvature, choice), len(reference)), reference)


def test_fused_attention_gets_a_rung_that_is_right() -> None:
    """
    Without the MATH backend, which policies are given, some rungs raise; whichever is chosen must give the dense matrix.

    In torch 2.14 the fused one has neither a second derivative nor forward mode: no rung is left, and that is said.
    """
    curvature = curvature_of(Attention(6), FAMILIES["gaussian"])
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):
        with pytest.raises(NoWorkingRungError, match="flash_attention"):
            choose_rung(curvature, True, torch.Generator().manual_seed(0))
        return
    choice = choose_rung(curvature, True, torch.Generator().manual_seed(0))
    reference = dense_fisher(curvature)
    assert_same_matrix(columns(FisherOperator(curvature, choice), len(reference)), reference)


# ---------------------------------------------------------------- what the operator promises beside the matrix


@every_choice
def test_products_are_linear_symmetric_and_positive_semi_definite(choice: RungChoice) -> None:
    curvature = curvature_of(Mlp(6), FAMILIES["gaussian"])
    operator = FisherOperator(curvature, choice)
    n = sum(part.numel() for part in curvature.theta)
    u, v = torch.randn(2, n, dtype=torch.float64)
    torch.testing.assert_close(
        operator.product(2.0 * u - 3.0 * v), 2.0 * operator.product(u) - 3.0 * operator.product(v), rtol=1e-10, atol=1e-12
    )
    assert float(u @ operator.product(v)) == pytest.approx(float(v @ operator.product(u)), rel=1e-11)
    assert float(torch.linalg.eigvalsh(columns(operator, n)).min()) > -1e-12


@every_choice
def test_damped_is_undamped_plus_lambda_v(choice: RungChoice) -> None:
    operator = FisherOperator(curvature_of(Mlp(6), FAMILIES["gaussian"]), choice)
    v = torch.randn(sum(part.numel() for part in operator.curvature.theta), dtype=torch.float64)
    assert torch.equal(operator.damped_product(v, 0.3), operator.product(v) + 0.3 * v)
    assert torch.equal(operator.damped_product(v, 0.0), operator.product(v))
    assert operator.n_products == 4


def test_the_scale_of_the_kl_multiplies_the_matrix() -> None:
    curvature = curvature_of(Mlp(6), FAMILIES["gaussian"])
    v = flatten(torch.randn_like(part) for part in curvature.theta)
    joint, mean = (FisherOperator(replace(curvature, scale=scale), CHOICES[0]).product(v) for scale in (1.0, 1.0 / 3.0))
    torch.testing.assert_close(3.0 * mean, joint, rtol=1e-14, atol=0)


def test_a_dropped_transition_leaves_no_trace() -> None:
    curvature = curvature_of(Mlp(6), FAMILIES["gaussian"])
    v = flatten(torch.randn_like(part) for part in curvature.theta)
    weights = torch.ones(N, dtype=torch.float64)
    weights[[1, 4]] = 0.0
    kept = torch.tensor([0, 2, 3, 5, 6])
    means = WeightedMean(weights, chunked(N, 3)), WeightedMean(torch.ones(N, dtype=torch.float64), (kept,))
    dropped, without = (FisherOperator(replace(curvature, mean=mean), CHOICES[0]).product(v) for mean in means)
    torch.testing.assert_close(dropped, without, rtol=1e-13, atol=1e-16)


@every_choice
def test_float32_products_are_float32_and_close(choice: RungChoice) -> None:
    exact = curvature_of(Mlp(6), FAMILIES["gaussian"])
    v = flatten(torch.randn_like(part) for part in exact.theta)
    reference = FisherOperator(exact, choice).product(v)
    operator = FisherOperator(replace(exact, theta=tuple(part.float() for part in exact.theta)), choice)
    assert operator.dtype is torch.float32
    product = operator.product(v)
    assert product.dtype is torch.float64, "the vector's, so that a float64 recurrence stays one"
    gap = float((product - reference).norm() / reference.norm())
    assert 1e-10 < gap < 1e-5


@every_choice
def test_the_parameters_and_their_gradients_are_left_alone(choice: RungChoice) -> None:
    curvature = curvature_of(Mlp(6), FAMILIES["gaussian"])
    theta = tuple(part.requires_grad_() for part in curvature.theta)
    before = [part.detach().clone() for part in theta]
    FisherOperator(replace(curvature, theta=theta), choice).product(flatten(torch.ones_like(part) for part in before))
    assert all(part.grad is None for part in theta)
    assert all(torch.equal(part, old) for part, old in zip(theta, before, strict=True))


def test_the_ladder_prefers_what_is_fast_and_ends_with_plain_autograd() -> None:
    assert [choice.name for choice in LADDER] == [
        "closed_form/retained",
        "closed_form/recomputed",
        "double_vjp/retained",
        "forward_reverse/recomputed",
        "double_vjp/recomputed",
        "double_backward/recomputed",
    ]
