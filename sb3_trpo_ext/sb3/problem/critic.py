"""The value function of a policy as a regression problem, and its epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sb3_trpo_ext.core.critic import CriticProblem, CriticResult, CriticSettings, fit_critic
from sb3_trpo_ext.core.flat import Snapshot, unchanged
from sb3_trpo_ext.core.ladder import PROBE_SAMPLES
from sb3_trpo_ext.core.reduce import Reducer, chunked, single_process
from sb3_trpo_ext.core.status import CriticStatus
from sb3_trpo_ext.sb3.problem.actor import leaves_of, map_tensors
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.critic_stack import value_regression
from sb3_trpo_ext.sb3.problem.evaluation import Evaluated
from sb3_trpo_ext.sb3.problem.statistics import mean_squared_error

CHUNKS_AT_ONCE = 3
"""Chunks of the policy step that a minibatch may be as large as, before it is differentiated in parts: of the twelve graphs
that a chunk is reckoned with it keeps one, in the policy's own precision, and what goes back through it."""


Minibatch = tuple[PyTorchObs, Tensor]
"""Observations and returns."""

Share = Callable[[Iterator[Tensor], Sequence[Tensor]], Iterator[Tensor]]
"""Losses of a process's own minibatches, the critic's parameters -> losses of all processes', gradients in ``grad``."""


class Critic:
    """
    The value function of a policy as a regression problem.

    :param policy: the policy
    :param batch: the rollout
    :param buffer: where it comes from; a custom one makes its own minibatches
    :param batch_size: samples in a minibatch
    :param evaluated: the same batch as a policy problem, for its chunks and for what the actor consists of
    :param reducer: combines the batch's loss over processes
    :param share: combines minibatches over processes; None: this process has all of them
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        batch: RolloutBatch,
        buffer: RolloutBuffer,
        batch_size: int,
        evaluated: Evaluated,
        reducer: Reducer = single_process,
        share: Share | None = None,
    ):
        self.policy = policy
        self.batch = batch
        self.buffer = buffer
        self.batch_size = batch_size
        self.chunks = evaluated.chunks
        self.actor = evaluated.function
        self.part_size = CHUNKS_AT_ONCE * evaluated.chunks[0].stop
        self.actor_modules: Sequence[nn.Module] = evaluated.function.modules
        self.actor_parameters = evaluated.function.parameters
        self.parameters = self._own_parameters({id(parameter) for parameter in self.actor_parameters})
        self._values: Tensor | None = None
        self.reducer = reducer
        self.share = share

    def fit(self, settings: CriticSettings) -> CriticResult:
        """
        Train the value function.

        :param settings: how long
        :return: what happened; a loss that became non-finite is undone, batch-norm buffers included
        """
        buffers = Snapshot.take(self.policy.buffers())
        # No optimiser of a user's moves what the trust region has verified, or what is frozen: bit for bit what it was.
        frozen = [parameter for parameter in self.policy.parameters() if not parameter.requires_grad]
        actor = Snapshot.take([*self.actor_parameters, *frozen])
        of_actor = Snapshot.take(self._buffers_beside_the_critic())
        result = fit_critic(self._problem(), settings)
        if result.status is CriticStatus.NON_FINITE:
            buffers.restore()
            self._values = None
        if actor.changed():
            actor.restore()
            self._values = None
        if of_actor.changed() and self._acts_otherwise(of_actor):
            of_actor.restore()
            self._values = None
        return result

    def values(self) -> Tensor:
        """
        Predict the whole batch as the critic is used, in eval mode: once, until it is trained again.

        :return: shape (n_samples,)
        """
        self.policy.set_training_mode(False)
        if self._values is None:
            with torch.no_grad(), unchanged(self.policy.buffers()):
                values = [self.policy.predict_values(self._observations(rows)).flatten() for rows in self.chunks]
            self._values = torch.cat(values)
        return self._values

    def loss(self) -> float:
        """
        Mean squared error over the whole batch.

        :return: the loss, in the unit of squared returns
        """
        return mean_squared_error(self.values(), self.batch.returns, self.reducer)

    def _problem(self) -> CriticProblem:
        in_parts = self._in_parts()
        if not in_parts:
            self.part_size = max(1, self.batch_size)
        regression = None if in_parts else value_regression(self.policy, self.parameters, self.batch, self.batch_size)
        given = in_parts or regression is not None or self.share is not None

        def minibatches() -> Iterator[Tensor]:
            self._values = None
            if regression is not None:
                own = regression.epoch(self._order())
            else:
                own = map(self._differentiated, self._minibatches()) if given else self._minibatch_losses()
            return own if self.share is None else self.share(own, self.parameters)

        return CriticProblem(self.parameters, self.policy.optimizer, minibatches, self.loss, given)

    def _in_parts(self) -> bool:
        """Whether minibatches are too large for one graph. (Batch norm mixes samples while it is trained: then never.)"""
        if min(self.batch_size, len(self.batch)) <= self.part_size:
            return False
        of_actor = set(self.actor_modules)
        return not any(isinstance(module, _BatchNorm) for module in self.policy.modules() if module not in of_actor)

    def _minibatch_losses(self) -> Iterator[Tensor]:
        return map(self._loss, self._minibatches())

    def _loss(self, minibatch: Minibatch) -> Tensor:
        observations, returns = minibatch
        return F.mse_loss(self._predict(observations, len(returns)), returns)

    def _predict(self, observations: PyTorchObs, n_samples: int) -> Tensor:
        try:
            return self.policy.predict_values(observations).flatten()
        except ValueError as error:
            if n_samples > 1:
                raise
            raise ValueError(
                f"TRPO: the critic can't be trained on a minibatch of one sample (batch norm can't: {error}). Choose a "
                f"batch_size > 1 that leaves no single one of the rollout's {len(self.batch)} samples over, instead of "
                f"{self.batch_size}."
            ) from error

    def _differentiated(self, minibatch: Minibatch) -> Tensor:
        """The loss without a graph; its gradient, summed over parts, stands in the parameters' ``grad``."""
        n_samples = len(minibatch[1])
        self.policy.optimizer.zero_grad(set_to_none=True)
        losses = []
        for rows in chunked(n_samples, self.part_size):
            part: Minibatch = map_tensors(itemgetter(rows), minibatch)
            loss = len(part[1]) / n_samples * self._loss(part)
            loss.backward(inputs=list(self.parameters))
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _observations(self, rows: slice | Tensor) -> PyTorchObs:
        observations: PyTorchObs = map_tensors(lambda tensor: tensor[rows], self.batch.observations)
        return observations

    def _own_parameters(self, of_actor: set[int]) -> list[nn.Parameter]:
        self.policy.set_training_mode(False)
        with torch.enable_grad(), unchanged(self.policy.buffers()):
            connected = leaves_of(self.policy.predict_values(self._observations(slice(0, PROBE_SAMPLES))))
        return [p for p in self.policy.parameters() if id(p) in connected and id(p) not in of_actor]

    def _buffers_beside_the_critic(self) -> list[Tensor]:
        """All but those of modules that the critic alone runs through, which it may train (batch norm)."""
        actor = set(self.actor_modules)
        return [
            buffer
            for module in self.policy.modules()
            if not actor.isdisjoint(module.modules())
            for buffer in module.buffers(recurse=False)
        ]

    def _acts_otherwise(self, before: Snapshot) -> bool:
        """Whether buffers that the critic's epochs have changed, in eval mode, change what the actor does."""
        after = Snapshot.take(before.tensors)
        phi = self.actor.own_phi(self.chunks)
        before.restore()
        differs = not torch.equal(phi, self.actor.own_phi(self.chunks))
        after.restore()
        return differs

    def _minibatches(self) -> Iterator[Minibatch]:
        self.policy.set_training_mode(True)
        for module in self.actor_modules:
            # What the actor runs through stays as it acts: no batch statistics, no dropout, no running averages moved.
            module.training = False
        if self.batch.n_steps is None:
            for data in self.buffer.get(self.batch_size):
                yield data.observations, data.returns.flatten()
            return
        for rows in self._order().split(self.batch_size):
            yield self._observations(rows), self.batch.returns[rows]

    def _order(self) -> Tensor:
        """SB3's own order of minibatches: one permutation an epoch from numpy's stream."""
        return torch.as_tensor(np.random.permutation(len(self.batch)), device=self.batch.returns.device)  # noqa: NPY002
