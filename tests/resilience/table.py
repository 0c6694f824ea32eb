"""All faults, in the order of their files."""

from tests.resilience import batch_faults, data_faults, env_faults, policy_faults, surrounding_faults, training_faults
from tests.resilience.faults import FAULTS

FILES = (data_faults, env_faults, batch_faults, policy_faults, training_faults, surrounding_faults)
ORDER = ["tests.resilience.faults", *(file.__name__ for file in FILES)]


def fault_names() -> list[str]:
    """Names of all faults: importing their files declares them, in whatever order that was."""
    return sorted(FAULTS, key=lambda name: ORDER.index(FAULTS[name].do.__module__))
