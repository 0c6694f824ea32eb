"""
Every fault, in its own configuration and in others that rotate through all spaces and networks: the invariants hold, and what
must be told is told. Planted bugs, each of which the checker finds, are in ``test_planted_bugs``.
"""

import re

import pytest

from tests.resilience.faults import FAULTS, Fault, run
from tests.resilience.networks import NETWORKS, OTHERS, Config
from tests.resilience.table import fault_names
from tests.sb3.spaces import ACTIONS, OBSERVATIONS

NAMES = fault_names()
ROTATED = [(name, OTHERS[i % len(OTHERS)]) for i, name in enumerate(NAMES[::2])]
SB3S = {(name, "sde_thin_expln") for name in ("default_dtype_float64", "policy_in_float64", "policy_in_float16")}
"""gSDE's thin standard deviation makes ones of the default dtype: SB3's own policy can't act there."""
THINNED = 4
ALL = [
    (name, config)
    for i, name in enumerate(NAMES)
    for j, config in enumerate(OTHERS)
    if (i + j) % THINNED == 0 and (name, config) not in ROTATED and (name, config.action) not in SB3S
]
"""Every fault in a quarter of the configurations, every configuration with a quarter of the faults."""


@pytest.mark.parametrize("name", NAMES)
def test_the_invariants_hold_and_what_happened_is_told(name: str) -> None:
    fault = FAULTS[name]
    assert run(fault).failures(fault) == []


def _holds_in(name: str, config: Config) -> None:
    fault: Fault = FAULTS[name]
    if fault.extractor is not None:
        config = Config(config.action)  # the fault is the network
    outcome = run(fault, config=config)
    assert outcome.broken == []
    assert outcome.said


@pytest.mark.parametrize(("name", "config"), ROTATED, ids=str)
def test_the_invariants_hold_in_other_spaces_and_networks(name: str, config: Config) -> None:
    _holds_in(name, config)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), ALL, ids=str)
def test_the_invariants_hold_in_many_more_spaces_and_networks(name: str, config: Config) -> None:
    _holds_in(name, config)


def test_the_configurations_cover_everything() -> None:
    used = [Config(), *(config for _, config in ROTATED)]
    assert {config.observation for config in used} == OBSERVATIONS.keys()
    assert {config.network for config in used} == NETWORKS.keys()
    assert {re.sub("_thin|_expln", "", name) for name in ACTIONS} <= {re.sub("_thin|_expln", "", c.action) for c in used}


@pytest.mark.parametrize("name", ["log_std_of_100", "log_std_of_minus_100"])
@pytest.mark.parametrize("action", ["sde", "sde_thin_expln", "sde_squashed"])
def test_exploration_that_cannot_be_drawn_is_told(name: str, action: str) -> None:
    outcome = run(FAULTS[name], config=Config(action, "vector", "shared trunk"))
    assert outcome.broken == []
    assert outcome.error is None or "NonFiniteError" in outcome.said or "StaleBatchError" in outcome.said


def test_frozen_parameters_are_moved_by_no_optimiser() -> None:
    outcome = run(FAULTS["optimiser_that_moves_everything"], config=Config("discrete", "vector", "frozen"))
    assert outcome.broken == []
    assert outcome.error is None


def test_every_fault_has_a_sentence() -> None:
    assert all(fault.sentence.endswith(".") for fault in FAULTS.values())
