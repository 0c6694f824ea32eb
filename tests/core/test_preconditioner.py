"""K-FAC against dense Kronecker products, and everything that it falls back from."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core.cg import CGSettings, conjugate_gradient
from sb3_trpo_ext.core.preconditioner import (
    KnownCurvature,
    KroneckerPreconditioner,
    LayerFactors,
    kronecker_preconditioner,
)
from sb3_trpo_ext.core.status import BlockStatus, CGStatus

SCALE = 0.25
KNOWN = KnownCurvature(slice(0, 2), 2.0)


def spd(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    root = torch.randn(n, n + 2, dtype=torch.float64)
    return (root @ root.T / n).to(dtype)


def layer_of(start: int, n_in: int, n_out: int, bias: bool, dtype: torch.dtype = torch.float64) -> LayerFactors:
    weight = slice(start, start + n_in * n_out)
    place = slice(weight.stop, weight.stop + n_out) if bias else None
    return LayerFactors(f"layer{start}", weight, place, spd(n_in + bias, dtype), spd(n_out, dtype))


def entries_of(layer: LayerFactors) -> Tensor:
    """Entries of theta in the order of G ⊗ A: weights of one output, then its bias."""
    n_out = len(layer.outputs)
    weight = torch.arange(layer.weight.start, layer.weight.stop).view(n_out, -1)
    if layer.bias is None:
        return weight.flatten()
    return torch.cat([weight, torch.arange(layer.bias.start, layer.bias.stop).unsqueeze(-1)], dim=-1).flatten()


def dense_of(layers: list[LayerFactors], known: list[KnownCurvature], n: int) -> Tensor:
    dense = torch.zeros(n, n, dtype=torch.float64)
    for layer in layers:
        where = entries_of(layer)
        factors = [factor.double().diag() if factor.ndim == 1 else factor.double() for factor in (layer.outputs, layer.inputs)]
        dense[where.unsqueeze(-1), where] = SCALE * torch.kron(*factors)
    for part in known:
        dense.diagonal()[part.entries] = SCALE * part.curvature
    return dense


def matrix_of(preconditioner: KroneckerPreconditioner, damping: float) -> Tensor:
    """The inverse, column by column."""
    eye = torch.eye(preconditioner.n_parameters, dtype=torch.float64)
    apply = preconditioner.inverse(damping, eye[0])
    return torch.stack([apply(column) for column in eye], dim=-1)


@given(n_in=st.integers(1, 4), n_out=st.integers(1, 4), bias=st.booleans(), damping=st.sampled_from([1e-6, 1e-2, 1.0, 100.0]))
def test_the_inverse_is_that_of_the_dense_damped_kronecker_product(n_in: int, n_out: int, bias: bool, damping: float) -> None:
    layers = [layer_of(2, n_in, n_out, bias)]
    layers.append(layer_of(2 + n_out * (n_in + bias), 2, 3, not bias))
    n = 2 + n_out * (n_in + bias) + 3 * (2 + (not bias))
    preconditioner = kronecker_preconditioner(layers, [KNOWN], SCALE, n)
    assert preconditioner.covered == 1.0
    dense = dense_of(layers, [KNOWN], n) + damping * torch.eye(n, dtype=torch.float64)
    product = matrix_of(preconditioner, damping) @ dense
    torch.testing.assert_close(
        product, torch.eye(n, dtype=torch.float64), rtol=0.0, atol=1e-11 * float(dense.norm()) / damping
    )


@pytest.mark.parametrize("which", ["inputs", "outputs", "both"])
def test_a_diagonal_stands_for_its_matrix(which: str) -> None:
    layer = layer_of(0, 3, 2, bias=True)
    diagonals = {"inputs": layer.inputs.diagonal(), "outputs": layer.outputs.diagonal()}
    thin = dataclasses.replace(layer, **(diagonals if which == "both" else {which: diagonals[which]}))
    inverse = matrix_of(kronecker_preconditioner([thin], [], SCALE, 8), 0.1)
    dense = dense_of([thin], [], 8) + 0.1 * torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(inverse @ dense, torch.eye(8, dtype=torch.float64), rtol=0.0, atol=1e-12)


def test_another_damping_needs_no_new_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    preconditioner = kronecker_preconditioner([layer_of(0, 3, 2, bias=True)], [], SCALE, 8)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    small, large = matrix_of(preconditioner, 0.01), matrix_of(preconditioner, 10.0)
    torch.testing.assert_close(
        large.inverse() - small.inverse(), 9.99 * torch.eye(8, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_other_parameters_get_the_damping_and_the_mean_curvature_of_the_blocks() -> None:
    layer = layer_of(2, 3, 2, bias=True)
    preconditioner = kronecker_preconditioner([layer], [KNOWN], SCALE, 15)
    assert preconditioner.covered == pytest.approx(10 / 15)
    mean = SCALE * float(layer.inputs.trace() * layer.outputs.trace() + 2 * 2.0) / 10
    other = matrix_of(preconditioner, 0.3)[10:]
    torch.testing.assert_close(other[:, 10:], torch.eye(5, dtype=torch.float64) / (0.3 + mean), rtol=1e-12, atol=0.0)
    assert not other[:, :10].any()


@pytest.mark.parametrize(("damping", "expected"), [(0.5, 2.0), (0.0, 1.0)])
def test_with_nothing_to_go_by_it_is_a_multiple_of_the_identity(damping: float, expected: float) -> None:
    preconditioner = kronecker_preconditioner([], [], SCALE, 4)
    assert preconditioner.covered == 0.0
    assert torch.equal(matrix_of(preconditioner, damping), expected * torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("which", ["inputs", "outputs"])
@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda factor: factor * torch.nan, BlockStatus.NON_FINITE),
        (lambda factor: factor / 0.0, BlockStatus.NON_FINITE),
        (lambda factor: 0.0 * factor, BlockStatus.NOT_POSITIVE),
        (lambda factor: -factor, BlockStatus.NOT_POSITIVE),
        (lambda factor: factor - 0.5 * torch.linalg.eigvalsh(factor)[-1] * torch.eye(len(factor)), BlockStatus.NOT_POSITIVE),
        (lambda factor: -factor.diagonal(), BlockStatus.NOT_POSITIVE),
    ],
)
def test_a_bad_factor_leaves_its_layer_out_and_says_so(which: str, spoil: object, status: BlockStatus) -> None:
    good, bad = layer_of(0, 3, 2, bias=True), layer_of(8, 2, 3, bias=True)
    bad = dataclasses.replace(bad, **{which: spoil(getattr(bad, which))})  # type: ignore[operator]
    preconditioner = kronecker_preconditioner([good, bad], [], SCALE, 17)
    assert [block.status for block in preconditioner.blocks] == [BlockStatus.FACTORED, status]
    assert preconditioner.covered == pytest.approx(8 / 17)
    inverse = matrix_of(preconditioner, 0.1)
    torch.testing.assert_close(inverse[:8, :8], matrix_of(kronecker_preconditioner([good], [], SCALE, 17), 0.1)[:8, :8])
    assert bool(torch.isfinite(inverse).all())
    assert len(set(inverse.diagonal()[8:].tolist())) == 1


def singular(size: int, dtype: torch.dtype) -> Tensor:
    v = torch.randn(size, dtype=dtype)
    return torch.outer(v, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("damping", [0.0, 1e-12, 1e-3])
def test_of_singular_factors_it_is_positive_definite_and_finite(dtype: torch.dtype, damping: float) -> None:
    """As few samples give them, or inputs that never vary."""
    layer = dataclasses.replace(layer_of(0, 3, 2, bias=True), inputs=singular(4, dtype), outputs=singular(2, dtype))
    inverse = matrix_of(kronecker_preconditioner([layer], [], SCALE, 8), damping)
    torch.testing.assert_close(inverse, inverse.T, rtol=1e-4, atol=1e-6 * float(inverse.abs().max()))
    assert float(torch.linalg.eigvalsh(0.5 * (inverse + inverse.T)).min()) > 0.0


def test_cg_is_done_at_once_where_the_matrix_is_a_kronecker_product() -> None:
    layers = [layer_of(2, 3, 4, bias=True), layer_of(18, 4, 2, bias=False)]
    dense = dense_of(layers, [KNOWN], 26) + 0.01 * torch.eye(26, dtype=torch.float64)
    g = torch.randn(26, dtype=torch.float64)
    apply = kronecker_preconditioner(layers, [KNOWN], SCALE, 26).inverse(0.01, g)
    result = conjugate_gradient(lambda v: dense @ v, g, CGSettings(5, 1e-10, 5), preconditioner=apply)
    assert (result.status, result.iterations) == (CGStatus.CONVERGED, 1)
    torch.testing.assert_close(result.solution, torch.linalg.solve(dense, g), rtol=1e-9, atol=1e-9)


def test_float32_factors_serve_a_float64_recurrence() -> None:
    layers = [layer_of(0, 3, 4, bias=True, dtype=torch.float32)]
    dense = dense_of(layers, [], 16) + 0.1 * torch.eye(16, dtype=torch.float64)
    g = torch.randn(16, dtype=torch.float64)
    apply = kronecker_preconditioner(layers, [], SCALE, 16).inverse(0.1, g)
    assert apply(g).dtype is torch.float64
    result = conjugate_gradient(lambda v: dense @ v, g, CGSettings(5, 1e-12, 5), preconditioner=apply)
    assert result.status is CGStatus.CONVERGED
    torch.testing.assert_close(result.solution, torch.linalg.solve(dense, g), rtol=1e-10, atol=1e-10)
