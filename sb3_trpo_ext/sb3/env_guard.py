"""
Environments that give NaN or infinity: found below everything else, before it does harm.

While a model collects or resets, the innermost VecEnv's ``step_wait`` and ``reset`` are watched: below VecNormalize, frame
stacks and monitors, whoever built them. Nothing is added to the stack of wrappers, so that what walks through it (SB3's
``sync_envs_normalization``, ``env_is_wrapped``, a user's ``env.unwrapped``) finds what it has always found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_trpo_ext.sb3.env_watch import NON_FINITE, Position, Watch
from sb3_trpo_ext.sb3.finiteness import Bounds


class EnvGuard:
    """Watches the environments of a model, for the time that it steps or resets them."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []

    @contextmanager
    def watching(self, env: VecEnv, on_nonfinite: str, position: Position) -> Iterator[None]:
        """
        Watch a stack of environments.

        :param env: the outermost
        :param on_nonfinite: "raise" or "truncate"
        :param position: step of the rollout, for messages
        :yields: nothing
        """
        places = _places(env)
        if [watch.venv for watch in self._watches] != places:
            self._watches = [Watch(place) for place in places]
        sums = [layer for layer in _layers(env) if isinstance(layer, VecNormalize)]
        normalised = any(layer.norm_obs and layer.training for layer in sums)
        with ExitStack() as stack:
            for watch in self._watches:
                watch.bounds, watch.position = Bounds(normalised), position
                # Only the innermost can end an episode so that all that stand above take part.
                watch.truncates = on_nonfinite == "truncate" and watch.venv is places[0]
                stack.enter_context(watch.watching())
            yield


def why_not_truncate(env: VecEnv, buffer: Any) -> str | None:
    """
    Find out, before a training begins, why episodes of an environment can't be ended in its place.

    :param env: the outermost
    :param buffer: the rollout buffer
    :return: the reason, in words; None if there is none
    """
    cls = type(buffer)
    sb3s = cls.get in (RolloutBuffer.get, DictRolloutBuffer.get)
    if not sb3s or cls.compute_returns_and_advantage is not RolloutBuffer.compute_returns_and_advantage:
        return f"the buffer, {cls.__name__}, orders samples or computes advantages in its own way"
    innermost = _places(env)[0]
    try:
        strict = any(innermost.env_is_wrapped(Monitor)) and not all(innermost.get_attr("allow_early_resets"))
    except (NotImplementedError, AttributeError):
        # A VecEnv that does not tell: whether it can is seen when it must.
        strict = False
    return "a Monitor forbids to reset before an episode is over (give it allow_early_resets=True)" if strict else None


def dropped_environments(infos: Sequence[dict[str, Any]], dones: Any) -> list[int]:
    """
    Find the environments whose step was dropped.

    :param infos: one of each environment
    :param dones: whether each environment's episode is over
    :return: their indices
    """
    if dones is None or not np.count_nonzero(dones):
        return []
    return [index for index, done in enumerate(dones) if done and NON_FINITE in infos[index]]


def _layers(env: VecEnv) -> list[VecEnv]:
    """From the outermost to the innermost."""
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def _places(env: VecEnv) -> list[VecEnv]:
    """The innermost, and what stands directly below a VecNormalize: a wrapper in between may break what comes by it."""
    layers = _layers(env)
    below = [inner for outer, inner in pairwise(layers) if isinstance(outer, VecNormalize)]
    return [layers[-1], *(layer for layer in below if layer is not layers[-1])]
