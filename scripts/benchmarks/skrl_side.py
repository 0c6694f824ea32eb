"""skrl 2.1: ``TRPO.update``, from where it reads its memory."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import skrl.agents.torch.trpo.trpo as skrl_trpo
import torch
from gymnasium import spaces
from skrl.agents.torch.trpo import TRPO, TRPO_CFG
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from torch import Tensor, nn

from benchmarks.cells import BATCH_SIZE, Batch, Cell, layers
from benchmarks.peers import PeerSide, stack
from benchmarks.watch import Timing, Watch

_SOLVER = skrl_trpo.conjugate_gradient


class _Policy(GaussianMixin, Model):
    def __init__(self, **spaces_and_device: Any):
        Model.__init__(self, **spaces_and_device)
        GaussianMixin.__init__(self)
        self.net = stack(self.num_observations, self.num_actions)
        self.log_std = nn.Parameter(torch.zeros(self.num_actions))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {"log_std": self.log_std}


class _Value(DeterministicMixin, Model):
    def __init__(self, **spaces_and_device: Any):
        Model.__init__(self, **spaces_and_device)
        DeterministicMixin.__init__(self)
        self.net = stack(self.num_observations, 1)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


class _MarkedMemory(RandomMemory):
    """Read first for the policy step, after GAE; then for the critic."""

    watch: Watch

    def sample(self, names: list[str], **keywords: Any) -> list[list[Tensor]]:
        """As the parent, with marks."""
        if "returns" in names:
            self.watch.mark()
        else:
            self.watch.start()
        return super().sample(names, **keywords)


class SkrlSide(PeerSide):
    """
    skrl.

    :param cell: what is measured
    :param batch: the data
    """

    def __init__(self, cell: Cell, batch: Batch):
        shape, n = cell.robot, len(batch.actions)
        both = {
            "observation_space": spaces.Box(-float("inf"), float("inf"), (shape.observations,)),
            "action_space": spaces.Box(-1.0, 1.0, (shape.actions,)),
            "device": "cpu",
        }
        policy, value = _Policy(**both), _Value(**both)
        # Each transition once: by default it draws with replacement.
        memory = _MarkedMemory(memory_size=1, num_envs=n, device="cpu", replacement=False)
        config = TRPO_CFG(
            learning_epochs=cell.critic_epochs,
            mini_batches=max(1, n // BATCH_SIZE),
            damping=cell.joint_damping,
            max_kl_divergence=cell.joint_kl,
            conjugate_gradient_steps=cell.cg_steps,
        )
        if cell.equal_work:
            config.grad_norm_clip = 0.0
        config.experiment.write_interval = config.experiment.checkpoint_interval = 0
        self.agent = TRPO(models={"policy": policy, "value": value}, memory=memory, cfg=config, **both)
        self.agent.init()
        super().__init__(
            "skrl",
            cell,
            batch,
            (policy.log_std, *layers(policy.net)),
            layers(value.net),
            self.agent.value_optimizer,
            validates=False,
        )
        memory.watch = self.watch
        # Episodes of one step, whose GAE gives back the advantages and returns that go in.
        memory.add_samples(
            observations=batch.observations,
            actions=batch.actions,
            rewards=batch.returns.unsqueeze(-1),
            values=(batch.returns - batch.advantages).unsqueeze(-1),
            log_prob=batch.log_prob.unsqueeze(-1),
            terminated=torch.ones(n, 1, dtype=torch.bool),
            truncated=torch.zeros(n, 1, dtype=torch.bool),
        )
        self.agent._current_next_observations = batch.observations

    def update(self) -> Timing:
        """One update."""
        self.agent.tracking_data.clear()
        self.agent.enable_models_training_mode(True)
        exact = partial(_SOLVER, residual_tolerance=0.0)
        with mock.patch.object(skrl_trpo, "conjugate_gradient", exact) if self.cell.equal_work else nullcontext():
            self.agent.update(timestep=0, timesteps=0)
            return self.watch.stop()


def make_side(cell: Cell, batch: Batch) -> SkrlSide:
    """
    Make the side.

    :param cell: what is measured
    :param batch: the data
    :return: the side
    """
    return SkrlSide(cell, batch)
