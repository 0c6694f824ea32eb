"""(g) delta far too large, and (d) the same with ReLU networks, whose units die of it."""

from __future__ import annotations

from torch import nn

from incident_suite.scenario import FRESH_SEEDS, Incident, Kit

SMALL = {"batch_size": 128}
"""Of the critic; sb3-contrib's default."""
RELU = {"policy_kwargs": {"activation_fn": nn.ReLU}}

TOO_LARGE = Incident(
    letter="g",
    name="δ far too large",
    updates=75,
    onset=1,
    trouble="target_kl=1",
    cure="target_kl=0.01",
    alarms=("TR201",),
    kit=Kit({"target_kl": 1.0, **SMALL}),
    healthy=Kit(SMALL),
    cured=Kit(SMALL),
    seeds=FRESH_SEEDS,
)

DYING_RELU = Incident(
    letter="d",
    name="ReLU networks dying under large steps",
    updates=60,
    onset=1,
    trouble="ReLU networks, target_kl=1",
    cure="target_kl=0.01",
    alarms=("TR301", "TR303"),
    kit=Kit({"target_kl": 1.0, **RELU, **SMALL}),
    healthy=Kit({**RELU, **SMALL}),
    cured=Kit({**RELU, **SMALL}),
)
