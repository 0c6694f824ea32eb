"""Which of SB3's policies are plain stacks of layers, for which ``core.mlp`` has a closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

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
from torch import Tensor, nn

from sb3_trpo_ext.core.ladder import PROBE_SAMPLES
from sb3_trpo_ext.core.layers import Layer, read_layers, runs_as_written
from sb3_trpo_ext.core.mlp import MLPActor
from sb3_trpo_ext.core.reduce import Rows
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction

ACTOR_METHODS = ("get_distribution", "_get_action_dist_from_latent", "forward_actor")
CRITIC_METHODS = ("predict_values", "forward_critic")

AGREEMENT, AGREEMENT_NEAR_ZERO = 1e-4, 1e-6
"""A policy and the layers that were read agree to this share of the largest output and this much, or the policy is right."""

FEATURES_LIMIT = 2**27
"""Bytes that the batch's features may take, which are kept beside its observations; of more they are made again each time."""

GAUSSIANS = (DiagGaussianDistribution, SquashedDiagGaussianDistribution)
DISCRETE = (CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution)


def read_stack(
    policy: ActorCriticPolicy, methods: Sequence[str], net: nn.Module, head: nn.Module, places: Mapping[int, int]
) -> tuple[Layer, ...] | None:
    """
    Read one of the two networks of a policy as a stack of layers.

    :param policy: the policy
    :param methods: of the policy and of its extractor of latents, by which SB3 runs the network
    :param net: the latents' network
    :param head: the layer behind it
    :param places: ``id`` of a parameter -> its place
    :return: the layers; None if one of the methods is a user's, or the modules are anything but SB3's own
    """
    extractor = policy.mlp_extractor
    theirs = [name for name in methods if getattr(type(policy), name, None) is not getattr(ActorCriticPolicy, name, None)]
    patched = [name for name in methods if name in vars(policy) or name in vars(extractor)]
    if theirs or patched or type(extractor) is not MlpExtractor or type(net) is not nn.Sequential or not runs_as_written(net):
        return None
    return read_layers([*net, head], places)


def agree(read: Tensor, told: Tensor) -> bool:
    """
    Compare what was read off a policy with what it says.

    :param read: outputs of the layers, on the first samples
    :param told: outputs of the policy, same shape if they are the same
    :return: whether they agree up to rounding
    """
    if read.shape != told.shape:
        return False
    return bool((read - told).abs().max() <= AGREEMENT * told.abs().max() + AGREEMENT_NEAR_ZERO)


def fixed_features(policy: ActorCriticPolicy, extractor: BaseFeaturesExtractor, observations: PyTorchObs) -> Tensor | None:
    """
    Extract features once for all, if training can't change them.

    :param policy: the policy
    :param extractor: one of its features extractors
    :param observations: as SB3's buffer gives them
    :return: shape (n_samples, n_features), float32; None if the extractor holds parameters or buffers, or for want of memory
    """
    if not _is_fixed(extractor) or _are_many(extractor, observations):
        return None
    return _extracted(policy, extractor, observations)


def _is_fixed(extractor: BaseFeaturesExtractor) -> bool:
    return not any(True for _ in chain(extractor.parameters(), extractor.buffers()))


def _are_many(extractor: BaseFeaturesExtractor, observations: PyTorchObs) -> bool:
    anything = observations if isinstance(observations, Tensor) else next(iter(observations.values()))
    return 4 * len(anything) * extractor.features_dim > FEATURES_LIMIT


@torch.no_grad()
def _extracted(policy: ActorCriticPolicy, extractor: BaseFeaturesExtractor, observations: PyTorchObs) -> Tensor:
    """As get_distribution and predict_values do: past an override that returns both extractors' features."""
    return super(ActorCriticPolicy, policy).extract_features(observations, extractor)


def _inputs(function: PolicyFunction) -> Callable[[Rows], Tensor] | None:
    """Rows -> what the actor's first layer sees; None if training can change it."""
    policy, extractor = function.policy, function.policy.pi_features_extractor
    if not _is_fixed(extractor):
        return None
    if _are_many(extractor, function.observations):
        return lambda rows: _extracted(policy, extractor, function.observed(rows))
    return _extracted(policy, extractor, function.observations).to(function.device).__getitem__


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
    dist = policy.action_dist
    free: int | None = None
    if isinstance(dist, DiagGaussianDistribution) and type(dist) in GAUSSIANS:
        free = places.get(id(policy.log_std))
        if free is None or policy.log_std.shape != (dist.action_dim,):
            return None
    elif type(dist) not in DISCRETE:
        return None
    net = getattr(policy.mlp_extractor, "policy_net", None)
    layers = read_stack(policy, ACTOR_METHODS, net, policy.action_net, places) if net is not None else None
    inputs = None if layers is None else _inputs(function)
    if layers is None or inputs is None:
        return None
    stack = MLPActor(layers, free, inputs)
    read = stack(function.theta(phi.dtype), slice(0, PROBE_SAMPLES))
    return stack if agree(read, phi[:PROBE_SAMPLES]) else None
