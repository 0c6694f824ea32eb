"""The actor of a policy, read off it: as a function, in chunks that fit into memory, and what it gives for a batch."""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.ladder import PROBE_SAMPLES, bytes_per_sample
from sb3_trpo_ext.core.reduce import chunked
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.statistics import computing_device

MEMORY_LIMIT = 2**27
"""Bytes that the graphs of Fisher products may hold; larger batches are cut into chunks, whose graphs are made again for each.
Larger graphs are in no cache: chunks are then faster than what is kept, too (``scripts/compare_chunks.py``)."""

GPU_MEMORY_LIMIT = 2**30
"""The same where the policy step is not on the CPU. (Chosen, not measured: no GPU has been at hand.)"""

GRAPHS_PER_PRODUCT = 12
"""Float32 activations that kept products hold for each that the policy's own graph does: float64 and float32 at once, up to
four passes in all (measured on a double vjp: 8 and 4)."""


@dataclass(frozen=True)
class ActorReading:
    """
    An actor and a batch, evaluated as the policy itself would.

    :param function: the actor as a function
    :param distribution: family of its actions' distribution
    :param chunks: samples that are evaluated together; one chunk: the graphs of the whole batch may be kept
    :param own_phi: phi in the policy's own precision, shape (n_samples, n_parameters)
    :param repeats: whether the policy gives the same phi each time
    """

    function: PolicyFunction
    distribution: ActionDistribution
    chunks: tuple[slice, ...]
    own_phi: Tensor
    repeats: bool


def read_actor(policy: ActorCriticPolicy, batch: RolloutBatch, chunk_size: int | None) -> ActorReading:
    """
    Find the actor in a policy, and evaluate the batch in the policy's own precision.

    :param policy: the policy, in eval mode
    :param batch: the rollout
    :param chunk_size: samples that are evaluated together; None: as many as the memory bound allows
    :return: the actor
    :raises ValueError: if the policy has no trainable actor
    """
    function = PolicyFunction(policy, batch.observations, computing_device(policy.device))
    chunks = _chunks(function, len(batch), chunk_size)
    own_phi = function.own(chunks)
    if not function.parameters:
        raise ValueError(
            "TRPO: the policy has no trainable parameter that its action distribution depends on: nothing to update"
        )
    repeats = function.repeats(slice(0, PROBE_SAMPLES))
    return ActorReading(function, action_distribution(policy), chunks, own_phi, repeats)


def _chunks(function: PolicyFunction, n_samples: int, size: int | None) -> tuple[slice, ...]:
    """As many samples in each as the caller or the memory bound says."""
    if size is None:
        limit = MEMORY_LIMIT if function.device.type == "cpu" else GPU_MEMORY_LIMIT
        kept = bytes_per_sample(function.own_forward, tuple(function.policy.parameters()), n_samples, limit)
        size = limit // (GRAPHS_PER_PRODUCT * kept)
        # Smaller chunks are cheaper than recomputation, as long as there are any.
        function.recomputes = size == 0
        size = max(1, size)
    return chunked(n_samples, min(n_samples, size))
