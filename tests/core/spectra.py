"""Symmetric matrices of known spectrum, and the best that any Krylov method could do with them."""

import torch
from torch import Tensor


def random_basis(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q


def matrix_of(eigenvalues: Tensor) -> Tensor:
    basis = random_basis(len(eigenvalues))
    matrix = (basis * eigenvalues) @ basis.T
    return 0.5 * (matrix + matrix.T)


def log_spaced(n: int, condition: float) -> Tensor:
    """Eigenvalues from 1 / condition to 1."""
    return torch.logspace(-torch.log10(torch.tensor(condition)).item(), 0.0, n, dtype=torch.float64)


def fisher_like(n: int = 300, damping: float = 1e-6) -> Tensor:
    """A few large eigenvalues over a long tail, damped: the spectrum on which plain CG loses orthogonality."""
    large = torch.logspace(-2.0, 2.0, 25, dtype=torch.float64)
    tail = torch.logspace(-10.0, -3.0, n - 25, dtype=torch.float64)
    return torch.cat([tail, large]) + damping


def krylov_gain(matrix: Tensor, g: Tensor, k: int) -> float:
    """
    The largest gᵀx - xᵀAx/2 in the Krylov space of dimension k.

    By an orthonormal basis that is orthogonalised in full (Arnoldi, three times): nothing shared with the code under test.
    """
    basis = [g / g.norm()]
    for _ in range(k - 1):
        v = matrix @ basis[-1]
        done = torch.stack(basis)
        for _ in range(3):
            v = v - done.T @ (done @ v)
        basis.append(v / v.norm())
    rows = torch.stack(basis)
    reduced = rows @ matrix @ rows.T
    b = rows @ g
    return 0.5 * float(b @ torch.linalg.solve(0.5 * (reduced + reduced.T), b))


def gain_of(matrix: Tensor, g: Tensor, x: Tensor) -> float:
    return float(g @ x - 0.5 * x @ (matrix @ x))
