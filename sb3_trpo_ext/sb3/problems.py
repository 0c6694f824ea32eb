"""From a model and a batch to the problems that ``core`` solves: the policy step's and the critic's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_trpo_ext.core.critic import CriticProblem, CriticResult, CriticSettings, fit_critic
from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.fisher import Curvature
from sb3_trpo_ext.core.flat import Snapshot
from sb3_trpo_ext.core.ladder import PROBE_SAMPLES, bytes_per_sample
from sb3_trpo_ext.core.objective import Surrogate, likelihood_divergence
from sb3_trpo_ext.core.reduce import WeightedMean, chunked
from sb3_trpo_ext.core.status import CriticStatus
from sb3_trpo_ext.core.update import PolicyProblem
from sb3_trpo_ext.sb3.action_distributions import action_distribution, base_actions
from sb3_trpo_ext.sb3.adapter import PolicyFunction, leaves_of, map_tensors
from sb3_trpo_ext.sb3.rollout import RolloutBatch

MEMORY_LIMIT = 2**30
"""Bytes that the graphs of Fisher products may hold; larger batches are cut into chunks and recomputed."""

GRAPHS_PER_PRODUCT = 6
"""Float32 activations that a kept product holds for each that the policy's own graph does: 2 for float64, 3 passes."""

LOG_PROB_TOLERANCE = 1e-2
"""Recorded phi are believed if they explain the stored log-probabilities to this, absolutely and relatively."""


@dataclass(frozen=True)
class Evaluated:
    """
    A batch as a policy problem, and what was found out about the policy on the way.

    :param problem: data of the policy step
    :param function: the actor as a function
    :param dtype: precision of the evaluation: float64 unless the policy can't run in it
    :param chunks: samples that are evaluated together; one chunk: the graphs of the whole batch may be kept
    :param repeats: whether the policy gives the same phi for the same observations each time
    """

    problem: PolicyProblem
    function: PolicyFunction
    dtype: torch.dtype
    chunks: tuple[slice, ...]
    repeats: bool

    def curvature(self) -> Curvature:
        """
        Put together what Fisher products of the whole batch need.

        :return: actor, parameters, distribution and mean
        """
        surrogate = self.problem.surrogate
        return Curvature(surrogate.actor, self.problem.theta, surrogate.distribution, surrogate.kl_scale, surrogate.mean)


def computing_device(device: torch.device) -> torch.device:
    """
    Choose where the policy step runs.

    :param device: the policy's
    :return: the same, or the CPU where it has no float64 (Apple's mps)
    """
    return torch.device("cpu") if device.type == "mps" else device


def evaluate_batch(
    policy: ActorCriticPolicy,
    batch: RolloutBatch,
    kl_scale: float,
    chunk_size: int | None,
    sub_sample: tuple[int, torch.Generator] | None = None,
) -> Evaluated:
    """
    Evaluate the batch's policy pi_k, in its own precision and in float64, and put the policy step's data together.

    :param policy: the policy, in eval mode
    :param batch: the rollout
    :param kl_scale: bounded KL = kl_scale * joint KL
    :param chunk_size: samples that are evaluated together; None: as many as the memory bound allows
    :param sub_sample: number of samples of the Fisher products and what draws them; None: all
    :return: the problem
    :raises ValueError: if the policy has no trainable actor
    """
    n_samples = len(batch)
    device = computing_device(policy.device)
    distribution = action_distribution(policy)
    function = PolicyFunction(policy, batch.observations, device)
    kept = GRAPHS_PER_PRODUCT * bytes_per_sample(function.own_forward, tuple(policy.parameters()), n_samples)
    size = min(n_samples, chunk_size or max(1, MEMORY_LIMIT // kept))
    chunks = chunked(n_samples, size)
    phi_own = function.own(chunks)
    if not function.parameters:
        raise ValueError("the policy has no trainable parameter that its action distribution depends on: nothing to update")
    dtype = torch.float64 if function.runs_in(torch.float64) else torch.float32
    theta = function.theta(dtype)
    with torch.no_grad():
        phi = torch.cat([function(theta, rows) for rows in chunks]).double()
        if dtype is torch.float32:
            # No float64 to compare with: rounding shows between batches of different shapes.
            phi_own = torch.cat([function.own_forward(rows) for rows in chunked(n_samples, PROBE_SAMPLES)]).to(device)
    stored, behaviour_log_prob = base_actions(policy, batch.actions, batch.log_prob)
    stored, behaviour_log_prob = stored.to(device), behaviour_log_prob.to(device).double()
    actions = stored.double() if stored.is_floating_point() else stored
    log_prob = distribution.log_prob(phi, actions)
    own_log_prob = distribution.log_prob(phi_own, stored.to(phi_own.dtype) if stored.is_floating_point() else stored)
    behaviour_phi = _believed(batch.phi, distribution, actions, behaviour_log_prob)
    evidence, noise = _divergences(
        distribution, kl_scale, phi, log_prob, behaviour_log_prob, behaviour_phi, phi_own.double(), own_log_prob.double()
    )
    repeats = function.repeats(slice(0, PROBE_SAMPLES))
    if not repeats:
        # It can't be told from which policy a batch is: the noise would count as rounding, and hide anything.
        evidence = torch.full_like(evidence, torch.inf)
    mean = WeightedMean(torch.ones(n_samples, dtype=torch.float64, device=device), chunks)
    advantages = batch.advantages.to(device).double()
    cells = batch.cells()
    problem = PolicyProblem(
        surrogate=Surrogate(function, distribution, actions, advantages, phi, log_prob, mean, kl_scale),
        parameters=function.parameters,
        theta=theta,
        fisher_mean=mean if sub_sample is None else _thinned(mean, n_samples, size, *sub_sample),
        evidence=evidence,
        noise=noise,
        cells=None if cells is None else cells.to(device),
        explained_variance=explained_variance(batch.values, batch.returns),
    )
    return Evaluated(problem, function, dtype, chunks, repeats)


def _thinned(mean: WeightedMean, n_samples: int, size: int, n_kept: int, generator: torch.Generator) -> WeightedMean:
    rows = torch.randperm(n_samples, generator=generator)[: max(1, n_kept)].sort().values
    return mean.subsample(rows.to(mean.weights.device), size)


def _believed(phi: Tensor | None, distribution: ActionDistribution, actions: Tensor, log_prob: Tensor) -> Tensor | None:
    """The recorded phi, if they explain the stored log-probabilities: a custom policy may act in another way."""
    if phi is None:
        return None
    phi = phi.to(actions.device).double()
    gap = (distribution.log_prob(phi, actions) - log_prob).abs()
    return phi if bool((gap <= LOG_PROB_TOLERANCE * (1.0 + log_prob.abs())).all()) else None


def _divergences(
    distribution: ActionDistribution,
    scale: float,
    phi: Tensor,
    log_prob: Tensor,
    behaviour_log_prob: Tensor,
    behaviour_phi: Tensor | None,
    own_phi: Tensor,
    own_log_prob: Tensor,
) -> tuple[Tensor, Tensor]:
    """Divergences of behaviour from policy, and of the policy's own precision from float64; a column a kind."""
    evidence = [likelihood_divergence(behaviour_log_prob, log_prob)]
    noise = [likelihood_divergence(own_log_prob, log_prob)]
    if behaviour_phi is not None:
        evidence.append(distribution.kl(behaviour_phi, phi))
        noise.append(distribution.kl(own_phi, phi))
    return scale * torch.stack(evidence, dim=-1), scale * torch.stack(noise, dim=-1)


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """
    Share of the returns' variance that values explain: 1 - Var(returns - values) / Var(returns).

    :param values: predicted, shape (n,)
    :param returns: targets, shape (n,)
    :return: at most 1; None if the returns don't vary
    """
    values, returns = _float64(values), _float64(returns)
    variance = float(returns.var(correction=0))
    if variance == 0.0:
        return None
    return 1.0 - float((returns - values).var(correction=0)) / variance


def _float64(tensor: Tensor) -> Tensor:
    """In float64 where there is one: moved before it is cast."""
    return tensor.to(computing_device(tensor.device)).double()


class Critic:
    """
    The value function of a policy as a regression problem.

    :param policy: the policy
    :param batch: the rollout
    :param buffer: where it comes from; a custom one makes its own minibatches
    :param batch_size: samples in a minibatch
    :param evaluated: the same batch as a policy problem, for its chunks and for what the actor consists of
    """

    def __init__(
        self, policy: ActorCriticPolicy, batch: RolloutBatch, buffer: RolloutBuffer, batch_size: int, evaluated: Evaluated
    ):
        self.policy = policy
        self.batch = batch
        self.buffer = buffer
        self.batch_size = batch_size
        self.chunks = evaluated.chunks
        self.actor_modules: Sequence[nn.Module] = evaluated.function.modules
        self.actor_parameters = evaluated.function.parameters
        self.parameters = self._own_parameters({id(parameter) for parameter in self.actor_parameters})

    def fit(self, settings: CriticSettings) -> CriticResult:
        """
        Train the value function.

        :param settings: how long
        :return: what happened; a loss that became non-finite is undone, batch-norm buffers included
        """
        buffers = Snapshot.take(self.policy.buffers())
        actor = Snapshot.take(self.actor_parameters)
        problem = CriticProblem(self.parameters, self.policy.optimizer, self._minibatch_losses, self.loss)
        result = fit_critic(problem, settings)
        if result.status is CriticStatus.NON_FINITE:
            buffers.restore()
        # No optimiser of a user's moves what the trust region has verified: bit for bit what it was.
        actor.restore()
        return result

    def values(self) -> Tensor:
        """
        Predict the whole batch as the critic is used, in eval mode.

        :return: shape (n_samples,)
        """
        self.policy.set_training_mode(False)
        with torch.no_grad():
            return torch.cat([self.policy.predict_values(self._observations(rows)).flatten() for rows in self.chunks])

    def loss(self) -> float:
        """
        Mean squared error over the whole batch.

        :return: the loss, in the unit of squared returns
        """
        return float((_float64(self.batch.returns) - _float64(self.values())).square().mean())

    def _observations(self, rows: slice | Tensor) -> Tensor:
        observations: Tensor = map_tensors(lambda tensor: tensor[rows], self.batch.observations)
        return observations

    def _own_parameters(self, of_actor: set[int]) -> list[nn.Parameter]:
        self.policy.set_training_mode(False)
        with torch.enable_grad():
            connected = leaves_of(self.policy.predict_values(self._observations(slice(0, PROBE_SAMPLES))))
        return [p for p in self.policy.parameters() if id(p) in connected and id(p) not in of_actor]

    def _minibatch_losses(self) -> Iterator[Tensor]:
        self.policy.set_training_mode(True)
        for module in self.actor_modules:
            # What the actor runs through stays as it acts: no batch statistics, no dropout, no running averages moved.
            module.training = False
        for observations, returns in self._minibatches():
            yield F.mse_loss(self.policy.predict_values(observations).flatten(), returns)

    def _minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.batch.n_steps is None:
            for data in self.buffer.get(self.batch_size):
                yield data.observations, data.returns.flatten()
            return
        # SB3's own order of minibatches: one permutation an epoch from numpy's stream.
        order = torch.as_tensor(np.random.permutation(len(self.batch)), device=self.batch.returns.device)  # noqa: NPY002
        for rows in order.split(self.batch_size):
            yield self._observations(rows), self.batch.returns[rows]
