"""Re-orthogonalisation and precisions: how much of the possible gain is kept, and whether it can be reproduced."""

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core.cg import CGResult, CGSettings, conjugate_gradient
from sb3_trpo_ext.core.status import CGStatus
from tests.core.spectra import fisher_like, gain_of, krylov_gain, log_spaced, matrix_of

K = 60


@pytest.fixture
def stiff() -> tuple[Tensor, Tensor]:
    """A Fisher-like matrix, and a gradient as it comes from one: large where the curvature is."""
    eigenvalues = fisher_like()
    matrix = matrix_of(eigenvalues)
    return matrix, matrix @ torch.randn(len(matrix), dtype=torch.float64) + 1e-3 * torch.randn(
        len(matrix), dtype=torch.float64
    )


def solve(matrix: Tensor, g: Tensor, keep: int, ulps: float = 0.0) -> CGResult:
    def product(v: Tensor) -> Tensor:
        out = matrix @ v
        return out * (1.0 + ulps * torch.finfo(out.dtype).eps * torch.randn_like(out))

    return conjugate_gradient(product, g, CGSettings(K, 0.0, keep))


def share(matrix: Tensor, g: Tensor, result: CGResult, k: int = K) -> float:
    return gain_of(matrix, g, result.solution.double()) / krylov_gain(matrix, g, k)


def test_reorthogonalised_keeps_all_of_the_possible_gain_and_plain_loses_some(stiff: tuple[Tensor, Tensor]) -> None:
    with_basis, without = solve(*stiff, keep=K), solve(*stiff, keep=0)
    assert share(*stiff, with_basis) == pytest.approx(1.0, abs=1e-8)
    assert share(*stiff, without) < 0.99
    assert not with_basis.status.failed


def test_a_bound_on_memory_lies_between(stiff: tuple[Tensor, Tensor]) -> None:
    bounded = share(*stiff, solve(*stiff, keep=40))
    assert share(*stiff, solve(*stiff, keep=0)) < bounded < share(*stiff, solve(*stiff, keep=K))


def test_the_newest_residuals_are_the_ones_that_are_kept() -> None:
    """Search directions stay conjugate to the newest ones, and lose it to those that fell out of the ring."""
    matrix = matrix_of(fisher_like())
    directions: list[Tensor] = []

    def product(v: Tensor) -> Tensor:
        directions.append(v)
        return matrix @ v

    conjugate_gradient(product, torch.randn(300, dtype=torch.float64), CGSettings(40, 0.0, 8))
    units = torch.stack([p / p.norm() for p in directions])
    conjugacy = (units @ matrix @ units.T).abs()
    scale = conjugacy.diagonal().sqrt()
    conjugacy = conjugacy / scale / scale.unsqueeze(-1)
    near = max(float(conjugacy[i, i - 1]) for i in range(1, 40))
    far = max(float(conjugacy[i, j]) for i in range(20, 40) for j in range(i - 12))
    assert near < 1e-6 < far


def test_a_perturbation_of_one_ulp_does_not_move_the_solution(stiff: tuple[Tensor, Tensor]) -> None:
    def moved(keep: int) -> float:
        one, two = solve(*stiff, keep=keep).solution, solve(*stiff, keep=keep, ulps=1.0).solution
        return float((one - two).norm() / one.norm())

    assert moved(K) < 1e-9
    assert moved(0) > 1e4 * moved(K)


def test_float32_recurrence_says_what_it_reached(stiff: tuple[Tensor, Tensor]) -> None:
    matrix, g = stiff
    result = solve(matrix.float(), g.float(), keep=K)
    assert result.solution.dtype is torch.float32
    assert all(part == part and abs(part) < 1e30 for part in result.model_history)
    assert share(matrix, g, result) > 0.95
    assert share(matrix, g, solve(matrix.float(), g.float(), keep=0)) < 0.8


def test_float32_converges_where_it_can() -> None:
    matrix, g = matrix_of(log_spaced(40, 50.0)), torch.randn(40, dtype=torch.float64)
    result = conjugate_gradient(lambda v: matrix.float() @ v, g.float(), CGSettings(200, 1e-10, 60))
    assert result.status is CGStatus.CONVERGED, "rtol below float32's eps ends at eps, not in noise"
    exact = torch.linalg.solve(matrix, g)
    assert float((result.solution.double() - exact).norm() / exact.norm()) < 1e-3


def test_mixed_precision_has_a_true_float64_residual(stiff: tuple[Tensor, Tensor]) -> None:
    """float32 products inside a float64 recurrence keep almost everything; the verification is float64."""
    matrix, g = stiff
    rounded = matrix.float()
    settings = CGSettings(25, 0.0, K)
    result = conjugate_gradient(lambda v: (rounded @ v.float()).double(), g, settings, lambda v: matrix @ v)
    assert result.status is CGStatus.MAX_STEPS
    assert share(matrix, g, result, 25) > 0.999
    true_residual = float((g - matrix @ result.solution).norm() / g.norm())
    assert result.residual == pytest.approx(true_residual, rel=1e-10)
    assert abs(result.residual - result.residual_history[-1]) > 1e-12, "the recurrence's own residual is another number"


@pytest.mark.parametrize("size", [1e-25, 1e-10, 1e10, 1e25])
def test_a_float32_gradient_whose_square_is_no_float32_number_is_solved(size: float) -> None:
    g = torch.randn(40, dtype=torch.float64)
    result = conjugate_gradient(lambda v: 2.0 * v, (size * g).float(), CGSettings(5, 1e-5, 5))
    assert result.status is CGStatus.CONVERGED
    torch.testing.assert_close(result.solution.double(), 0.5 * size * g, rtol=1e-6, atol=0)


def test_curvature_below_the_rounding_of_the_products_is_zero_not_negative() -> None:
    """Float32 products of a singular matrix in a float64 recurrence."""
    g = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def product(v: Tensor) -> Tensor:
        return torch.stack([v[0], -1e-7 * v[1] + v[1] * 0.0]) + torch.stack([v[1], 0.0 * v[0]])

    coarse = CGSettings(5, 0.0, 5, product_eps=torch.finfo(torch.float32).eps)
    assert conjugate_gradient(product, g, coarse).status is CGStatus.ZERO_CURVATURE
    assert conjugate_gradient(product, g, CGSettings(5, 0.0, 5)).status is CGStatus.NEGATIVE_CURVATURE
