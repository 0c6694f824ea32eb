"""(f) After hours of training, one sensor reading is NaN, and so is the reward that is computed from it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from incident_suite.scenario import BASE, Incident, Kit

ONSET = 16
AT = (ONSET - 1) * BASE["n_steps"] + 33


class BrokenSensor(gym.Wrapper[Any, Any, Any, Any]):
    """
    Gives one reward that is NaN.

    :param env: the environment
    :param at: step of it, from 1; 0: never
    """

    def __init__(self, env: gym.Env, at: int):
        super().__init__(env)
        self.at, self._steps = at, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Step.

        :param action: the action
        :return: as gymnasium's
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return observation, float("nan") if self._steps == self.at else float(reward), terminated, truncated, info


INCIDENT = Incident(
    letter="f",
    name="one NaN from a sensor",
    updates=30,
    onset=ONSET,
    trouble=f"one of the 1,024 rewards of update {ONSET} is NaN",
    cure='on_nonfinite="truncate"',
    kit=Kit(wrapper=lambda env, index: BrokenSensor(env, AT if index == 3 else 0)),
    ours={"on_nonfinite": "truncate"},
)
