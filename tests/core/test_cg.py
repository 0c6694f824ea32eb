"""Conjugate gradient on constructed spectra: what it returns, and that every ending is named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core.cg import CGResult, CGSettings, conjugate_gradient
from sb3_trpo_ext.core.status import CGStatus
from tests.core.spectra import gain_of, log_spaced, matrix_of

N = 60


def solve(matrix: Tensor, g: Tensor, max_steps: int = 2 * N, rtol: float = 1e-10, keep: int = 2 * N) -> CGResult:
    return conjugate_gradient(lambda v: matrix @ v, g, CGSettings(max_steps, rtol, keep))


def random_g(n: int = N) -> Tensor:
    return torch.randn(n, dtype=torch.float64)


@pytest.mark.parametrize("exponent", range(0, 13, 2))
def test_backward_error_and_status_at_every_condition_number(exponent: int) -> None:
    matrix, g = matrix_of(log_spaced(N, 10.0**exponent)), random_g()
    result = solve(matrix, g, rtol=1e-13)
    x = result.solution
    backward_error = (g - matrix @ x).norm() / (torch.linalg.matrix_norm(matrix, 2) * x.norm() + g.norm())
    assert float(backward_error) < 1e-13
    assert result.status is CGStatus.CONVERGED
    if exponent < 8:
        exact = torch.linalg.solve(matrix, g)
        assert float((x - exact).norm() / exact.norm()) < 1e-13 * 10.0**exponent + 1e-12


@pytest.mark.parametrize("keep", [0, 60])
@pytest.mark.parametrize("rtol", [1e-3, 1e-7, 1e-10, 1e-13])
def test_converged_means_that_the_true_residual_reached_rtol(keep: int, rtol: float) -> None:
    """Also where the model stands still: it is flat to the square of the residual."""
    result = solve(matrix_of(log_spaced(N, 10.0)), random_g(), rtol=rtol, keep=keep)
    assert result.status is CGStatus.CONVERGED
    assert result.residual is not None
    assert result.residual <= rtol + 1e-14


def test_without_reorthogonalisation_condition_1e12_is_out_of_reach() -> None:
    """The reason for ``keep``: the same steps, the same matrix."""
    matrix, g = matrix_of(log_spaced(N, 1e12)), random_g()
    assert solve(matrix, g, keep=0).status is not CGStatus.CONVERGED
    assert solve(matrix, g, keep=N).status is CGStatus.CONVERGED


def test_the_identity_takes_one_step() -> None:
    g = random_g()
    result = solve(3.0 * torch.eye(N, dtype=torch.float64), g)
    assert (result.status, result.iterations) == (CGStatus.CONVERGED, 1)
    torch.testing.assert_close(result.solution, g / 3.0, rtol=1e-14, atol=0)


def test_as_many_steps_as_distinct_eigenvalues() -> None:
    eigenvalues = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).repeat(N // 3)
    result = solve(matrix_of(eigenvalues), random_g())
    assert (result.status, result.iterations) == (CGStatus.CONVERGED, 3)


# ---------------------------------------------------------------- what is reported is true


@pytest.mark.parametrize("max_steps", [1, 7, 25])
def test_residual_and_product_are_those_of_the_solution(max_steps: int) -> None:
    matrix, g = matrix_of(log_spaced(N, 1e4)), random_g()
    result = solve(matrix, g, max_steps)
    assert (result.status, result.iterations) == (CGStatus.MAX_STEPS, max_steps)
    torch.testing.assert_close(result.damped_product, matrix @ result.solution, rtol=1e-10, atol=1e-12)
    assert result.residual == pytest.approx(float((g - matrix @ result.solution).norm() / g.norm()), rel=1e-10)
    assert result.curvature == pytest.approx(float(result.solution @ matrix @ result.solution), rel=1e-12)
    assert result.residual_history[-1] == pytest.approx(result.residual, rel=1e-9)


def test_model_history_is_the_quadratic_model_and_falls() -> None:
    matrix, g = matrix_of(log_spaced(N, 1e6)), 3.0 * random_g()
    history = solve(matrix, g, 30).model_history
    by_hand = [-gain_of(matrix, g, solve(matrix, g, k).solution) for k in range(1, 31)]
    assert history == pytest.approx(by_hand, rel=1e-11)
    assert all(later < earlier for earlier, later in zip((0.0, *history), history, strict=False))


def test_an_early_stop_at_rtol_honours_it() -> None:
    matrix, g = matrix_of(log_spaced(N, 1e4)), random_g()
    result = solve(matrix, g, rtol=1e-3)
    assert result.status is CGStatus.CONVERGED
    assert result.residual is not None
    assert result.residual <= 1e-3 < result.residual_history[-2]


@pytest.mark.parametrize("keep", [0, 1, 7, 200])
def test_kept_residuals_are_bounded_and_reported(keep: int) -> None:
    assert solve(matrix_of(log_spaced(N, 1e4)), random_g(), 25, keep=keep).kept == min(keep, 25)


@pytest.mark.parametrize("size", [1e-150, 1e-20, 1.0, 1e20, 1e150])
@pytest.mark.parametrize("stiffness", [1e-60, 1.0, 1e60])
def test_the_answer_scales_with_gradient_and_matrix(size: float, stiffness: float) -> None:
    """Neither a tiny standard deviation nor a huge reward changes what is done: only units do."""
    matrix, g = matrix_of(log_spaced(N, 1e4)), random_g()
    plain, scaled = solve(matrix, g, 20), solve(stiffness * matrix, size * g, 20)
    assert (scaled.status, scaled.iterations) == (plain.status, plain.iterations)
    torch.testing.assert_close(scaled.solution / size * stiffness, plain.solution, rtol=1e-11, atol=1e-13)
    assert scaled.residual == pytest.approx(plain.residual, rel=1e-10)


def test_a_gradient_whose_square_overflows_is_data() -> None:
    result = solve(torch.eye(2, dtype=torch.float64), torch.tensor([3e153, 4e153], dtype=torch.float64) * 1e3)
    assert result.status in (CGStatus.CONVERGED, CGStatus.NON_FINITE)


# ---------------------------------------------------------------- one test a status (converged, max_steps: above)


def test_zero_gradient() -> None:
    result = solve(torch.eye(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64))
    assert (result.status, result.iterations, result.residual, result.curvature) == (CGStatus.ZERO_GRADIENT, 0, None, None)
    assert not result.status.failed
    assert not result.solution.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_gradient(bad: float) -> None:
    g = random_g()
    g[5] = bad
    result = solve(torch.eye(N, dtype=torch.float64), g)
    assert (result.status, result.iterations) == (CGStatus.NON_FINITE, 0)
    assert not result.solution.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("k", [1, 4])
def test_non_finite_product_at_iteration_k_keeps_the_iterate_before_it(bad: float, k: int) -> None:
    matrix, g = matrix_of(log_spaced(N, 1e4)), random_g()
    calls = 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = matrix @ v
        if calls == k:
            out[3] = bad
        return out

    result = conjugate_gradient(product, g, CGSettings(20, 1e-10, 60))
    assert (result.status, result.iterations) == (CGStatus.NON_FINITE, k - 1)
    before = solve(matrix, g, k - 1).solution if k > 1 else torch.zeros_like(g)
    assert torch.equal(result.solution, before)


def test_only_the_last_product_is_non_finite() -> None:
    result = conjugate_gradient(lambda v: v, random_g(), CGSettings(5, 1e-10, 60), lambda v: torch.full_like(v, torch.nan))
    assert (result.status, result.residual, result.curvature) == (CGStatus.NON_FINITE, None, None)


def test_a_step_of_infinite_length_is_non_finite() -> None:
    result = solve(1e-310 * torch.eye(N, dtype=torch.float64), random_g())
    assert (result.status, result.iterations) == (CGStatus.NON_FINITE, 1)
    assert not result.solution.any()


def test_zero_curvature_where_the_gradient_is_in_the_null_space() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    result = solve(matrix, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    assert (result.status, result.iterations) == (CGStatus.ZERO_CURVATURE, 0)
    rounded = matrix + torch.diag(torch.tensor([0.0, 0.0, -1e-17], dtype=torch.float64))
    rounded[0, 2] = rounded[2, 0] = 1.0
    assert solve(rounded, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).status is CGStatus.ZERO_CURVATURE


def test_negative_curvature_keeps_what_was_gained_before() -> None:
    matrix = matrix_of(torch.cat([torch.tensor([-0.5]), torch.linspace(1.0, 9.0, N - 1)]).double())
    g = random_g()
    result = solve(matrix, g)
    assert result.status is CGStatus.NEGATIVE_CURVATURE
    assert result.iterations > 1
    assert gain_of(matrix, g, result.solution) > 0.0


@pytest.mark.parametrize("b", [[1.0, -1.0, 0.0], [5.0, 2.0, 1.0], [0.3, 1.0, -2.0]])
def test_the_matrix_of_contribs_own_test_is_indefinite_and_is_found_out(b: list[float]) -> None:
    matrix = torch.tensor([[1.0, 2.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(matrix).min()) < -0.9
    assert solve(matrix, torch.tensor(b, dtype=torch.float64)).status is CGStatus.NEGATIVE_CURVATURE


def rotated(v: Tensor) -> Tensor:
    """A = I + a strong skew part: positive curvature along every direction, and yet not symmetric."""
    half = len(v) // 2
    return v + 3.0 * torch.cat([v[half:], -v[:half]])


def noisy(v: Tensor) -> Tensor:
    return matrix_of(log_spaced(N, 1e3)) @ v


def drifting(v: Tensor) -> Tensor:
    drifting.calls += 1  # type: ignore[attr-defined]
    return (1.0 + 0.2 * drifting.calls) * v * torch.linspace(1.0, 2.0, N, dtype=torch.float64)  # type: ignore[attr-defined]


drifting.calls = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("product", [rotated, noisy, drifting])
@pytest.mark.parametrize("keep", [0, 60])
def test_diverged_where_the_products_are_no_symmetric_matrix(product: Callable[[Tensor], Tensor], keep: int) -> None:
    assert conjugate_gradient(product, random_g(), CGSettings(25, 1e-10, keep)).status is CGStatus.DIVERGED


def test_diverged_where_the_true_product_disagrees() -> None:
    g = random_g()
    true = matrix_of(log_spaced(N, 1e2))
    result = conjugate_gradient(lambda v: 1.05 * (true @ v), g, CGSettings(30, 1e-10, 60), lambda v: true @ v)
    assert result.status is CGStatus.DIVERGED
    assert result.residual == pytest.approx(0.05 / 1.05, rel=1e-3), "the reported residual is the true one"


def test_the_best_iterate_is_returned_not_the_last() -> None:
    """One product is wrong across the search direction: the model rises, and the iterate before it comes back."""
    matrix, g = matrix_of(log_spaced(N, 1e3)), random_g()
    before = solve(matrix, g, 8, keep=0).solution
    calls = 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        across = before - (before @ v) / (v @ v) * v
        return matrix @ v + (1e3 * across if calls == 9 else 0.0)

    result = conjugate_gradient(product, g, CGSettings(40, 1e-10, 0))
    assert (result.status, result.iterations) == (CGStatus.DIVERGED, 9)
    assert result.model_history[8] > result.model_history[7]
    assert torch.equal(result.solution, before)
