"""All or nothing: whatever raises in the middle of an update, policy and optimiser are as they were before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.core.flat import Snapshot


@contextmanager
def all_or_nothing(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Restore parameters, buffers, training mode and optimiser state bit for bit if the body raises anything, Ctrl-C included.

    :param policy: the policy, with its optimiser
    :yields: nothing
    """
    snapshot = Snapshot.take(chain(policy.parameters(), policy.buffers()))
    modes = [(module, module.training) for module in policy.modules()]
    optimizer_state = copy.deepcopy(policy.optimizer.state_dict())
    try:
        yield
    except BaseException:
        snapshot.restore()
        for module, training in modes:
            module.training = training
        policy.optimizer.load_state_dict(optimizer_state)
        policy.optimizer.zero_grad(set_to_none=True)
        raise
