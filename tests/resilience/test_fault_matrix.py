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
ALL = [(name, config) for name in NAMES for config in OTHERS if (name, config) not in ROTATED]


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
def test_the_invariants_hold_in_every_space_and_network(name: str, config: Config) -> None:
    _holds_in(name, config)


def test_the_configurations_cover_everything() -> None:
    used = [Config(), *(config for _, config in ROTATED)]
    assert {config.observation for config in used} == OBSERVATIONS.keys()
    assert {config.network for config in used} == NETWORKS.keys()
    assert {re.sub("_thin|_expln", "", name) for name in ACTIONS} <= {re.sub("_thin|_expln", "", c.action) for c in used}


def test_every_fault_has_a_sentence() -> None:
    assert all(fault.sentence.endswith(".") for fault in FAULTS.values())
