"""All faults, in the order of their files."""

from tests.resilience import data_faults, policy_faults, training_faults
from tests.resilience.faults import FAULTS

FILES = (data_faults, policy_faults, training_faults)


def fault_names() -> list[str]:
    """Names of all faults: importing their files declares them."""
    assert all(any(fault.do.__module__ == file.__name__ for fault in FAULTS.values()) for file in FILES)
    return list(FAULTS)
