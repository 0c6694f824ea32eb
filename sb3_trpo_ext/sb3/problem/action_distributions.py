"""
SB3's action distributions in the terms of ``core``: which family, which parameters phi, which base actions.

Distribution objects are not built where phi is wanted: a stand-in for ``policy.action_dist`` keeps the parameters that it
is given. A policy that builds its own distribution has them read off that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn
from torch.distributions import Normal

from sb3_trpo_ext.core.distributions import ActionDistribution, DiagonalGaussian, MultiBernoulli, MultiCategorical


def action_distribution(policy: ActorCriticPolicy) -> ActionDistribution:
    """
    Find the family of a policy's action distribution.

    :param policy: the policy
    :return: its family
    :raises NotImplementedError: if it is none of SB3's
    """
    dist = policy.action_dist
    if isinstance(dist, StateDependentNoiseDistribution):
        return DiagonalGaussian(dist.action_dim, squashed=dist.bijector is not None)
    if isinstance(dist, DiagGaussianDistribution):
        return DiagonalGaussian(dist.action_dim, squashed=isinstance(dist, SquashedDiagGaussianDistribution))
    if isinstance(dist, CategoricalDistribution):
        return MultiCategorical((dist.action_dim,))
    if isinstance(dist, MultiCategoricalDistribution):
        return MultiCategorical(tuple(int(size) for size in dist.action_dims))
    if isinstance(dist, BernoulliDistribution):
        return MultiBernoulli(dist.action_dims)
    raise NotImplementedError(
        f"TRPO has no KL divergence for policies whose action_dist is a {type(dist).__name__}: it must be (a subclass of) "
        "SB3's Gaussian, gSDE, categorical, multi-categorical or Bernoulli distribution"
    )


def distribution_parameters(distributions: Sequence[Any]) -> Tensor:
    """
    Read phi off torch distributions.

    :param distributions: what SB3's ``Distribution.distribution`` was after each of several forward passes
    :return: phi of all of them, one below the other, shape (n_samples, n_parameters)
    """
    first = distributions[0]
    if isinstance(first, list):
        return torch.cat([distribution_parameters(column) for column in zip(*distributions, strict=True)], dim=-1)
    if hasattr(first, "loc"):
        means, stds = (torch.cat([getattr(dist, name) for dist in distributions]) for name in ("loc", "scale"))
        return torch.cat([means, stds.log()], dim=-1)
    return torch.cat([dist.logits for dist in distributions])


def with_parameters(dist: Distribution, phi: Tensor) -> Distribution:
    """
    Copy one of SB3's distributions with other parameters: what ``distribution_parameters`` reads, undone.

    :param dist: the distribution
    :param phi: shape (n_samples, n_parameters)
    :return: a distribution of n samples
    """
    copied = copy.copy(dist)
    if isinstance(dist, DiagGaussianDistribution | StateDependentNoiseDistribution):
        mean, log_std = phi.chunk(2, dim=-1)
        copied.distribution = Normal(mean, log_std.exp())
        return copied
    return copied.proba_distribution(action_logits=phi)


def base_actions(policy: ActorCriticPolicy, actions: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """
    Turn a buffer's actions and log-probabilities into those of the family's base distribution.

    Squashed actions are inverted by SB3's own float32-clamped arctanh, once, and the squashing's log-determinant, which
    depends on no parameter, is taken out of the log-probabilities.

    :param policy: the policy
    :param actions: as stored, shape (n, ...), float32
    :param log_prob: as stored, shape (n,), float32
    :return: actions of shape (n, action_dims), int64 for categoricals, float64 (float32 where there is none) else; and
        log-probabilities of shape (n,)
    """
    dist = policy.action_dist
    actions = actions.reshape(len(actions), -1)
    if isinstance(dist, CategoricalDistribution | MultiCategoricalDistribution):
        return actions.long(), log_prob
    if isinstance(dist, SquashedDiagGaussianDistribution):
        correction = torch.log(1 - actions**2 + dist.epsilon).sum(dim=1)
        return TanhBijector.inverse(actions), log_prob + correction
    if isinstance(dist, StateDependentNoiseDistribution) and dist.bijector is not None:
        gaussian = dist.bijector.inverse(actions)
        return gaussian, log_prob + dist.bijector.log_prob_correction(gaussian).sum(dim=1)
    return actions, log_prob


class DistributionParameters(nn.Module):
    """
    Module around a policy whose forward pass gives phi.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, observations: PyTorchObs) -> Tensor:
        """
        Evaluate the policy.

        :param observations: as SB3's buffer gives them
        :return: phi, shape (n, n_parameters)
        """
        original = self.policy.action_dist
        self.policy.action_dist = _capturing(original)
        try:
            distribution = self.policy.get_distribution(observations)
        finally:
            self.policy.action_dist = original
        captured: Tensor | None = getattr(distribution, "captured", None)
        return distribution_parameters([distribution.distribution]) if captured is None else captured


def _capturing(original: Distribution) -> Distribution:
    """Copy of an SB3 distribution that keeps the parameters that it is given; others are left to build their own."""
    capture = _CAPTURES.get(type(original).proba_distribution)
    stand_in = copy.copy(original)
    if capture is not None:

        def proba_distribution(*args: Any, **kwargs: Any) -> Distribution:
            stand_in.captured = capture(stand_in, *args, **kwargs)  # type: ignore[attr-defined]
            return stand_in

        stand_in.proba_distribution = proba_distribution  # type: ignore[method-assign]
    return stand_in


def _gaussian(_: Distribution, mean_actions: Tensor, log_std: Tensor) -> Tensor:
    return torch.cat([mean_actions, log_std.expand_as(mean_actions)], dim=-1)


def _gsde(dist: StateDependentNoiseDistribution, mean_actions: Tensor, log_std: Tensor, latent_sde: Tensor) -> Tensor:
    """SB3's variance: of the latent, detached, through the noise matrix (gSDE: Raffin et al., arXiv 2005.05719)."""
    latent = latent_sde if dist.learn_features else latent_sde.detach()
    variance = torch.mm(latent**2, dist.get_std(log_std) ** 2)
    return torch.cat([mean_actions, 0.5 * torch.log(variance + dist.epsilon)], dim=-1)


def _logits(_: Distribution, action_logits: Tensor) -> Tensor:
    return action_logits


_CAPTURES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    DiagGaussianDistribution.proba_distribution: _gaussian,
    SquashedDiagGaussianDistribution.proba_distribution: _gaussian,
    StateDependentNoiseDistribution.proba_distribution: _gsde,
    CategoricalDistribution.proba_distribution: _logits,
    MultiCategoricalDistribution.proba_distribution: _logits,
    BernoulliDistribution.proba_distribution: _logits,
}
