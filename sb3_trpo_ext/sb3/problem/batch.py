"""The batch that a rollout yields: everything that an update reads, in a known order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_trpo_ext.sb3.errors import NonFiniteError
from sb3_trpo_ext.sb3.integrity.finiteness import refuse_non_finite
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder

TIME_BLOCKS = 8
"""Blocks of time in which staleness is looked for: short enough to find a change halfway, long enough to average."""


@dataclass(frozen=True)
class RolloutBatch:
    """
    One rollout, flat. Where the order is known, samples rise by place = environment * n_steps + step.

    :param observations: tensor or dict of tensors, first dimension n_samples, as SB3's buffer gives them
    :param actions: shape (n_samples, ...), float32
    :param values: of the rollout, shape (n_samples,)
    :param log_prob: of the actions under the behaviour, shape (n_samples,)
    :param advantages: shape (n_samples,)
    :param returns: shape (n_samples,)
    :param n_steps: steps of each environment; None if a custom buffer orders samples in its own way
    :param rewards: as the buffer has them, with the bootstraps of timed-out episodes, shape (n_steps, n_envs); None where a
        custom buffer has its own idea of them
    :param episode_starts: whether a step is its episode's first, same shape; None likewise
    :param phi: the behaviour's distribution parameters, shape (n_samples, n_parameters); None if not recorded
    :param places: of the samples, shape (n_samples,), int64, where some were dropped; None: all are there
    """

    observations: PyTorchObs
    actions: Tensor
    values: Tensor
    log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    n_steps: int | None
    rewards: np.ndarray | None
    episode_starts: np.ndarray | None
    phi: Tensor | None
    places: Tensor | None = None

    def __len__(self) -> int:
        return len(self.advantages)

    @property
    def n_dropped(self) -> int:
        """Samples of the rollout that are not in the batch."""
        return 0 if self.places is None or self.episode_starts is None else self.episode_starts.size - len(self.places)

    def place_of(self, sample: int) -> int:
        """
        Find a sample in the rollout.

        :param sample: its index in the batch
        :return: environment * n_steps + step
        """
        return sample if self.places is None else int(self.places[sample])

    def by_step(self, samples: Tensor) -> Tensor:
        """
        Lay samples out as they were collected.

        :param samples: one number of each, shape (n_samples,)
        :return: shape (n_steps, n_envs), on the CPU; 0 where there is no sample
        """
        assert self.n_steps is not None, "a custom buffer orders samples in its own way"
        assert self.episode_starts is not None
        samples = samples.cpu()
        if self.places is not None:
            samples = samples.new_zeros(self.episode_starts.size).index_copy_(0, self.places, samples)
        return samples.view(-1, self.n_steps).T

    def cells(self) -> Tensor | None:
        """
        Cell (environment, block of time) of each sample.

        :return: shape (n_samples,), int64; None if the order is unknown
        """
        if self.n_steps is None:
            return None
        place = torch.arange(len(self)) if self.places is None else self.places
        block = (place % self.n_steps) * TIME_BLOCKS // self.n_steps
        return (place // self.n_steps) * TIME_BLOCKS + block

    def cell_name(self, cell: int | None) -> str | None:
        """
        Name a cell for a person.

        :param cell: its index
        :return: environment and steps, None for None
        """
        if cell is None or self.n_steps is None:
            return None
        environment, block = divmod(cell, TIME_BLOCKS)
        first, end = (-(-edge * self.n_steps // TIME_BLOCKS) for edge in (block, block + 1))
        return f"environment {environment}, steps {first} to {end - 1}"


def read_batch(buffer: RolloutBuffer, recorder: BehaviourRecorder) -> RolloutBatch:
    """
    Read a full buffer once, environment by environment.

    :param buffer: SB3's buffer, or a custom one: then its own ``get`` decides about content and order
    :param recorder: what was recorded during collection
    :return: the batch
    :raises NonFiniteError: if no sample is left, or a custom buffer hides which ones they are
    """
    ordered = type(buffer).get in (RolloutBuffer.get, DictRolloutBuffer.get)
    places = recorder.places(buffer.buffer_size, buffer.n_envs)
    if places is not None:
        _refuse_useless(places, buffer, ordered)
    if ordered:
        # Drawing one sample flattens the buffer, and takes from numpy's stream what sb3-contrib's policy step takes.
        next(iter(buffer.get(batch_size=1)))
        data = buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs) if places is None else places)
    else:
        data = _concatenated(list(buffer.get(batch_size=None)))
    n_steps = buffer.buffer_size if ordered else None
    phi = recorder.phi(buffer.buffer_size, buffer.n_envs) if ordered else None
    return RolloutBatch(
        observations=data.observations,
        actions=data.actions,
        values=data.old_values.flatten(),
        log_prob=data.old_log_prob.flatten(),
        advantages=data.advantages.flatten(),
        returns=data.returns.flatten(),
        n_steps=n_steps,
        rewards=buffer.rewards if ordered else None,
        episode_starts=buffer.episode_starts if ordered else None,
        phi=phi if phi is None or places is None else phi[places],
        places=None if places is None else torch.as_tensor(places),
    )


def _concatenated(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]

    def join(column: tuple[Any, ...]) -> Any:
        if isinstance(column[0], dict):
            return {key: torch.cat([part[key] for part in column]) for key in column[0]}
        return torch.cat(column)

    return type(parts[0])(*(join(column) for column in zip(*parts, strict=True)))


def _refuse_useless(places: np.ndarray, buffer: RolloutBuffer, ordered: bool) -> None:
    if not ordered:
        raise NonFiniteError(
            f"samples were dropped, and {type(buffer).__name__} orders them in its own way: which they are is lost"
        )
    if len(places) == 0:
        raise NonFiniteError(
            f"every one of the {buffer.buffer_size * buffer.n_envs} samples of the rollout was dropped: each step of each "
            "environment gave something that is not finite. Nothing was changed; the environment is broken."
        )


def refuse_non_finite_rollout(batch: RolloutBatch, buffer: RolloutBuffer, last_obs: Any) -> None:
    """
    Check everything that an update reads; causes come before what they poison.

    :param batch: the batch
    :param buffer: where it comes from, for its rewards
    :param last_obs: observations after the last step, which the last values come from
    :raises NonFiniteError: naming what and where
    """
    for name, tensors in (("observations", batch.observations), ("actions", batch.actions)):
        refuse_non_finite(name, tensors, n_steps=batch.n_steps, place_of=batch.place_of)
    rewards = torch.as_tensor(np.asarray(getattr(buffer, "rewards", ())))
    if rewards.ndim == 2:
        refuse_non_finite("rewards", rewards.T.reshape(-1), n_steps=len(rewards))
    if last_obs is not None:
        refuse_non_finite("observations", last_obs, step=buffer.buffer_size)
    for name in ("values", "log_prob", "advantages", "returns"):
        refuse_non_finite(name, getattr(batch, name), n_steps=batch.n_steps, place_of=batch.place_of)
