"""What a policy held before: restored bit for bit when an update raises, compared when it must not have changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_ext.core.flat import Snapshot

FailureObserver = Callable[[BaseException], None]


def tell(observers: Sequence[FailureObserver], error: BaseException) -> None:
    """
    Tell observers what a training died of; what goes wrong in one of them hides neither that nor the others.

    :param observers: called in order
    :param error: what it died of
    """
    for observer in observers:
        try:
            observer(error)
        except Exception as problem:  # a person's callback may raise anything
            warnings.warn(f"TRPO: {problem!r} while the end of the training was dealt with", UserWarning, stacklevel=3)


class Mark:
    """Says whether something is under way: on inside a ``with`` block."""

    def __init__(self) -> None:
        self.on = False

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False


@dataclass(frozen=True)
class Held:
    """
    What a policy and its optimiser hold.

    :param names: of the parameters and buffers, those that are not saved with a policy included
    :param snapshot: of the same, in this order
    :param modes: training mode of each module
    :param optimizer: state of the optimiser
    :param hooks: each dictionary of hooks, and what is in it: Ctrl-C may come between a hook and whatever will remove it
    :param action_dist: the policy's distribution, for which another stands in while parameters are read from it
    """

    names: tuple[str, ...]
    snapshot: Snapshot
    modes: tuple[tuple[nn.Module, bool], ...]
    optimizer: dict[str, Any]
    hooks: tuple[tuple[dict[int, Any], frozenset[int]], ...]
    action_dist: Distribution

    @classmethod
    def by(cls, policy: ActorCriticPolicy) -> Held:
        """
        Copy everything.

        :param policy: the policy, with its optimiser
        :return: the copies
        """
        tensors = _tensors(policy)
        modes = tuple((module, module.training) for module in policy.modules())
        hooks = chain.from_iterable((module._forward_hooks, module._forward_pre_hooks) for module, _ in modes)
        return cls(
            tuple(tensors),
            Snapshot.take(tensors.values()),
            modes,
            copy.deepcopy(policy.optimizer.state_dict()),
            tuple((held, frozenset(held)) for held in hooks),
            policy.action_dist,
        )

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies by name."""
        return dict(zip(self.names, self.snapshot.copies, strict=True))

    def restore(self, policy: ActorCriticPolicy) -> None:
        """
        Put everything back, bit for bit.

        :param policy: the same policy
        """
        self.snapshot.restore()
        policy.action_dist = self.action_dist
        for module, training in self.modes:
            module.training = training
        for hooks, there in self.hooks:
            for key in hooks.keys() - there:
                del hooks[key]
        # A copy: the optimiser may go on to write into what it is given.
        policy.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        policy.optimizer.zero_grad(set_to_none=True)


@contextmanager
def all_or_nothing(policy: ActorCriticPolicy, *counts: tuple[Any, Sequence[str]]) -> Iterator[Held]:
    r"""
    Restore parameters, buffers, training mode and optimiser state bit for bit if the body raises anything, Ctrl-C included.

    :param policy: the policy, with its optimiser
    :param \*counts: whoever counts updates, and the names of attributes that are set back likewise
    :yields: what they were
    """
    held, counted = Held.by(policy), [(owner, name, getattr(owner, name)) for owner, names in counts for name in names]
    try:
        yield held
    except BaseException:
        held.restore(policy)
        for owner, name, value in counted:
            setattr(owner, name, value)
        raise


@dataclass(frozen=True)
class Fingerprint:
    """
    What a policy's weights and buffers were.

    :param held: copies by name
    """

    held: dict[str, torch.Tensor]

    @classmethod
    def of(cls, policy: ActorCriticPolicy) -> Fingerprint:
        """
        Take it.

        :param policy: the policy
        :return: its fingerprint
        """
        return cls({name: tensor.detach().clone() for name, tensor in _tensors(policy).items()})

    def changed(self, policy: ActorCriticPolicy) -> str | None:
        """
        Compare.

        :param policy: the same policy, later
        :return: the name of the first weight or buffer that is not what it was, bit for bit; None if all are
        """
        now = _tensors(policy)
        if now.keys() != self.held.keys():
            return "the set of its modules"
        return next((name for name, before in self.held.items() if not torch.equal(before, now[name])), None)


def _tensors(policy: ActorCriticPolicy) -> dict[str, torch.Tensor]:
    """Also the buffers that are not saved with a policy."""
    return dict(chain(policy.named_parameters(), policy.named_buffers()))
