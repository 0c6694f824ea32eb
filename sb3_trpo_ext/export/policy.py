"""A policy as a robot needs it: raw observations in, actions out, with nothing beside it to keep in step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn


class ExportError(ValueError):
    """A policy that can't be exported as asked, or whose file does not act as the policy does."""


def reason(error: Exception) -> str:
    """
    Put another's error, of any length, into one line.

    :param error: what was raised
    :return: its type, and the beginning of what it says
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class DeployedPolicy(nn.Module):
    """
    What ``model.predict(vec_normalize.normalize_obs(observation), deterministic=True)`` does to a batch, in float32.

    :param policy: the policy; a copy is taken
    :param vec_normalize: statistics of the observations; None if they were not normalised
    :param channels_last: images come as (height, width, channels), as cameras and most environments give them
    """

    def __init__(self, policy: ActorCriticPolicy, vec_normalize: VecNormalize | None, channels_last: bool):
        super().__init__()
        self.spaces = input_spaces(copy.deepcopy(policy.observation_space), channels_last)
        # gSDE's noise stays behind: it hangs on a graph, which can't be copied, and the mode has no use for it.
        self.policy = copy.deepcopy(policy, {id(policy.action_dist): copy.copy(policy.action_dist)}).cpu()
        self.inputs = nn.ModuleList(
            RawInput(name, space, statistics_of(vec_normalize, name), vec_normalize, channels_last and is_image_space(space))
            for name, space in self.spaces.items()
        )
        self.named = isinstance(policy.observation_space, spaces.Dict)
        self.bounds = bounds_of(policy)
        self.train(False)
        self.policy.set_training_mode(False)
        self.requires_grad_(False)

    def forward(self, *observations: Tensor) -> Tensor:
        r"""
        Act.

        :param \*observations: a batch of each raw observation, in the order of ``spaces``
        :return: actions, shape (batch, *action_space.shape)
        """
        seen = {name: read(raw) for name, read, raw in zip(self.spaces, self.inputs, observations, strict=True)}
        actions = self.policy._predict(seen if self.named else next(iter(seen.values())), deterministic=True)
        return self.bounds(actions.reshape(-1, *(self.policy.action_space.shape or ())))


class RawInput(nn.Module):
    """
    One raw observation, made what the policy was trained on.

    The mean is kept as the sum of two float32 numbers: ``x - mean`` loses nothing although all is float32, which
    every runtime has.

    :param name: of the observation
    :param space: of the raw observation
    :param statistics: of the observations; None if this one was not normalised
    :param vec_normalize: for its epsilon and its clipping
    :param channels_last: bring the channels to the front
    """

    mean: Tensor
    rest: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        space: spaces.Space,
        statistics: RunningMeanStd | None,
        vec_normalize: VecNormalize | None,
        channels_last: bool,
    ):
        super().__init__()
        self.channels_last = channels_last
        self.clip: float | None = None
        if statistics is None or vec_normalize is None:
            return
        if statistics.mean.shape != space.shape:
            raise ExportError(
                f"{name} has the shape {space.shape}, but VecNormalize's statistics {statistics.mean.shape}: they are another "
                "model's, or frames were stacked above VecNormalize, which can't be exported"
            )
        coarse = statistics.mean.astype(np.float32)
        self.clip = float(vec_normalize.clip_obs)
        self.register_buffer("mean", torch.as_tensor(coarse))
        self.register_buffer("rest", torch.as_tensor((statistics.mean - coarse).astype(np.float32)))
        self.register_buffer("std", torch.as_tensor(np.sqrt(statistics.var + vec_normalize.epsilon).astype(np.float32)))

    def forward(self, raw: Tensor) -> Tensor:
        """
        Normalise and transpose.

        :param raw: a batch of this observation
        :return: the same as the policy expects it
        """
        if self.clip is not None:
            raw = torch.clamp(((raw.float() - self.mean) - self.rest) / self.std, -self.clip, self.clip)
        return raw.permute(0, 3, 1, 2) if self.channels_last else raw


class Clip(nn.Module):
    """
    Actions clipped to their space.

    :param space: of the actions
    """

    low: Tensor
    high: Tensor

    def __init__(self, space: spaces.Box):
        super().__init__()
        low, high = bounds_within(space)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, actions: Tensor) -> Tensor:
        """
        Clip.

        :param actions: any
        :return: within the bounds; NaN stays NaN
        """
        return torch.minimum(torch.maximum(actions, self.low), self.high)


class Unscale(Clip):
    """Squashed actions, from [-1, 1] to their space."""

    def forward(self, actions: Tensor) -> Tensor:
        """
        Stretch.

        :param actions: in [-1, 1]
        :return: within the bounds
        """
        return super().forward(self.low + 0.5 * (actions + 1.0) * (self.high - self.low))


def bounds_within(space: spaces.Box) -> tuple[Tensor, Tensor]:
    """
    Round bounds to float32, towards the inside: an action at a bound of a float64 space is still in the space.

    :param space: of the actions
    :return: lowest and highest, float32
    """
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)
    return torch.as_tensor(low), torch.as_tensor(high)


def bounds_of(policy: ActorCriticPolicy) -> nn.Module:
    """
    Choose what SB3's ``predict`` does to an action at the end.

    :param policy: the policy
    :return: the module that does it
    """
    space: Any = policy.action_space
    if not isinstance(space, spaces.Box):
        return nn.Identity()
    return Unscale(space) if policy.squash_output else Clip(space)


def statistics_of(vec_normalize: VecNormalize | None, name: str) -> RunningMeanStd | None:
    """
    Look up an observation's statistics.

    :param vec_normalize: all of them; None if there are none
    :param name: of the observation
    :return: mean and variance; None where it is not normalised
    """
    if vec_normalize is None or not vec_normalize.norm_obs:
        return None
    if isinstance(vec_normalize.obs_rms, dict):
        return vec_normalize.obs_rms.get(name) if name in (vec_normalize.norm_obs_keys or []) else None
    return vec_normalize.obs_rms


def input_spaces(space: spaces.Space, channels_last: bool) -> dict[str, spaces.Space]:
    """
    List what the file is given, by name.

    :param space: of the policy's observations
    :param channels_last: images come with their channels last
    :return: the space of each raw observation, in order; "observation" where there is but one
    """
    parts: dict[str, spaces.Space] = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    images = [name for name, part in parts.items() if is_image_space(part)]
    if not channels_last:
        return parts
    if not images:
        raise ExportError("channels_last: this policy has no images (Box of uint8 from 0 to 255) among its observations")
    return {name: _with_channels_last(part) if name in images else part for name, part in parts.items()}


def _with_channels_last(space: spaces.Space) -> spaces.Space:
    assert isinstance(space, spaces.Box)
    return spaces.Box(np.moveaxis(space.low, 0, -1), np.moveaxis(space.high, 0, -1), dtype=np.uint8)
