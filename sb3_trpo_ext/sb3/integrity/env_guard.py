"""
Environments that give NaN or infinity: found below everything else, before it does harm.

While a model collects or resets, the innermost VecEnv's ``step_wait`` and ``reset`` are watched: below VecNormalize, frame
stacks and monitors, whoever built them. Nothing is added to the stack of wrappers, so that what walks through it (SB3's
``sync_envs_normalization``, ``env_is_wrapped``, a user's ``env.unwrapped``) finds what it has always found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from sb3_trpo_ext.sb3.callback_tree import every_callback
from sb3_trpo_ext.sb3.integrity.env_watch import Position, Watch, nowhere
from sb3_trpo_ext.sb3.integrity.finiteness import NON_FINITE, Bounds
from sb3_trpo_ext.sb3.integrity.lost_episodes import LostEpisodes
from sb3_trpo_ext.sb3.integrity.workers import watch_workers


class EnvGuard:
    """Watches the environments of a model, and those that it is evaluated in, for the time that it steps or resets them."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []

    @contextmanager
    def watching(
        self, env: VecEnv, on_nonfinite: str, position: Position, callback: BaseCallback | None = None
    ) -> Iterator[None]:
        """
        Watch stacks of environments.

        :param env: the outermost of the model's
        :param on_nonfinite: "raise" or "truncate"
        :param position: step of the rollout, for messages
        :param callback: root of the callbacks: what they evaluate in is watched, too
        :yields: nothing
        :raises NonFiniteError: naming what is not finite, and where
        """
        found = [_watched(env, evaluates=False), *(_watched(stack, evaluates=True) for stack in _evaluated(callback))]
        places = {id(place): (place, how) for stack in reversed(found) for place, how in stack}
        if [watch.venv for watch in self._watches] != [place for place, _ in places.values()]:
            known = {id(watch.venv): watch for watch in self._watches}
            self._watches = [known.get(id(place)) or Watch(place) for place, _ in places.values()]
        with ExitStack() as stack:
            for watch, (place, how) in zip(self._watches, places.values(), strict=True):
                if isinstance(place, SubprocVecEnv):
                    watch_workers(place, how.evaluates)
                watch.truncates = on_nonfinite == "truncate" and how.innermost
                watch.bounds, watch.evaluates = how.bounds, how.evaluates
                watch.position = nowhere if how.evaluates else position
                if how.has_reports and watch.lost is None:
                    watch.lost = LostEpisodes(place)
                stack.enter_context(watch.watching())
            yield


@dataclass(frozen=True)
class _How:
    """
    How a place is watched; only the innermost can end an episode so that all that stand above take part.

    ``has_reports``: whether the ends of episodes are known from the Monitors in it.
    """

    bounds: Bounds
    innermost: bool
    evaluates: bool
    has_reports: bool


def _watched(env: VecEnv, evaluates: bool) -> list[tuple[VecEnv, _How]]:
    sums = [layer for layer in _layers(env) if isinstance(layer, VecNormalize)]
    bounds = Bounds(any(layer.norm_obs and layer.training for layer in sums))
    places = _places(env)
    inner = places[0]
    # A VecMonitor goes by the ends that it sees; and a `step` of its own may be looked at twice.
    has_reports = type(inner).step is VecEnv.step and not any(isinstance(layer, VecMonitor) for layer in _layers(env))
    return [(place, _How(bounds, place is inner, evaluates, has_reports and place is inner)) for place in places]


def _evaluated(callback: BaseCallback | None) -> list[VecEnv]:
    """What SB3's EvalCallback, and others that name it so, evaluate in."""
    stacks = [getattr(part, "eval_env", None) for part in every_callback(callback)] if callback is not None else []
    return [stack for stack in stacks if isinstance(stack, VecEnv)]


def refuse_impossible_truncation(env: VecEnv, buffer: Any) -> None:
    """
    Refuse, before a training begins, "truncate" where it can't work.

    :param env: the outermost environment
    :param buffer: the rollout buffer
    :raises ValueError: with the reason
    """
    reason = _why_not_truncate(env, buffer)
    if reason is not None:
        raise ValueError(f"TRPO: on_nonfinite='truncate' is impossible: {reason}; or use on_nonfinite='raise'")


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


def _why_not_truncate(env: VecEnv, buffer: Any) -> str | None:
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
