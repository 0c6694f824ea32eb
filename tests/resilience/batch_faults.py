"""Faults of the rollout: batches that teach little, or too much."""

from typing import Any

import numpy as np

from sb3_trpo_ext import TRPO
from tests.resilience.data_faults import ROWS, arrays_of
from tests.resilience.faults import between, group

group("Batches that teach little, or too much")


def set_advantages(model: Any, values: Any) -> None:
    model.rollout_buffer.advantages[:] = values


@between("zero_variance_advantages")
def advantages_all_zero(model: Any) -> None:
    """Every advantage is zero."""
    set_advantages(model, 0.0)


@between("zero_variance_advantages")
def advantages_all_equal(model: Any) -> None:
    """Every advantage is 0.1."""
    set_advantages(model, 0.1)


@between()
def advantages_of_1e30(model: Any) -> None:
    """Advantages are of the size of 1e30, not normalised."""
    model.normalize_advantage = False
    model.rollout_buffer.advantages *= 1e30


@between()
def advantages_that_are_denormal(model: Any) -> None:
    """Advantages are of the size of 1e-42."""
    model.rollout_buffer.advantages *= 1e-42


@between()
def one_advantage_outweighs_all(model: Any) -> None:
    """One advantage is 1e30, all others are 0."""
    set_advantages(model, 0.0)
    model.rollout_buffer.advantages[9, 1] = 1e30


@between("NonFiniteError: non-finite returns|critic non_finite")
def returns_of_1e30(model: Any) -> None:
    """Returns are of the size of 1e30: their square is beyond float32."""
    model.rollout_buffer.returns *= 1e30


@between()
def returns_all_equal(model: Any) -> None:
    """Every return is 3: there is no variance to be explained."""
    model.rollout_buffer.returns[:] = 3.0


@between()
def duplicate_observations(model: Any) -> None:
    """Nothing but the first observation, and its actions."""
    for name in (*ROWS, "values"):
        for _, array in arrays_of(model, name):
            array[:] = array[:1, :1]
    if isinstance(model, TRPO):
        model.session.recorder._steps = {}


@between(n_envs=1, n_steps=1, normalize_advantage=False, batch_size=1)
def batch_of_one(model: Any) -> None:
    """A rollout is one step of one environment."""


@between(n_envs=1)
def one_environment(model: Any) -> None:
    """There is one environment."""


@between(n_steps=64, sub_sampling_factor=8)
def heterogeneous_batch_thinned(model: Any) -> None:
    """Advantages of every eighth sample say the opposite of all others, and sub_sampling_factor=8 takes those."""
    advantages = model.rollout_buffer.advantages
    advantages[:] = np.abs(advantages)
    advantages[::8] *= -8.0


@between(n_steps=16, sub_sampling_factor=1000)
def thinned_to_nothing(model: Any) -> None:
    """sub_sampling_factor is larger than the batch."""
