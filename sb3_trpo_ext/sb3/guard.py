"""What a policy held before: restored bit for bit when an update raises, compared when it must not have changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
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


@dataclass(frozen=True)
class Fingerprint:
    """
    What a policy's weights and buffers were.

    :param held: copies by name
    """

    held: dict[str, Any]

    @classmethod
    def of(cls, policy: ActorCriticPolicy) -> Fingerprint:
        """
        Take it.

        :param policy: the policy
        :return: its fingerprint
        """
        return cls({name: copy.deepcopy(value) for name, value in policy.state_dict().items()})

    def changed(self, policy: ActorCriticPolicy) -> str | None:
        """
        Compare.

        :param policy: the same policy, later
        :return: the name of the first weight or buffer that is not what it was, bit for bit; None if all are
        """
        now = policy.state_dict()
        if now.keys() != self.held.keys():
            return "the set of its modules"
        for name, before in self.held.items():
            same = torch.equal(before, now[name]) if isinstance(before, torch.Tensor) else before == now[name]
            if not same:
                return name
        return None
