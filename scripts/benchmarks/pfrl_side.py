"""pfrl 0.4: ``TRPO._update_policy`` and ``_update_vf``, on its list of transitions. (It makes two products an iteration.)"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial
from unittest import mock

import pfrl
import torch
from torch import nn

from benchmarks.cells import BATCH_SIZE, Batch, Cell, layers
from benchmarks.peers import PeerSide, stack
from benchmarks.watch import Timing

_SOLVER = pfrl.utils.conjugate_gradient


class PfrlSide(PeerSide):
    """
    pfrl.

    :param cell: what is measured
    :param batch: the data
    """

    def __init__(self, cell: Cell, batch: Batch):
        shape = cell.robot
        # As its own TRPO example: the parameter is the log std.
        head = pfrl.policies.GaussianHeadWithStateIndependentCovariance(
            action_size=shape.actions, var_type="diagonal", var_func=lambda log_std: torch.exp(2.0 * log_std)
        )
        policy = nn.Sequential(stack(shape.observations, shape.actions), head)
        value = stack(shape.observations, 1)
        optimizer = torch.optim.Adam(value.parameters(), lr=1e-3)
        self.agent = pfrl.agents.TRPO(
            policy=policy,
            vf=value,
            vf_optimizer=optimizer,
            entropy_coef=0.0,
            max_kl=cell.joint_kl,
            vf_epochs=cell.critic_epochs,
            vf_batch_size=BATCH_SIZE,
            conjugate_gradient_max_iter=cell.cg_steps,
            conjugate_gradient_damping=cell.joint_damping,
        )
        columns = {
            "state": batch.observations.numpy(),
            "action": batch.actions.numpy(),
            "adv": batch.advantages.tolist(),
            "log_prob": batch.log_prob.tolist(),
            "v_teacher": batch.returns.tolist(),
        }
        self._dataset = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        super().__init__("pfrl", cell, batch, (head.var_param, *layers(policy)), layers(value), optimizer)

    def update(self) -> Timing:
        """One update."""
        exact = partial(_SOLVER, tol=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mock.patch.object(pfrl.utils, "conjugate_gradient", exact) if self.cell.equal_work else nullcontext():
                self.watch.start()
                self.agent._update_policy(self._dataset)
                self.watch.mark()
                self.agent._update_vf(self._dataset)
                return self.watch.stop()


def make_side(cell: Cell, batch: Batch) -> PfrlSide:
    """
    Make the side.

    :param cell: what is measured
    :param batch: the data
    :return: the side
    """
    return PfrlSide(cell, batch)
