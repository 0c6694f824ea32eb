"""Faults of the environments: they give what is not finite, with both settings of ``on_nonfinite``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.resilience.faults import before, group

NAN, INF = float("nan"), float("inf")
TOLD = ".*its episode was ended in its last finite state"


def spoiled(observation: Any, value: float) -> Any:
    """The same, with a value in every part that can hold it."""
    if isinstance(observation, dict):
        return {key: spoiled(part, value) for key, part in observation.items()}
    array = np.array(observation)
    if array.dtype.kind == "f":
        array.flat[0] = value
        return array
    return observation


class Spoils:
    """
    Stands before ``step`` of one environment, and notes which steps of the rollout it has spoiled.

    :param model: the model; the checker finds the steps in its ``injected``
    :param index: of the environment
    :param spoil: its name, or "observation" where it applies, "reward" where no part of an observation can hold it
    :param at: whether to spoil a step of this number, from the next one
    :param value: what it gives
    """

    def __init__(self, model: Any, index: int, spoil: str, at: Callable[[int], bool], value: float = NAN):
        self._env = model.env.unwrapped.envs[index].unwrapped
        self._step, self._reset = self._env.step, self._env.reset
        self._index, self._spoil, self._at, self._value = index, spoil, at, value
        self._count = 0
        self._injected = vars(model).setdefault("injected", [])
        self._env.step = self.step

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self._step(action)
        if self._spoil == "terminal":
            truncated = self._at(self._count)
        if self._at(self._count):
            self._injected.append((self._count, self._index))
            bad = spoiled(obs, self._value)
            obs, reward = (obs, self._value) if self._spoil == "reward" or bad is obs else (bad, reward)
        self._count += 1
        return obs, reward, terminated, truncated, info


def at_nine(step: int) -> bool:
    return step == 9


group("Environments that are not finite")


@before("NonFiniteError: non-finite (observations|rewards).* from environment 1, step 9")
def sensor_fails(model: Any) -> None:
    """A sensor of one environment gives NaN once."""
    Spoils(model, 1, "observation", at_nine)


@before("NonFiniteError: non-finite rewards.* from environment 1, step 9")
def reward_fails(model: Any) -> None:
    """An environment's reward is infinite once."""
    Spoils(model, 1, "reward", at_nine, -INF)


@before("NonFiniteError: non-finite terminal observations.* from environment 1, step 9")
def simulation_explodes_at_the_end(model: Any) -> None:
    """The last observation of an episode that a time limit ends is NaN."""
    Spoils(model, 1, "terminal", at_nine)


@before("accepted.*dropped 1 samples" + TOLD)
def sensor_fails_truncated(model: Any) -> None:
    """A sensor of one environment gives NaN once; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    sensor_fails(model)


@before("accepted.*dropped 1 samples" + TOLD)
def reward_fails_truncated(model: Any) -> None:
    """An environment's reward is infinite once; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    reward_fails(model)


@before("accepted.*dropped 1 samples" + TOLD)
def simulation_explodes_at_the_end_truncated(model: Any) -> None:
    """The last observation of an episode that a time limit ends is NaN; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    simulation_explodes_at_the_end(model)


@before("accepted.*dropped 22 samples" + TOLD)
def sensors_fail_at_every_third_step_truncated(model: Any) -> None:
    """Both sensors give NaN at every third step, the rollout's first among them; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    for index in range(2):
        Spoils(model, index, "observation", lambda step: step % 3 == 0)


@before("accepted.*dropped 32 samples" + TOLD)
def an_environment_is_dead_truncated(model: Any) -> None:
    """One of two environments gives nothing but 1e39, which float32 can't hold; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    Spoils(model, 1, "reward", lambda _: True, 1e39)


@before("NonFiniteError: every one of the 64 samples of the rollout was dropped")
def every_environment_is_dead_truncated(model: Any) -> None:
    """Every reward is NaN; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    for index in range(2):
        Spoils(model, index, "reward", lambda _: True)


@before("NonFiniteError: environment 1 is broken: 10 resets in a row")
def environment_does_not_start_truncated(model: Any) -> None:
    """An environment's reset gives NaN; on_nonfinite="truncate"."""
    model.on_nonfinite = "truncate"
    env = model.env.unwrapped.envs[1].unwrapped
    honest = env.reset

    def reset(**kwargs: Any) -> Any:
        obs, info = honest(**kwargs)
        return spoiled(obs, NAN), info

    env.reset = reset
