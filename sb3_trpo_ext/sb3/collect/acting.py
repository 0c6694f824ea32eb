"""
Sampling actions exactly as ``ActorCriticPolicy.forward`` does, and nothing else: no value, no log-probability, and no
distribution objects where a line of arithmetic samples the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_trpo_ext.core.layers import runs_as_written

POLICY_METHODS = (
    "__call__",
    "forward",
    "extract_features",
    "get_distribution",
    "predict_values",
    "reset_noise",
    "_get_action_dist_from_latent",
)
"""What SB3's loop runs of a policy, directly or not."""


class Gaussian(NamedTuple):
    """
    What a step's actions were sampled from.

    :param loc: mean, shape (n_envs, action_dims)
    :param scale: standard deviation, same shape
    """

    loc: Tensor
    scale: Tensor


class Logits(NamedTuple):
    """
    What a step's discrete actions were sampled from.

    :param logits: shape (n_envs, n_parameters), of several categories one after the other
    """

    logits: Tensor


Sampled = tuple[Tensor, Any]
"""Actions, and the distribution that they come from, as ``distribution_parameters`` reads it."""

Sample = Callable[[ActorCriticPolicy, Tensor], Sampled]
"""(policy, latent of the actor) -> what was sampled, with the very operations of SB3 and torch.distributions."""


def _gaussian(policy: ActorCriticPolicy, latent: Tensor) -> Sampled:
    mean = policy.action_net(latent)
    std = torch.ones_like(mean) * policy.log_std.exp()
    return mean + torch.empty_like(mean).normal_() * std, Gaussian(mean, std)


def _squashed_gaussian(policy: ActorCriticPolicy, latent: Tensor) -> Sampled:
    actions, behaviour = _gaussian(policy, latent)
    return torch.tanh(actions), behaviour


def _category(logits: Tensor) -> Tensor:
    probabilities = torch.softmax(logits - logits.logsumexp(dim=-1, keepdim=True), dim=-1)
    return torch.multinomial(probabilities, 1, replacement=True).squeeze(-1)


def _categorical(policy: ActorCriticPolicy, latent: Tensor) -> Sampled:
    logits = policy.action_net(latent)
    return _category(logits), Logits(logits)


def _multi_categorical(policy: ActorCriticPolicy, latent: Tensor) -> Sampled:
    logits = policy.action_net(latent)
    assert isinstance(policy.action_dist, MultiCategoricalDistribution)
    columns = logits.split(list(policy.action_dist.action_dims), dim=1)
    return torch.stack([_category(column) for column in columns], dim=1), Logits(logits)


def _bernoulli(policy: ActorCriticPolicy, latent: Tensor) -> Sampled:
    logits = policy.action_net(latent)
    return torch.bernoulli(torch.sigmoid(logits)), Logits(logits)


def _state_dependent_noise(policy: ActorCriticPolicy, latent: Tensor) -> Sampled:
    distribution = policy._get_action_dist_from_latent(latent)
    return distribution.get_actions(), distribution.distribution


_SAMPLES: dict[type, Sample] = {
    DiagGaussianDistribution: _gaussian,
    SquashedDiagGaussianDistribution: _squashed_gaussian,
    CategoricalDistribution: _categorical,
    MultiCategoricalDistribution: _multi_categorical,
    BernoulliDistribution: _bernoulli,
    StateDependentNoiseDistribution: _state_dependent_noise,
}


def why_not_alone(policy: ActorCriticPolicy) -> str | None:
    """
    Find out whether the actor alone acts as the whole policy does.

    :param policy: the policy
    :return: what speaks against it, in words; None if nothing does
    """
    for name in POLICY_METHODS:
        if name in vars(policy) or getattr(type(policy), name) is not getattr(ActorCriticPolicy, name):
            return f"the policy has its own {name}"
    if type(policy.mlp_extractor) is not MlpExtractor or type(policy.mlp_extractor.policy_net) is not nn.Sequential:
        return f"the policy has its own mlp_extractor, {type(policy.mlp_extractor).__name__}"
    if type(policy.action_dist) not in _SAMPLES:
        return f"the policy has its own distribution, {type(policy.action_dist).__name__}"
    for name in ("forward_actor", "forward_critic"):
        if name in vars(policy.mlp_extractor):
            return f"the policy's mlp_extractor has its own {name}"
    extractors = (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor)
    if policy.share_features_extractor and any(extractor is not extractors[0] for extractor in extractors):
        return "the policy's features extractor was replaced, but not everywhere"
    for name, module in policy.named_modules():
        if not runs_as_written(module) or module._compiled_call_impl is not None:
            return f"the policy's module {name or 'itself'!r} has a hook, is compiled, or has a forward of its own"
    return None


class ActorAlone:
    """
    The actor of a policy of which ``why_not_alone`` says nothing.

    :param policy: the policy, in eval mode; its weights are read at each call
    """

    def __init__(self, policy: ActorCriticPolicy):
        self._policy = policy
        self._sample = _SAMPLES[type(policy.action_dist)]
        # A module's own call only looks for hooks; one that was put on since is obeyed.
        net = policy.mlp_extractor.policy_net
        self._layers = tuple(layer.forward if runs_as_written(layer) else layer for layer in net)
        space, extractor = policy.observation_space, policy.pi_features_extractor
        vectors = isinstance(space, spaces.Box) and len(space.shape) == 1
        self._nothing_to_extract = vectors and type(extractor) is FlattenExtractor and runs_as_written(extractor)

    def __call__(self, observations: PyTorchObs) -> Sampled:
        """
        Sample actions.

        :param observations: of all environments, as SB3's loop gives them to the policy
        :return: actions, shape (n_envs, action_dims) or (n_envs,), the bits that ``policy(observations)`` would have sampled;
            and what they were sampled from
        """
        latent = self._features(observations)
        for layer in self._layers:
            latent = layer(latent)
        return self._sample(self._policy, latent)

    def _features(self, observations: PyTorchObs) -> Tensor:
        if self._nothing_to_extract and isinstance(observations, Tensor):
            return observations.float().flatten(1)
        policy = self._policy
        # As get_distribution does: the actor's features only, where actor and critic have an extractor each.
        return super(ActorCriticPolicy, policy).extract_features(observations, policy.pi_features_extractor)
