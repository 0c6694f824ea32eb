"""(e) A penalty for every step, meant to make the robot quick, makes it fall as fast as it can: it locks in to one action."""

from __future__ import annotations

from collections.abc import Callable

from incident_suite.rewards import ChangedReward
from incident_suite.scenario import BASE, Incident, Kit

ONSET, PENALTY = 16, 1.5
QUICK = {"target_kl": 0.03}


def penalised(after: int = (ONSET - 1) * BASE["n_steps"]) -> Callable[[int, float], float]:
    """
    Take something off every reward.

    :param after: steps before the first
    :return: how rewards change
    """
    return lambda step, reward: reward - (PENALTY if step > after else 0.0)


INCIDENT = Incident(
    letter="e",
    name="entropy collapse",
    updates=36,
    onset=ONSET,
    trouble=f"from update {ONSET} on, every step costs {PENALTY} (the pole's own reward is 1); target_kl=0.03",
    cure='TrustRegionMonitor(on_trouble="stop")',
    alarms=("TR201", "TR202"),
    kit=Kit(QUICK, wrapper=lambda env, _: ChangedReward(env, penalised())),
    healthy=Kit(QUICK),
    monitor={"on_trouble": "stop"},
)
