"""Preconditioned conjugate gradient, the stop when the step has settled, and how often residuals are orthogonalised."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core import basis
from sb3_trpo_ext.core.basis import ResidualBasis
from sb3_trpo_ext.core.cg import CGResult, CGSettings, conjugate_gradient
from sb3_trpo_ext.core.status import CGStatus
from tests.core.spectra import fisher_like, gain_of, krylov_gain, log_spaced, matrix_of

N = 60


def random_g(n: int = N) -> Tensor:
    return torch.randn(n, dtype=torch.float64)


def solve(matrix: Tensor, g: Tensor, inverse: Tensor | None, max_steps: int = 2 * N, keep: int = 2 * N) -> CGResult:
    apply = None if inverse is None else lambda r: inverse @ r
    return conjugate_gradient(lambda v: matrix @ v, g, CGSettings(max_steps, 1e-13, keep), preconditioner=apply)


@given(of_matrix=st.floats(0.0, 6.0), of_preconditioner=st.floats(0.0, 4.0), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_the_solution_is_that_of_the_dense_system(of_matrix: float, of_preconditioner: float, scale: float) -> None:
    matrix, g = matrix_of(log_spaced(N, 10.0**of_matrix)), random_g()
    result = solve(matrix, g, scale * matrix_of(log_spaced(N, 10.0**of_preconditioner)))
    assert result.status is CGStatus.CONVERGED
    exact = torch.linalg.solve(matrix, g)
    assert float((result.solution - exact).norm() / exact.norm()) < 1e-12 * 10.0**of_matrix


@pytest.mark.parametrize("keep", [0, 7, 60])
def test_the_identity_changes_no_bit(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "CANCELLED", -1.0)  # with a preconditioner it is always two passes
    matrix, g = matrix_of(log_spaced(N, 1e6)), random_g()
    plain, identity = solve(matrix, g, None, 40, keep), solve(matrix, g, torch.eye(N, dtype=torch.float64), 40, keep)
    assert torch.equal(plain.solution, identity.solution)
    assert plain.model_history == identity.model_history
    assert plain.residual_history == identity.residual_history


def test_the_inverse_itself_takes_one_step() -> None:
    matrix, g = matrix_of(log_spaced(N, 1e4)), random_g()
    result = solve(matrix, g, matrix.inverse(), max_steps=3)
    assert result.residual_history[0] < 1e-9
    assert result.model_history[0] == pytest.approx(-0.5 * float(g @ torch.linalg.solve(matrix, g)), rel=1e-9)


@pytest.mark.parametrize("k", [5, 25])
def test_it_reaches_the_best_of_its_krylov_space(k: int) -> None:
    """That of L⁻¹ A L⁻ᵀ and L⁻¹ g with P = L Lᵀ, in other coordinates."""
    matrix, g = matrix_of(fisher_like()), random_g(300)
    preconditioner = matrix_of(log_spaced(300, 1e3))
    half = torch.linalg.inv(torch.linalg.cholesky(preconditioner))
    best = krylov_gain(half @ matrix @ half.T, half @ g, k)
    result = solve(matrix, g, torch.linalg.inv(preconditioner), k)
    assert gain_of(matrix, g, result.solution) == pytest.approx(best, rel=1e-8)
    assert -result.model_history[-1] == pytest.approx(best, rel=1e-8)


def largest_overlap(keep: int) -> float:
    """Largest cosine of two residuals in the inner product of the preconditioner."""
    matrix, inverse = matrix_of(fisher_like()), matrix_of(log_spaced(300, 1e3))
    seen: list[Tensor] = []

    def apply(r: Tensor) -> Tensor:
        seen.append(r)
        return inverse @ r

    conjugate_gradient(lambda v: matrix @ v, random_g(300), CGSettings(60, 0.0, keep), preconditioner=apply)
    rows = torch.stack(seen)
    gram = rows @ inverse @ rows.T
    lengths = gram.diagonal().sqrt()
    return float((gram / lengths / lengths.unsqueeze(-1) - torch.eye(len(rows), dtype=torch.float64)).abs().max())


def test_residuals_stay_orthogonal_in_the_inner_product_of_the_preconditioner() -> None:
    assert largest_overlap(keep=60) < 1e-12
    assert largest_overlap(keep=0) > 1e-3


# ---------------------------------------------------------------- preconditioners that are none


@pytest.mark.parametrize("factor", [-1.0, 0.0, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("k", [0, 4])
def test_a_bad_preconditioner_is_a_status_and_what_was_gained_before_is_kept(factor: float, k: int) -> None:
    matrix, g = matrix_of(log_spaced(N, 1e4)), random_g()
    calls = 0

    def apply(r: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return factor * r if calls == k + 1 else r

    result = conjugate_gradient(lambda v: matrix @ v, g, CGSettings(20, 1e-10, 60), preconditioner=apply)
    assert (result.status, result.iterations) == (CGStatus.BAD_PRECONDITIONER, k)
    assert result.status.failed
    assert bool(torch.isfinite(result.solution).all())
    if k > 0:
        torch.testing.assert_close(result.solution, solve(matrix, g, None, k).solution, rtol=1e-12, atol=1e-14)
    else:
        assert not result.solution.any()


def test_an_indefinite_preconditioner_is_found_out() -> None:
    inverse = matrix_of(torch.cat([torch.tensor([-1.0]), torch.linspace(0.5, 1.0, N - 1)]).double())
    assert solve(matrix_of(log_spaced(N, 1e4)), random_g(), inverse).status.failed


def test_a_converged_solve_asks_no_more_of_the_preconditioner() -> None:
    """At the solution rᵀz may be zero: that is no fault of it."""
    g = torch.ones(4, dtype=torch.float64)
    result = conjugate_gradient(lambda v: v, g, CGSettings(5, 1e-10, 5), preconditioner=lambda r: 2.0 * r)
    assert (result.status, result.iterations) == (CGStatus.CONVERGED, 1)


# ---------------------------------------------------------------- the step has settled


@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize("progress", [5e-4, 1e-2])
def test_it_stops_at_the_first_iteration_where_the_model_no_longer_falls(progress: float, window: int) -> None:
    matrix, g = matrix_of(log_spaced(200, 1e3)), random_g(200)
    full = conjugate_gradient(lambda v: matrix @ v, g, CGSettings(150, 0.0, 150))
    result = conjugate_gradient(lambda v: matrix @ v, g, CGSettings(150, 0.0, 150, progress=progress, window=window))

    def settled(done: int) -> bool:
        k = max(window, -(-done // 10))
        q = full.model_history
        return done > k and (q[done - 1] - q[done - 1 - k]) / q[done - 1] < k * progress

    first = next(done for done in range(1, 151) if settled(done))
    assert (result.status, result.iterations) == (CGStatus.SETTLED, first)
    assert not result.status.failed
    assert result.model_history == full.model_history[:first]
    assert torch.equal(result.solution, conjugate_gradient(lambda v: matrix @ v, g, CGSettings(first, 0.0, 150)).solution)


def test_by_default_it_never_settles() -> None:
    """Not even where the model stands still, within rounding, before the residual converges."""
    matrix, g = matrix_of(log_spaced(N, 1e2)), random_g()
    result = conjugate_gradient(lambda v: matrix @ v, g, CGSettings(200, 1e-13, 200))
    assert result.status is CGStatus.CONVERGED


# ---------------------------------------------------------------- one pass or two


@pytest.mark.parametrize("exponent", [3, 6, 9, 12])
def test_a_second_pass_where_it_is_not_needed_changes_no_more_than_rounding(
    exponent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against what one ulp in the products does, with two passes: 1e-13 up to a condition of 1e6."""
    matrix, g = matrix_of(log_spaced(N, 10.0**exponent)), random_g()

    def rounded(v: Tensor) -> Tensor:
        out = matrix @ v
        return out * (1.0 + torch.finfo(out.dtype).eps * torch.randn_like(out))

    once = solve(matrix, g, None, 25)
    monkeypatch.setattr(basis, "CANCELLED", -1.0)
    twice = solve(matrix, g, None, 25)
    inherent = [conjugate_gradient(rounded, g, CGSettings(25, 1e-13, 25)).solution for _ in range(5)]
    by_one_ulp = max(float((other - twice.solution).norm()) for other in inherent)
    moved = float((once.solution - twice.solution).norm())
    assert moved <= 3.0 * by_one_ulp
    assert moved <= 1e-13 * float(twice.solution.norm()) or exponent > 6
    assert once.model_history[-1] == pytest.approx(twice.model_history[-1], rel=1e-9)


def basis_of(rows: Tensor, duals: Tensor, paired: bool) -> ResidualBasis:
    made = ResidualBasis(len(rows), rows[0], paired)
    for r, z in zip(rows, duals, strict=True):
        made.add(r, z, torch.ones((), dtype=r.dtype))
    return made


def test_a_residual_that_nearly_vanishes_is_orthogonalised_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.linalg.qr(random_g(N * 12).view(N, 12)).Q.T
    residual = rows.T @ random_g(12) + 1e-10 * random_g()
    kept = basis_of(rows, rows, paired=False)
    left = kept.orthogonalise(residual)
    assert float((rows @ left).norm() / left.norm()) < 1e-14
    monkeypatch.setattr(basis, "CANCELLED", 1.1)
    once = kept.orthogonalise(residual)
    assert float((rows @ once).norm() / once.norm()) > 1e-9, "one pass is not enough here, or the test shows nothing"


def test_with_a_preconditioner_it_is_always_twice() -> None:
    """Rows that are long in the plain inner product and of unit length in the other one: a plain norm would mislead."""
    q = torch.linalg.qr(random_g(N * 12).view(N, 12)).Q.T
    rows, duals = 1e3 * q, 1e-3 * q
    left = basis_of(rows, duals, paired=True).orthogonalise(rows.T @ random_g(12) + 1e-9 * random_g())
    assert float((q @ left).norm() / left.norm()) < 1e-12
