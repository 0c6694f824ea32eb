"""What an update began with: enough to do it again, bit for bit, on the same machine."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb3_trpo_ext.sb3.integrity.guard import Held
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch


@dataclass(frozen=True)
class RandomStates:
    """
    The streams that an update may draw from: minibatches come from NumPy's, dropout from torch's.

    :param python: of ``random``'s global generator
    :param numpy: of ``numpy.random``'s global generator
    :param torch: of torch's default generator on the CPU, uint8
    """

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: Tensor

    @classmethod
    def now(cls) -> RandomStates:
        """
        Copy them.

        :return: the states
        """
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())  # type: ignore[arg-type]  # noqa: NPY002

    def restore(self) -> None:
        """Go on from them."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # type: ignore[arg-type]  # noqa: NPY002
        torch.set_rng_state(self.torch)


@dataclass(frozen=True)
class UpdateStart:
    """
    Where an update began.

    :param n_updates: its number
    :param num_timesteps: environment steps by then
    :param held: parameters, buffers and optimiser before it
    :param streams: random streams before it
    :param batch: the rollout
    :param learning_rate: of the critic
    :param max_kl: bound of its KL
    :param adapted_damping: lambda that earlier updates have left; None: none has
    :param adapted_damping_unit: unit of the KL that it belongs to
    :param updates_skipped: earlier updates whose policy step was skipped
    :param n_ranks: processes whose rollouts it is made of; ``batch`` is this one's
    """

    n_updates: int
    num_timesteps: int
    held: Held
    streams: RandomStates
    batch: RolloutBatch
    learning_rate: float
    max_kl: float
    adapted_damping: float | None
    adapted_damping_unit: str | None
    updates_skipped: int
    n_ranks: int = 1
