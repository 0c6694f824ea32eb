"""(f) After hours of training, one sensor reading is NaN, and so is the reward that is computed from it."""

from __future__ import annotations

import math
from collections.abc import Callable

from incident_suite.rewards import ChangedReward
from incident_suite.scenario import BASE, Incident, Kit

ONSET = 16
AT = (ONSET - 1) * BASE["n_steps"] + 33


def broken(at: int) -> Callable[[int, float], float]:
    """
    Make one reward NaN.

    :param at: step of it, from 1; 0: never
    :return: how rewards change
    """
    return lambda step, reward: math.nan if step == at else reward


INCIDENT = Incident(
    letter="f",
    name="one NaN from a sensor",
    updates=30,
    onset=ONSET,
    trouble=f"one of the 1,024 rewards of update {ONSET} is NaN",
    cure='on_nonfinite="truncate"',
    kit=Kit(wrapper=lambda env, index: ChangedReward(env, broken(AT if index == 3 else 0))),
    ours={"on_nonfinite": "truncate"},
)
