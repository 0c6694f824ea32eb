"""Which of SB3's critics are plain stacks of layers, whose epochs ``core.value_regression`` computes in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_trpo_ext.core.ladder import PROBE_SAMPLES
from sb3_trpo_ext.core.layers import Layer, runs_as_written
from sb3_trpo_ext.core.mlp import MLPActor
from sb3_trpo_ext.core.value_regression import ValueRegression
from sb3_trpo_ext.sb3.problem.actor import map_tensors
from sb3_trpo_ext.sb3.problem.actor_stack import CRITIC_METHODS, agree, fixed_features, read_stack
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch

FIXED_MODULES = (FlattenExtractor, CombinedExtractor, nn.Flatten, nn.ModuleDict)
"""They do the same in training and in eval mode, each time: a user's extractor without parameters may hold dropout."""

KNOWN_OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)
"""They read gradients within ``step`` only: another one may keep them, and closed-form gradients are overwritten."""


def value_regression(
    policy: ActorCriticPolicy, parameters: Sequence[nn.Parameter], batch: RolloutBatch, batch_size: int
) -> ValueRegression | None:
    """
    Read a critic as a stack of layers.

    :param policy: the policy
    :param parameters: the critic's own
    :param batch: the rollout
    :param batch_size: samples in a minibatch
    :return: its regression in closed form; None if anything but SB3's own layers, all of them the critic's own and trainable,
        or anybody's hook, stands between observations, values, gradients and steps
    """
    layers = _layers(policy, parameters)
    extractor = policy.vf_features_extractor
    fixed = all(type(module) in FIXED_MODULES and runs_as_written(module) for module in extractor.modules())
    # A custom buffer makes its own minibatches.
    if layers is None or not fixed or batch.n_steps is None or type(policy.optimizer) not in KNOWN_OPTIMIZERS:
        return None
    features = fixed_features(policy, extractor, batch.observations)
    if features is None or {tensor.dtype for tensor in (*parameters, batch.returns)} != {features.dtype}:
        return None
    rows = slice(0, PROBE_SAMPLES)
    read = MLPActor(layers, None, features.__getitem__)(tuple(p.detach() for p in parameters), rows)
    with torch.no_grad():
        told = policy.predict_values(map_tensors(lambda tensor: tensor[rows], batch.observations))
    if not agree(read, told):
        return None
    return ValueRegression(layers, parameters, features, batch.returns, batch_size)


def _layers(policy: ActorCriticPolicy, parameters: Sequence[nn.Parameter]) -> tuple[Layer, ...] | None:
    """From features to values, each of the parameters in one place."""
    if any(parameter._backward_hooks or parameter._post_accumulate_grad_hooks for parameter in parameters):
        return None
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    net = getattr(policy.mlp_extractor, "value_net", None)
    layers = None if net is None else read_stack(policy, CRITIC_METHODS, net, policy.value_net, places)
    if layers is None:
        return None
    used = [place for layer in layers for place in (layer.weight, layer.bias) if place is not None]
    one_value = len(parameters[layers[-1].weight]) == 1
    return layers if one_value and sorted(used) == list(range(len(parameters))) else None
