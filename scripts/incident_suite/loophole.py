"""(e) A penalty for every step, meant to make the robot quick, makes it fall as fast as it can: it locks in to one action."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from incident_suite.scenario import BASE, Incident, Kit

ONSET, PENALTY = 16, 1.5
QUICK = {"target_kl": 0.03}


class StepPenalty(gym.Wrapper[Any, Any, Any, Any]):
    """
    Takes something off every reward.

    :param env: the environment
    :param after: steps before the first
    """

    def __init__(self, env: gym.Env, after: int = (ONSET - 1) * BASE["n_steps"]):
        super().__init__(env)
        self.after, self._steps = after, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Step.

        :param action: the action
        :return: as gymnasium's
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        penalty = PENALTY if self._steps > self.after else 0.0
        return observation, float(reward) - penalty, terminated, truncated, info


INCIDENT = Incident(
    letter="e",
    name="entropy collapse",
    updates=36,
    onset=ONSET,
    trouble=f"from update {ONSET} on, every step costs {PENALTY} (the pole's own reward is 1); target_kl=0.03",
    cure='TrustRegionMonitor(on_trouble="stop")',
    alarms=("TR201", "TR202"),
    kit=Kit(QUICK, wrapper=lambda env, _: StepPenalty(env)),
    healthy=Kit(QUICK),
    monitor={"on_trouble": "stop"},
)
