"""A stopwatch with one mark: policy step | critic."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Unavailable(Exception):
    """This side can't do that; the message says why."""


class DifferentWork(Exception):
    """A side did not do what it was timed for."""


@dataclass(frozen=True)
class Timing:
    """
    One update.

    :param policy: seconds from the batch in the library's buffer to the new policy
    :param critic: seconds of all that follows; None if this side's critic does other work
    :param faults: page faults of the policy step that needed no disk
    """

    policy: float
    critic: float | None
    faults: int

    @property
    def whole(self) -> float | None:
        """Seconds of the whole update."""
        return None if self.critic is None else self.policy + self.critic


class Watch:
    """Started, marked once where the policy step ends, stopped."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, int]] = []

    def start(self) -> None:
        """Forget the last update."""
        self._moments = [_now()]

    def mark(self) -> None:
        """The policy step has ended; later marks of the same update say nothing."""
        if len(self._moments) == 1:
            self._moments.append(_now())

    def stop(self, with_critic: bool = True) -> Timing:
        """
        End.

        :param with_critic: whether the critic's part is comparable
        :return: what was measured
        """
        end, _ = _now()
        (start, faults), (middle, more) = self._moments
        return Timing(middle - start, end - middle if with_critic else None, more - faults)


def _now() -> tuple[float, int]:
    return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Side(Protocol):
    """
    An implementation that is timed.

    :param name: for the tables
    :param validates: whether it leaves torch's checks of distributions' arguments on, a setting of the whole process
    """

    name: str
    validates: bool

    def reset(self) -> None:
        """Everything as it was before the first update."""

    def update(self) -> Timing:
        """One update."""

    def actor(self) -> tuple[Tensor, ...]:
        """Parameters of the actor now: log std, then weight and bias of each layer."""

    def critic(self) -> tuple[Tensor, ...]:
        """Parameters of the critic now: weight and bias of each layer."""
