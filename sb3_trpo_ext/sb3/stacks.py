"""Which of SB3's policies are plain stacks of layers, for which ``core.mlp`` has a closed form."""

from __future__ import annotations

import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_trpo_ext.core.ladder import PROBE_SAMPLES
from sb3_trpo_ext.core.mlp import MLPActor, read_layers, runs_as_written
from sb3_trpo_ext.sb3.adapter import PolicyFunction

AGREEMENT = 1e-3
"""A policy and the layers that were read agree to this, absolutely and relatively, or the policy is right."""

GAUSSIANS = (DiagGaussianDistribution, SquashedDiagGaussianDistribution)
DISCRETE = (CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution)


def sb3_wrote(policy: ActorCriticPolicy, *methods: str) -> bool:
    r"""
    Make sure that a policy does what SB3's own code says.

    :param policy: the policy
    :param \*methods: of the policy, that matter
    :return: whether none of them, nor the extractor of latents, is a user's
    """
    inherited = all(
        getattr(type(policy), name) is getattr(ActorCriticPolicy, name) and name not in vars(policy) for name in methods
    )
    return inherited and type(policy.mlp_extractor) is MlpExtractor and "forward" not in vars(policy.mlp_extractor)


def fixed_features(policy: ActorCriticPolicy, extractor: BaseFeaturesExtractor, observations: PyTorchObs) -> Tensor | None:
    """
    Extract features once for all, if training can't change them.

    :param policy: the policy
    :param extractor: one of its features extractors
    :param observations: as SB3's buffer gives them
    :return: shape (n_samples, n_features); None if the extractor holds parameters or buffers
    """
    if any(True for _ in extractor.parameters()) or any(True for _ in extractor.buffers()):
        return None
    with torch.no_grad():
        # As get_distribution and predict_values do: past an override that returns both extractors' features.
        return super(ActorCriticPolicy, policy).extract_features(observations, extractor)


def actor_stack(function: PolicyFunction, phi: Tensor) -> MLPActor | None:
    """
    Read an actor as a stack of layers.

    :param function: the policy as a function, its parameters known
    :param phi: what the policy itself gives for the batch, shape (n_samples, n_parameters)
    :return: the stack; None if the policy is anything but SB3's own layers one after another, all of them trainable,
        behind a features extractor without parameters, or if the stack gives another phi
    """
    policy = function.policy
    places = {id(parameter): place for place, parameter in enumerate(function.parameters)}
    if not sb3_wrote(policy, "get_distribution", "_get_action_dist_from_latent"):
        return None
    gaussian = type(policy.action_dist) in GAUSSIANS
    free = places.get(id(policy.log_std)) if gaussian else None
    if (gaussian and free is None) or not (gaussian or type(policy.action_dist) in DISCRETE):
        return None
    net = policy.mlp_extractor.policy_net
    layers = read_layers([*net, policy.action_net], places) if runs_as_written(net) else None
    if layers is None:
        return None
    features = fixed_features(policy, policy.pi_features_extractor, function.observations)
    if features is None:
        return None
    stack = MLPActor(layers, free, features.to(function.device).__getitem__)
    read = stack(function.theta(phi.dtype), slice(0, PROBE_SAMPLES))
    return stack if torch.allclose(read, phi[:PROBE_SAMPLES], rtol=AGREEMENT, atol=AGREEMENT, equal_nan=True) else None
