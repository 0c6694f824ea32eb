"""
The surrogate objective, what a candidate policy is judged by, advantage normalisation, and the on-policy check.

Surrogate (Schulman et al., "Trust Region Policy Optimization", 2015, eq. 14):  L(theta) = mean( A * pi_theta / pi_k ).
pi_k is recomputed in float64 on the whole batch, so that the ratio is exactly 1 at theta_k, and L(theta) - L(theta_k) is
evaluated as mean( A * expm1(log pi_theta - log pi_k) ): no digits are lost when the step is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.reduce import Reducer, Rows, WeightedMean
from sb3_trpo_ext.core.status import OnPolicyStatus

Actor = Callable[[Parameters, Rows], Tensor]
"""The policy as a function: (theta, which samples) -> distribution parameters phi, shape (n_rows, n_parameters)."""

ADVANTAGE_EPS = 1e-8
"""Added to the standard deviation, as in SB3's PPO and sb3-contrib's TRPO."""

ADVANTAGE_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)

STALE_SHARE = 1e-3
"""Stale above this share of delta: a batch one version old measures about 1.5 delta, a fresh one only rounding."""

STALE_FLOORS = 100.0
"""Stale above this many noise floors; where that passes delta itself, staleness can't be told from rounding."""


@dataclass(frozen=True)
class Advantages:
    """
    Advantages as the surrogate uses them.

    :param values: shape (n_samples,), float64; normalised to mean 0 and std 1 if asked for
    :param mean: mean of the raw advantages
    :param std: standard deviation of the raw advantages (unbiased)
    :param degenerate: all raw advantages are equal up to the rounding of float32, in which they are stored
    :param start: the surrogate at theta_k, mean(A) of the values used (0 if they are normalised)
    :param quantiles: minimum, 5 %, 50 % and 95 % quantile, maximum of the raw advantages of this process
    """

    values: Tensor
    mean: float
    std: float
    degenerate: bool
    start: float
    quantiles: tuple[float, ...]


def prepare_advantages(raw: Tensor, mean: WeightedMean, normalize: bool) -> Advantages:
    """
    Normalise advantages with the weighted mean and the unbiased variance sum w (A - m)^2 / (sum w - 1).

    :param raw: advantages, shape (n_samples,), float64
    :param mean: the weighted mean over the batch
    :param normalize: whether to normalise
    :return: the advantages, and what they were
    """
    centre = mean.of(lambda rows: raw[rows])
    centred = raw - centre
    spread, largest = mean.with_maximum(lambda rows: torch.stack([centred[rows].square(), raw[rows].abs()], dim=-1))
    freedom = (mean.total - 1.0).clamp(min=1.0)
    std = float(torch.sqrt(spread[0] * mean.total / freedom))
    degenerate = not std > torch.finfo(torch.float32).eps * float(largest[1])
    values = centred / (std + ADVANTAGE_EPS) if normalize else raw
    # The nearest sample, not an interpolation: torch.quantile refuses large batches.
    places = [round(share * (len(raw) - 1)) for share in ADVANTAGE_QUANTILES]
    quantiles = tuple(raw.sort().values[places].tolist())
    return Advantages(values, float(centre), std, degenerate, 0.0 if normalize else float(centre), quantiles)


@dataclass(frozen=True)
class Evaluation:
    """
    What a candidate is judged by, all over the whole batch in float64.

    :param kl: mean KL(new || old), in the unit that is bounded
    :param kl_joint: the same, summed over action dimensions
    :param kl_reverse: mean KL(old || new), in the unit that is bounded
    :param kl_max: largest KL(new || old) of any state, in the unit that is bounded
    :param improvement: L(theta) - L(theta_k)
    :param finite: whether the candidate's parameters and all of the above are finite
    """

    kl: float
    kl_joint: float
    kl_reverse: float
    kl_max: float
    improvement: float
    finite: bool


@dataclass(frozen=True)
class Surrogate:
    """
    The surrogate objective and the KL divergence around one policy pi_k.

    :param actor: the policy as a function
    :param distribution: family of the actions' distribution
    :param actions: shape (n_samples, action_dims); float64, or int64 for categoricals
    :param advantages: shape (n_samples,), float64
    :param phi: distribution parameters of pi_k, shape (n_samples, n_parameters), float64
    :param log_prob: log-probability of the actions under pi_k, shape (n_samples,), float64
    :param mean: the weighted mean over the batch
    :param kl_scale: bounded KL = kl_scale * joint KL: 1 ("joint") or 1/A ("mean")
    """

    actor: Actor
    distribution: ActionDistribution
    actions: Tensor
    advantages: Tensor
    phi: Tensor
    log_prob: Tensor
    mean: WeightedMean
    kl_scale: float

    def slopes(self, rows: Rows) -> Tensor:
        """
        Derivative of each sample's A * pi_theta / pi_k by phi at theta_k: A * grad log pi, the ratio being 1 there.

        :param rows: which samples
        :return: shape (n_rows, n_parameters), dtype of phi
        """
        with torch.enable_grad():
            phi = self.phi[rows].detach().requires_grad_()
            total = self.advantages[rows].dot(self.distribution.log_prob(phi, self.actions[rows]))
        (slopes,) = torch.autograd.grad(total, phi)
        return slopes

    @torch.no_grad()
    def evaluate(self, theta: Parameters) -> Evaluation:
        """
        Judge a candidate.

        :param theta: the candidate's parameters as deployed (already rounded to the policy's dtype), in float64
        :return: its KL divergences and improvement
        """

        def judge(rows: Rows) -> Tensor:
            phi, old = self.actor(theta, rows).to(self.phi.dtype), self.phi[rows]
            log_ratio = self.distribution.log_prob(phi, self.actions[rows]) - self.log_prob[rows]
            gain = self.advantages[rows] * torch.expm1(log_ratio)
            return torch.stack([self.distribution.kl(phi, old), self.distribution.kl(old, phi), gain], dim=-1)

        means, maxima = self.mean.with_maximum(judge)
        sound = torch.stack([torch.isfinite(part).all() for part in theta]).all()
        # One read for all: on an accelerator each waits for it.
        *numbers, parameters_finite = torch.cat([means, maxima, sound.to(means.dtype).reshape(1)]).tolist()
        kl_joint, kl_reverse, improvement, kl_max = numbers[:4]
        finite = bool(parameters_finite) and all(map(math.isfinite, numbers))
        scale = self.kl_scale
        return Evaluation(
            kl=scale * kl_joint,
            kl_joint=kl_joint,
            kl_reverse=scale * kl_reverse,
            kl_max=scale * kl_max,
            improvement=improvement,
            finite=finite,
        )

    def rounding_of_improvement(self) -> float:
        """
        Improvements up to 8 eps64 mean|A| are rounding.

        :return: the smallest improvement that counts
        """
        scale = self.mean.of(lambda rows: self.advantages[rows].abs())
        return 8.0 * torch.finfo(torch.float64).eps * float(scale)


def likelihood_divergence(log_prob_behaviour: Tensor, log_prob: Tensor) -> Tensor:
    """
    Estimate KL(behaviour || policy) from actions of the behaviour: k3 = r - 1 - log r with r = pi / behaviour.

    Unbiased, never negative, and 0 only where both agree (Schulman, "Approximating KL divergence", 2020).

    :param log_prob_behaviour: shape (n,)
    :param log_prob: shape (n,)
    :return: shape (n,), joint unit
    """
    log_ratio = log_prob - log_prob_behaviour
    return torch.expm1(log_ratio) - log_ratio


@dataclass(frozen=True)
class OnPolicyCheck:
    """
    Evidence that the batch was collected by the policy that is updated; all divergences in the unit that is bounded.

    :param status: the verdict
    :param divergence: over the whole batch
    :param worst: over the cell (an environment in a block of time) that diverges most
    :param worst_cell: index of that cell, None without cells, and where it is another process's
    :param noise_floor: divergence between two evaluations of this very policy, in its own dtype and in float64
    :param threshold: what ``worst`` may not exceed
    """

    status: OnPolicyStatus
    divergence: float
    worst: float
    worst_cell: int | None
    noise_floor: float
    threshold: float


def check_on_policy(evidence: Tensor, noise: Tensor, cells: Tensor | None, mean: WeightedMean, max_kl: float) -> OnPolicyCheck:
    """
    Compare the behaviour's divergence from this policy with the rounding of evaluating it twice.

    A batch one version old measures about 1.5 delta overall, but one stale environment of many hides in the mean:
    hence the cells. A cell's floor is at least that of the batch, since few samples may agree by luck.

    :param evidence: divergences of each sample between behaviour and policy, shape (n_samples, n_kinds), float64
    :param noise: the same between two evaluations of the policy, shape (n_samples, n_kinds), float64
    :param cells: cell of each sample, shape (n_samples,), int64; None if its origin is unknown
    :param mean: the weighted mean over the batch
    :param max_kl: the trust region delta, in the unit of the divergences
    :return: the verdict
    """
    overall = float(mean.of(lambda rows: evidence[rows]).max())
    floor = float(mean.of(lambda rows: noise[rows]).max())
    worst, worst_cell, worst_floor = overall, None, floor
    if cells is not None:
        by_cell = _cell_means(evidence, cells, mean.weights)
        floors = _cell_means(noise, cells, mean.weights).clamp(min=floor)
        thresholds = (STALE_FLOORS * floors).clamp(min=STALE_SHARE * max_kl)
        worst_cell = int((by_cell / thresholds).nan_to_num(nan=torch.inf).argmax())
        worst, worst_floor = float(by_cell[worst_cell]), float(floors[worst_cell])
        if not mean.reducer.alone:
            found = _worst_of_all(worst, worst_floor, max_kl, mean.weights, mean.reducer)
            worst_cell = worst_cell if found == (worst, worst_floor) else None
            worst, worst_floor = found
    threshold = max(STALE_SHARE * max_kl, STALE_FLOORS * worst_floor)
    fresh = worst <= threshold and overall <= max(STALE_SHARE * max_kl, STALE_FLOORS * floor)
    if not STALE_FLOORS * floor <= max_kl:  # also where it is NaN
        status = OnPolicyStatus.TOO_DETERMINISTIC
    else:
        status = OnPolicyStatus.ON_POLICY if fresh else OnPolicyStatus.STALE
    return OnPolicyCheck(status, overall, worst, worst_cell, floor, threshold)


def _worst_of_all(worst: float, floor: float, max_kl: float, like: Tensor, reducer: Reducer) -> tuple[float, float]:
    """The worst cell of all processes, and its floor: cells are no process's but one's."""
    excess = like.new_tensor(worst / max(STALE_FLOORS * floor, STALE_SHARE * max_kl)).nan_to_num(nan=torch.inf)
    largest = reducer(excess, "max")
    own = like.new_tensor([worst, floor]) if bool(excess == largest) else like.new_full((2,), -torch.inf)
    # Of several that are equally bad the larger of each number: they differ by nothing that matters.
    found_worst, found_floor = reducer(own, "max").tolist()
    return found_worst, found_floor


def _cell_means(values: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Largest over kinds of the weighted mean of each cell, shape (n_cells,)."""
    n_cells = int(cells.max()) + 1
    totals = weights.new_zeros(n_cells).index_add_(0, cells, weights)
    sums = weights.new_zeros(n_cells, values.shape[1]).index_add_(0, cells, weights.unsqueeze(-1) * values)
    return (sums / totals.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(-1)).amax(dim=-1)
