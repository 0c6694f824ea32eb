"""
Conjugate gradient for (F + lambda I) x = g, that says how it ended.

Hestenes and Stiefel, "Methods of conjugate gradients", 1952, in the normalisation |g| = 1. Differences from the textbook
and from sb3-contrib:

1. It starts from zero, so that the quadratic model q(x) = xᵀAx/2 - gᵀx falls monotonically from 0.
2. Each new residual is orthogonalised against the earlier ones (``core.basis``). Plain CG loses orthogonality within tens of
   iterations on Fisher matrices, and with it up to a fifth of the gain.
3. Reaching ``max_steps`` is the normal outcome. A solve has failed if something is not finite, if the curvature along a
   direction is not positive beyond rounding, or if it diverged: q rose, or the recurrence's residual is not the true one.
4. The best iterate (lowest q) is returned, and one last product gives its true residual and the step scale's xᵀAx.
5. With a preconditioner P, residuals r are orthogonal in the inner product of P^-1: (r_i, z_j) = 0 with z = P^-1 r. Both are
   kept, so P is applied once an iteration.
6. It may stop once q no longer falls (Martens, "Deep learning via Hessian-free optimization", 2010, section 4.4): the step
   is what counts, and the residual of a Fisher system is still large when the step has settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sb3_trpo_ext.core.basis import ResidualBasis
from sb3_trpo_ext.core.status import CGStatus

RESIDUAL_GAP = 1e-2
"""Diverged if true and recurrence residual differ by more than this share of |g|, far above what rounding adds."""

CURVATURE_ROUNDING = 4.0
"""Curvature pᵀAp counts as zero up to this many eps * sqrt(n) * |p| |Ap|, the rounding of the inner product."""

WINDOW_SHARE = 0.1
"""The window over which q must fall is at least this share of the iterations done (Martens, 2010)."""


@dataclass(frozen=True)
class CGSettings:
    """
    How to solve.

    :param max_steps: largest number of iterations, >= 1
    :param rtol: stop at this relative residual, >= 0
    :param keep: number of earlier residuals that a new one is orthogonalised against, newest first; 0: plain CG;
        each takes n numbers, twice that with a preconditioner
    :param product_eps: relative rounding of the products, if coarser than the recurrence's: below it, curvature is zero
    :param progress: stop once q falls by less than this share of itself an iteration; 0: never (Martens, 2010: 5e-4)
    :param window: iterations over which that is averaged, >= 1 (Martens, 2010: 10)
    """

    max_steps: int
    rtol: float
    keep: int
    product_eps: float = 0.0
    progress: float = 0.0
    window: int = 10


@dataclass(frozen=True)
class CGResult:
    """
    What came out of a solve.

    :param solution: best iterate x, shape (n,), dtype of g
    :param status: how it ended
    :param iterations: iterations done
    :param damped_product: (F + lambda I) x by one last product, shape (n,)
    :param residual: true relative residual |g - (F + lambda I) x| / |g|; None if there is none
    :param curvature: xᵀ(F + lambda I)x; None if it is not finite
    :param residual_history: relative residual of the recurrence after each iteration
    :param model_history: q(x) after each iteration, in the unit of the surrogate
    :param kept: residuals that were orthogonalised against
    """

    solution: Tensor
    status: CGStatus
    iterations: int
    damped_product: Tensor
    residual: float | None
    curvature: float | None
    residual_history: tuple[float, ...]
    model_history: tuple[float, ...]
    kept: int


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    g: Tensor,
    settings: CGSettings,
    true_product: Callable[[Tensor], Tensor] | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> CGResult:
    """
    Solve A x = g for a symmetric positive definite operator A.

    :param product: v -> A v, shape (n,)
    :param g: right-hand side, shape (n,); its dtype is that of the recurrence
    :param settings: when to stop, how much to orthogonalise
    :param true_product: product for the last step, if more precise than ``product``
    :param preconditioner: r -> P^-1 r, shape (n,), symmetric positive definite and the closer to A^-1 the better
    :return: solution, status and histories; numerical failure is a status, never an exception
    """
    # In float64: the square of a small float32 gradient is zero, and the gradient is not.
    norm = float(torch.linalg.vector_norm(g, dtype=torch.float64))
    if not math.isfinite(norm):
        return _without_solution(g, CGStatus.NON_FINITE)
    if norm == 0.0:
        return _without_solution(g, CGStatus.ZERO_GRADIENT)
    run = _Recurrence(g / norm, settings, preconditioner)
    status = CGStatus.MAX_STEPS
    for _ in range(settings.max_steps):
        outcome = run.step(product)
        if outcome is not None:
            status = outcome
            break
    return _verified(run, status, g, norm, true_product or product)


@dataclass
class _Recurrence:
    """State of the iteration, in the normalisation |g| = 1."""

    b: Tensor
    settings: CGSettings
    preconditioner: Callable[[Tensor], Tensor] | None
    x: Tensor = field(init=False)
    best: Tensor = field(init=False)
    best_residual: Tensor = field(init=False)
    best_model: float = 0.0
    residuals: list[float] = field(default_factory=list)
    models: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.eps = torch.finfo(self.b.dtype).eps
        self.x = self.best = torch.zeros_like(self.b)
        self.r = self.best_residual = self.b.clone()
        self.z = self._preconditioned(self.r)
        self.p = self.z.clone()
        self.rz = self.r.dot(self.z)
        self.basis = ResidualBasis(self.settings.keep, self.b, paired=self.preconditioner is not None)

    def step(self, product: Callable[[Tensor], Tensor]) -> CGStatus | None:
        """One iteration; a status ends it."""
        if self.preconditioner is not None and not self.models and not _positive(float(self.rz)):
            return CGStatus.BAD_PRECONDITIONER
        self.basis.add(self.r, self.z, self.rz.sqrt())
        ap = product(self.p)
        curvature = self.p.dot(ap)
        alpha = self.rz / curvature
        x = self.x + alpha * self.p
        r = self.basis.orthogonalise(self.r - alpha * ap)
        z = self._preconditioned(r)
        rz = r.dot(z)
        rr = rz if z is r else r.dot(r)
        # One read an iteration: an accelerator has to catch up at each. Of a bad curvature the rest is thrown away.
        scalars = [curvature, self.p.norm() * ap.norm(), -0.5 * x.dot(self.b + r), rr, rz]
        along, size, model, squared, dual = torch.stack(scalars).tolist()
        bad = self._bad_curvature(along, size)
        if bad is not None:
            return bad
        return self._accept(x, r, z, rz, model, squared**0.5, dual)

    def _preconditioned(self, r: Tensor) -> Tensor:
        return r if self.preconditioner is None else self.preconditioner(r)

    def _bad_curvature(self, curvature: float, size: float) -> CGStatus | None:
        rounding = CURVATURE_ROUNDING * max(self.eps, self.settings.product_eps) * self.b.numel() ** 0.5 * size
        if not math.isfinite(curvature + size):
            return CGStatus.NON_FINITE
        if curvature > rounding:
            return None
        return CGStatus.NEGATIVE_CURVATURE if curvature < -rounding else CGStatus.ZERO_CURVATURE

    def _accept(
        self, x: Tensor, r: Tensor, z: Tensor, rz: Tensor, model: float, residual: float, dual: float
    ) -> CGStatus | None:
        previous = self.models[-1] if self.models else 0.0
        self.residuals.append(residual)
        self.models.append(model)
        if not math.isfinite(model + residual):
            return CGStatus.NON_FINITE
        self.p = z + (rz / self.rz) * self.p
        self.x, self.r, self.z, self.rz = x, r, z, rz
        # Rounding of q: its terms are of the size of |q| itself, of which eps * sqrt(n) may be wrong.
        rounding = CURVATURE_ROUNDING * self.eps * self.b.numel() ** 0.5 * max(abs(previous), abs(model))
        # q is flat near its minimum: it stands still at a residual of sqrt(eps). Of equal models the newest is the best.
        if model <= self.best_model + rounding:
            self.best, self.best_residual, self.best_model = x, r, min(model, self.best_model)
        if model > previous + rounding:
            return CGStatus.DIVERGED
        # Below eps, what is left of the residual is rounding: another direction would be noise.
        if residual <= max(self.settings.rtol, self.eps):
            return CGStatus.CONVERGED
        if not _positive(dual):
            return CGStatus.BAD_PRECONDITIONER
        return CGStatus.SETTLED if self._settled() else None

    def _settled(self) -> bool:
        """Whether q fell by less than ``progress`` of itself an iteration, over a window that is full."""
        done = len(self.models)
        window = max(self.settings.window, math.ceil(WINDOW_SHARE * done))
        if self.settings.progress == 0.0 or done <= window:
            return False
        now, before = self.models[-1], self.models[-1 - window]
        return before - now < window * self.settings.progress * -now


def _positive(dual: float) -> bool:
    """Whether rᵀP^-1 r is that of a positive definite P."""
    return math.isfinite(dual) and dual > 0.0


def _without_solution(g: Tensor, status: CGStatus) -> CGResult:
    zero = torch.zeros_like(g)
    return CGResult(zero, status, 0, zero, None, None, (), (), 0)


def _verified(run: _Recurrence, status: CGStatus, g: Tensor, norm: float, product: Callable[[Tensor], Tensor]) -> CGResult:
    """The best iterate with its true residual, from one last product."""
    ax = product(run.best)
    true_residual = run.b - ax
    gap, residual, curvature = torch.stack(
        [(true_residual - run.best_residual).norm(), true_residual.norm(), run.best.dot(ax)]
    ).tolist()
    finite = math.isfinite(gap + residual + curvature)
    if not finite:
        status = CGStatus.NON_FINITE
    elif not status.failed and gap > RESIDUAL_GAP:
        status = CGStatus.DIVERGED
    return CGResult(
        solution=run.best * norm,
        status=status,
        iterations=len(run.models),
        damped_product=ax * norm,
        residual=residual if finite else None,
        curvature=curvature * norm**2 if finite else None,
        residual_history=tuple(run.residuals),
        model_history=tuple(model * norm**2 for model in run.models),
        kept=run.basis.held,
    )
