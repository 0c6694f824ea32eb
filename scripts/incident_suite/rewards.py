"""Rewards that go wrong at some time; the returns that a Monitor below has counted stay the task's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym


class ChangedReward(gym.Wrapper[Any, Any, Any, Any]):
    """
    Changes rewards by when they come.

    :param env: the environment
    :param change: (number of the step, from 1, and its reward) -> reward
    """

    def __init__(self, env: gym.Env, change: Callable[[int, float], float]):
        super().__init__(env)
        self.change, self._steps = change, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Step.

        :param action: the action
        :return: as gymnasium's
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return observation, self.change(self._steps, float(reward)), terminated, truncated, info
