"""
The policy step of one TRPO update, from a batch to a verified policy: composes the steps of ``core``.

    on-policy check -> advantages -> gradient -> Fisher products -> conjugate gradient -> step scale -> line search
    -> accepted parameters, or the old ones bit for bit -> next damping

(The critic's epochs, ``core.critic``, follow it and share nothing with it.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sb3_trpo_ext.core.cg import CGResult, CGSettings, conjugate_gradient
from sb3_trpo_ext.core.damping import DampingEvidence, DampingState, next_damping, retry_dampings
from sb3_trpo_ext.core.fisher import FisherOperator
from sb3_trpo_ext.core.flat import Parameters, as_deployed, assign, flatten
from sb3_trpo_ext.core.line_search import LineSearchResult, LineSearchSettings, backtrack
from sb3_trpo_ext.core.objective import Advantages, Evaluation, OnPolicyCheck, Surrogate, check_on_policy, prepare_advantages
from sb3_trpo_ext.core.preconditioner import KroneckerPreconditioner
from sb3_trpo_ext.core.reduce import WeightedMean
from sb3_trpo_ext.core.status import CGStatus, OnPolicyStatus, UpdateStatus
from sb3_trpo_ext.core.step_scale import StepScale, step_scale

PRODUCT_DTYPE = {"float64": torch.float64, "mixed": torch.float32, "float32": torch.float32}
LEAST_COVERED = 0.5
"""A preconditioner is used if it knows at least this share of the parameters: about the others it only guesses."""

RECURRENCE_DTYPE = {"float64": torch.float64, "mixed": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class PolicyProblem:
    """
    The policy step's data.

    :param surrogate: objective and KL around pi_k; its advantages are the raw ones
    :param parameters: the actor's live parameters, in the policy's dtypes and on its device
    :param linearised: the actor at theta_k over the whole batch, in the precision of the evaluation
    :param thinned_mean: mean of the Fisher products over a sub-sample; None: over the whole batch
    :param evidence: divergences between behaviour and policy, shape (n_samples, n_kinds)
    :param noise: divergences between two evaluations of the policy, same shape
    :param cells: environment and block of time of each sample, shape (n_samples,); None if unknown
    :param explained_variance: of the returns by the values of the batch; None if the returns don't vary
    :param preconditioner: makes CG's preconditioner, if it is to have one
    """

    surrogate: Surrogate
    parameters: Parameters
    linearised: FisherOperator
    thinned_mean: WeightedMean | None
    evidence: Tensor
    noise: Tensor
    cells: Tensor | None
    explained_variance: float | None
    preconditioner: Callable[[], KroneckerPreconditioner] | None = None

    @property
    def fisher_mean(self) -> WeightedMean:
        """Mean of the Fisher products."""
        return self.thinned_mean or self.linearised.curvature.mean

    @property
    def theta(self) -> Parameters:
        """The parameters at theta_k, in the precision of the evaluation."""
        return self.linearised.curvature.theta


@dataclass(frozen=True)
class PolicySettings:
    """
    How to step.

    :param max_kl: delta, in the unit of the bounded KL
    :param normalize_advantage: whether advantages are normalised
    :param min_explained_variance: below it the policy stays; None: off
    :param cg: settings of the solve
    :param cg_precision: "float64", "mixed" or "float32"
    :param shrink: factor between candidates of the line search
    :param max_trials: number of candidates
    """

    max_kl: float
    normalize_advantage: bool
    min_explained_variance: float | None
    cg: CGSettings
    cg_precision: str
    shrink: float
    max_trials: int


@dataclass(frozen=True)
class Operators:
    """
    The Fisher matrix in two precisions, and what resembles it.

    :param fast: of CG's iterations
    :param exact: verifies what the iterations gave
    :param mixed: whether ``exact`` is another operator than ``fast``, of higher precision
    :param preconditioner: of CG's iterations; None: they have none
    """

    fast: FisherOperator
    exact: FisherOperator
    mixed: bool
    preconditioner: KroneckerPreconditioner | None = None

    @property
    def spent(self) -> int:
        """Fisher products so far."""
        return self.fast.n_products + (self.exact.n_products if self.mixed else 0)


@dataclass(frozen=True)
class Direction:
    """
    A search direction and the solve that it comes from.

    :param vector: x, shape (n,), float64
    :param scale: how far to go along it
    :param fallback: whether it is the gradient, because every solve failed
    """

    vector: Tensor
    scale: StepScale
    fallback: bool


@dataclass(frozen=True)
class Solve:
    """
    All solves of one update.

    :param result: the last one
    :param damping: lambda of the last one
    :param retries: how many solves were tried before it
    :param direction: None if nothing usable came out
    :param products: Fisher products spent
    :param preconditioner: what was made for them; None: nothing
    :param dropped: why the last one was solved without it; None: it was not
    """

    result: CGResult
    damping: float
    retries: int
    direction: Direction | None
    products: int
    preconditioner: KroneckerPreconditioner | None = None
    dropped: str | None = None


@dataclass(frozen=True)
class PolicyResult:
    """
    What became of the policy; a step that was not reached is None.

    :param status: the verdict
    :param check: the on-policy check
    :param damping: damping of the next update
    :param advantages: the advantages used
    :param gradient_norm: 2-norm of the surrogate's gradient
    :param solve: search direction
    :param search: line search
    :param expected_improvement: gᵀ (applied step)
    :param reduction_ratio: actual / expected improvement of the applied step
    """

    status: UpdateStatus
    check: OnPolicyCheck
    damping: DampingState
    advantages: Advantages | None = None
    gradient_norm: float | None = None
    solve: Solve | None = None
    search: LineSearchResult | None = None
    expected_improvement: float | None = None
    reduction_ratio: float | None = None

    @property
    def accepted(self) -> Evaluation | None:
        """Evaluation of the step that was taken, None without one."""
        return self.search.accepted if self.search is not None else None


def update_policy(problem: PolicyProblem, settings: PolicySettings, damping: DampingState) -> PolicyResult:
    """
    Take the largest verified step within the trust region, or none.

    :param problem: data of the policy step; its parameters are overwritten only by an accepted step
    :param settings: how to step
    :param damping: damping of this update
    :return: what happened
    """
    mean = problem.surrogate.mean
    check = check_on_policy(problem.evidence, problem.noise, problem.cells, mean, settings.max_kl)
    advantages = prepare_advantages(problem.surrogate.advantages, mean, settings.normalize_advantage)
    ended = partial(PolicyResult, check=check, damping=damping, advantages=advantages)
    if check.status is not OnPolicyStatus.ON_POLICY:
        return ended(UpdateStatus.STALE_BATCH)
    if _unexplained(problem.explained_variance, settings.min_explained_variance):
        return ended(UpdateStatus.LOW_EXPLAINED_VARIANCE)
    if advantages.degenerate:
        return ended(UpdateStatus.ZERO_VARIANCE_ADVANTAGES)

    surrogate = replace(problem.surrogate, advantages=advantages.values)
    g = problem.linearised.gradient(surrogate.slopes).double()
    solve = find_direction(fisher_operators(problem, settings), settings, damping, g)
    ended = partial(ended, gradient_norm=float(torch.linalg.vector_norm(g)), solve=solve)
    if solve.result.status is CGStatus.ZERO_GRADIENT:
        return ended(UpdateStatus.ZERO_GRADIENT)
    if solve.direction is None:
        return ended(UpdateStatus.NO_DIRECTION)

    search = search_along(solve.direction, surrogate, problem, settings)
    if search.parameters is None:
        return _with_next_damping(ended(UpdateStatus.LINE_SEARCH_FAILED, search=search), None, None)
    applied = flatten(part.double() for part in search.parameters) - flatten(problem.theta).double()
    assign(problem.parameters, search.parameters)
    return _with_next_damping(ended(UpdateStatus.ACCEPTED, search=search), g, applied)


def fisher_operators(problem: PolicyProblem, settings: PolicySettings) -> Operators:
    """
    Make the operators of the Fisher matrix; the gradient's linearisation serves again where samples and precision are its own.

    :param problem: data of the policy step
    :param settings: precision
    :return: the operators
    """
    whole = problem.linearised
    thinned = replace(whole.curvature, mean=problem.fisher_mean)
    exact = whole if problem.thinned_mean is None else FisherOperator(thinned, whole.choice)
    preconditioner = None if problem.preconditioner is None else problem.preconditioner()
    dtype = PRODUCT_DTYPE[settings.cg_precision]
    if exact.dtype in (dtype, torch.float32):
        return Operators(exact, exact, False, preconditioner)
    fast = FisherOperator(replace(thinned, theta=tuple(part.to(dtype) for part in problem.theta)), whole.choice)
    mixed = settings.cg_precision == "mixed"
    return Operators(fast, exact if mixed else fast, mixed, preconditioner)


def find_direction(operators: Operators, settings: PolicySettings, damping: DampingState, g: Tensor) -> Solve:
    """
    Solve (F + lambda I) x = g; a failed solve is retried with more damping, and at last the gradient itself is taken.

    :param operators: the Fisher matrix
    :param settings: how to solve
    :param damping: where lambda begins, and how far retries may raise it
    :param g: gradient of the surrogate, shape (n,)
    :return: the last solve and the direction, if there is one
    """
    before, dampings = operators.spent, retry_dampings(damping)
    preconditioner = operators.preconditioner
    dropped: str | None = None
    if preconditioner is not None and preconditioner.covered < LEAST_COVERED:
        dropped = f"only {preconditioner.covered:.0%} of the parameters have Kronecker factors"
        preconditioner = None
    for value in dampings:
        result = _solve(operators, preconditioner, settings, value, g)
        if preconditioner is not None and result.status.failed:
            # More damping would not mend what the preconditioner may have broken.
            preconditioner, dropped = None, result.status.advice
            result = _solve(operators, None, settings, value, g)
        scale = None if result.status.failed else _scale(result.solution, result.damped_product, g, value, settings)
        found = None if scale is None else Direction(result.solution.to(g.dtype), scale, fallback=False)
        if found is not None or result.status is CGStatus.ZERO_GRADIENT:
            break
    else:
        scale = _scale(g, operators.exact.damped_product(g, value), g, value, settings)
        found = None if scale is None else Direction(g, scale, fallback=True)
    return Solve(
        result=result,
        damping=value,
        retries=dampings.index(value),
        direction=found,
        products=operators.spent - before,
        preconditioner=operators.preconditioner,
        dropped=dropped,
    )


def _solve(
    operators: Operators, preconditioner: KroneckerPreconditioner | None, settings: PolicySettings, damping: float, g: Tensor
) -> CGResult:
    rhs = g.to(RECURRENCE_DTYPE[settings.cg_precision])
    how = replace(settings.cg, product_eps=torch.finfo(operators.fast.dtype).eps)
    if preconditioner is None:
        # Plain CG comes slowly to where it goes: that it stands still for a while means nothing.
        how = replace(how, progress=0.0)
    return conjugate_gradient(
        partial(operators.fast.damped_product, damping=damping),
        rhs,
        how,
        partial(operators.exact.damped_product, damping=damping),
        None if preconditioner is None else preconditioner.inverse(damping, rhs),
    )


def search_along(
    direction: Direction, surrogate: Surrogate, problem: PolicyProblem, settings: PolicySettings
) -> LineSearchResult:
    """
    Backtrack along the scaled direction, on parameters as deployed, over the whole batch.

    :param direction: direction and scale
    :param surrogate: judges candidates
    :param problem: data of the policy step
    :param settings: limits of the search
    :return: how it ended
    """
    limits = LineSearchSettings(settings.max_kl, surrogate.rounding_of_improvement(), settings.shrink, settings.max_trials)
    theta = problem.theta

    def evaluate(candidate: Parameters) -> Evaluation:
        return surrogate.evaluate(tuple(part.to(like.dtype) for part, like in zip(candidate, theta, strict=True)))

    step = direction.scale.scale * direction.vector
    return backtrack(flatten(theta).double(), step, partial(as_deployed, parameters=problem.parameters), evaluate, limits)


def _scale(direction: Tensor, damped_product: Tensor, g: Tensor, damping: float, settings: PolicySettings) -> StepScale | None:
    return step_scale(direction.to(g.dtype), damped_product.to(g.dtype), g, damping, settings.max_kl)


def _unexplained(explained_variance: float | None, minimum: float | None) -> bool:
    """Returns that do not vary leave nothing to explain: no reason to wait."""
    return minimum is not None and explained_variance is not None and not explained_variance >= minimum


def _with_next_damping(result: PolicyResult, g: Tensor | None, applied: Tensor | None) -> PolicyResult:
    if g is not None and applied is not None and result.accepted is not None:
        expected = float(g.dot(applied))
        ratio = result.accepted.improvement / expected if expected > 0.0 else None
        result = replace(result, expected_improvement=expected, reduction_ratio=ratio)
    return replace(result, damping=next_damping(result.damping, DampingEvidence(result.status, result.reduction_ratio)))
