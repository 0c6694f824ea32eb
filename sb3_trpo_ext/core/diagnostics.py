"""
What the monitors ask of a batch: drift, one-step TD residuals, Monte-Carlo returns, tails of the advantages.

Residuals. With GAE (Schulman et al., "High-dimensional continuous control using generalized advantage estimation", 2016,
eq. 16), A_t = delta_t + gamma lambda c_t A_{t+1}, where c_t = 0 if step t ends an episode and at the end of the batch; so

    delta_t = A_t - gamma lambda c_t A_{t+1}

gives back the residuals delta_t = r_t + gamma V(s_{t+1}) - V(s_t) from advantages and episode starts alone, whatever the last
values and the bootstrapped time-outs were. For a perfect critic they are martingale differences: of mean 0 and uncorrelated,
so that z = sum(delta) / sqrt(sum(delta²)) is standard normal for large n. GAE residuals are autocorrelated: theirs is not.
Means of two phases of the episode are uncorrelated for the same reason, and their difference is tested as Welch's is ("The
generalization of Student's problem when several different population variances are involved", 1947).

All arrays here are SB3's (n_steps, n_envs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.objective import Surrogate
from sb3_trpo_ext.core.reduce import WeightedMean

FIRST_BIN = 16
"""Steps of an episode in the first bin of time; each later bin ends at twice as many. Edges that depended on the batch would
depend on the residuals, which decide where episodes end."""

LEAST_IN_BIN = 50
"""A bin with fewer residuals, in it or outside of it, is not tested: z is normal only for many."""

TOP_SHARE = 0.01
"""Share of the samples whose weight ``advantage_top_weight`` is."""


@dataclass(frozen=True)
class ResidualTest:
    """
    Whether one-step TD residuals are biased. Fields are those of ``UpdateReport``; None: nothing to test.

    :param td_mean: mean residual: the bias
    :param td_rms: their root mean square
    :param td_z: mean / (rms / sqrt(n)), standard normal for a perfect critic; at most sqrt(n)
    :param td_p: two-sided p-value of it
    :param td_time_starts: first step within the episode of each bin that was tested
    :param td_time_means: mean residual of each bin
    :param td_time_z: Welch's z of each bin's mean minus that of all outside of it, standard normal if no phase differs
    :param td_time_p: smallest p-value of any bin, times the number of bins (Bonferroni), at most 1
    """

    td_mean: float | None = None
    td_rms: float | None = None
    td_z: float | None = None
    td_p: float | None = None
    td_time_starts: tuple[int, ...] = ()
    td_time_means: tuple[float, ...] = ()
    td_time_z: tuple[float, ...] = ()
    td_time_p: float | None = None


@dataclass(frozen=True)
class Tails:
    """
    How heavy the tails of the advantages are. Fields are those of ``UpdateReport``; None: the advantages don't vary.

    :param advantage_kurtosis: excess kurtosis: 0 for a Gaussian
    :param advantage_top_weight: share of the sum of squared centred advantages that the largest 1 % have; 0.08 for a Gaussian
    """

    advantage_kurtosis: float | None = None
    advantage_top_weight: float | None = None


@dataclass(frozen=True)
class Activity:
    """
    Units of the networks after an update.

    :param samples: how many it was measured on; None: it was not
    :param names: of the layers
    :param units: of each layer
    :param dead: share of each layer's units that never fire, in [0, 1]
    :param saturated: share that is saturated, in [0, 1]
    :param dead_before: the same as ``dead`` before the first update
    :param actor_inactive: largest share of inactive units in any layer of the actor
    :param critic_inactive: of the critic
    """

    samples: int | None = None
    names: tuple[str, ...] = ()
    units: tuple[int, ...] = ()
    dead: tuple[float, ...] = ()
    saturated: tuple[float, ...] = ()
    dead_before: tuple[float, ...] = ()
    actor_inactive: float | None = None
    critic_inactive: float | None = None


@dataclass(frozen=True)
class Diagnosed:
    """
    All diagnostics of an update; what nobody has subscribed to has the values of "not computed".

    :param activity: units of the networks
    :param drift_kl: divergence of the last two policies on a batch that their step was not fitted to
    :param tails: of the advantages
    :param residuals: test of the TD residuals
    :param explained_variance_mc: of Monte-Carlo returns
    :param mc_samples: steps of the episodes that these are of
    """

    activity: Activity = Activity()
    drift_kl: float | None = None
    tails: Tails = Tails()
    residuals: ResidualTest = ResidualTest()
    explained_variance_mc: float | None = None
    mc_samples: int | None = None


def policy_drift(surrogate: Surrogate, mean: WeightedMean, earlier: Parameters) -> float:
    """
    Divergence KL(pi_k || pi_{k-1}) on a batch that pi_k collected: what the last step did where it was not fitted.

    :param surrogate: around pi_k, on its batch
    :param mean: over the samples to look at
    :param earlier: parameters of pi_{k-1}, in the precision of the evaluation
    :return: the mean, in the unit that is bounded
    """

    @torch.no_grad()
    def divergence(rows: slice | Tensor) -> Tensor:
        old = surrogate.actor(earlier, rows).to(surrogate.phi.dtype)
        return surrogate.distribution.kl(surrogate.phi[rows], old)

    return surrogate.kl_scale * float(mean.of(divergence))


def td_residuals(advantages: Tensor, ends: Tensor, gamma_lambda: float) -> Tensor:
    """
    Give back the one-step TD residuals that advantages were made of.

    :param advantages: by GAE, shape (n_steps, n_envs)
    :param ends: whether a step ends its episode, by termination or time-out, shape (n_steps, n_envs), bool
    :param gamma_lambda: gamma * lambda
    :return: shape (n_steps, n_envs), float64
    """
    advantages = advantages.double()
    later = torch.cat([advantages[1:], torch.zeros_like(advantages[:1])])
    return advantages - gamma_lambda * torch.where(ends, 0.0, later)


def episode_ages(ends: Tensor, first_ages: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """
    Count steps within episodes.

    :param ends: whether a step ends its episode, shape (n_steps, n_envs), bool
    :param first_ages: age of each environment's first step, shape (n_envs,), int64; None: unknown
    :return: age of each step; whether it is known, both shape (n_steps, n_envs); age of each environment's next step
    """
    step = torch.arange(len(ends) + 1).unsqueeze(-1)
    begins = torch.cat([torch.zeros_like(ends[:1]), ends])
    start = torch.where(begins, step, 0).cummax(dim=0).values
    begun = begins.cummax(dim=0).values
    ages = step - start
    if first_ages is not None:
        ages = ages + torch.where(begun, 0, first_ages)
        begun = torch.ones_like(begun)
    return ages[:-1], begun[:-1], ages[-1]


def residual_test(residuals: Tensor, ages: Tensor, known: Tensor) -> ResidualTest:
    """
    Test residuals for bias, overall and by time within the episode.

    :param residuals: shape (n_steps, n_envs), float64
    :param ages: step within the episode, same shape, int64
    :param known: whether it is known, same shape, bool
    :return: the tests
    """
    everything = _self_normalised(residuals.flatten())
    if everything is None:
        return ResidualTest(None, None, None, None, (), (), (), None)
    mean, rms, z = everything
    dated = residuals[known]
    bins = (ages[known] // FIRST_BIN).clamp(min=0)
    # 0 for the first FIRST_BIN steps, then doubling: 1, 2-3, 4-7, ...
    bins = torch.where(bins > 0, bins.double().clamp(min=1).log2().floor().long() + 1, 0)
    found: list[tuple[int, float, float]] = []
    for number in range(int(bins.max()) + 1 if len(bins) else 0):
        inside = bins == number
        tested = _difference(dated[inside], dated[~inside])
        if tested is not None:
            found.append((FIRST_BIN * 2 ** (number - 1) if number else 0, *tested))
    starts, means, scores = zip(*found, strict=True) if found else ((), (), ())
    p_values = [two_sided_p(score) for score in scores]
    by_time = min(1.0, len(p_values) * min(p_values)) if p_values else None
    return ResidualTest(mean, rms, z, two_sided_p(z), starts, means, scores, by_time)


def _self_normalised(values: Tensor) -> tuple[float, float, float] | None:
    """Mean, root mean square, z; None if all are zero, or not finite."""
    mean, square = torch.stack([values.mean(), values.square().mean()]).tolist()
    if not (math.isfinite(square) and square > 0.0):
        return None
    rms = math.sqrt(square)
    return mean, rms, math.sqrt(len(values)) * mean / rms


def _difference(inside: Tensor, outside: Tensor) -> tuple[float, float] | None:
    """Mean inside, and Welch's z of it minus the mean outside; None if either is too few, or nothing varies."""
    if min(len(inside), len(outside)) < LEAST_IN_BIN:
        return None
    mean, other, square = torch.stack(
        [inside.mean(), outside.mean(), inside.var() / len(inside) + outside.var() / len(outside)]
    ).tolist()
    return (mean, (mean - other) / math.sqrt(square)) if square > 0.0 else None


def two_sided_p(z: float) -> float:
    """
    Probability of a standard normal number at least as far from 0.

    :param z: the number
    :return: in [0, 1]
    """
    return math.erfc(abs(z) / math.sqrt(2.0))


def finished_returns(rewards: Tensor, ends: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """
    Monte-Carlo returns of the episodes that end within the batch.

    :param rewards: with the bootstrapped value of time-outs in them, as SB3 stores them, shape (n_steps, n_envs)
    :param ends: whether a step ends its episode, same shape, bool
    :param gamma: discount factor
    :return: discounted return to the end of the episode, float64; whether it is known, i.e. the end is in the batch
    """
    finished = ends.flip(0).cummax(dim=0).values.flip(0)
    # Of a step that ends its episode nothing that follows counts. Python's own numbers: a tensor operation a step would take
    # a hundred times as long.
    discounts = (gamma * (~ends).double()).flip(0).T.tolist()
    rows = rewards.double().flip(0).T.tolist()
    pairs = [zip(*row, strict=True) for row in zip(rows, discounts, strict=True)]
    returns = [list(accumulate(steps, _discounted, initial=0.0))[:0:-1] for steps in pairs]
    return torch.tensor(returns, dtype=torch.float64).T, finished


def _discounted(total: float, step: tuple[float, float]) -> float:
    reward, discount = step
    return reward + discount * total


def advantage_tails(raw: Tensor) -> Tails:
    """
    Measure the tails of the advantages.

    :param raw: advantages, shape (n_samples,), float64
    :return: kurtosis and weight of the largest
    """
    squares = (raw - raw.mean()).square()
    total = float(squares.sum())
    if not (math.isfinite(total) and total > 0.0):
        return Tails(None, None)
    n_top = max(1, round(TOP_SHARE * len(raw)))
    fourth, top = torch.stack([squares.square().mean(), squares.topk(n_top).values.sum()]).tolist()
    return Tails(fourth / (total / len(raw)) ** 2 - 3.0, top / total)
