"""tianshou 2.0: ``TRPO._update_with_batch``, as its trainer calls it, on the whole batch once."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from gymnasium import spaces
from tianshou.algorithm import TRPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch as TianshouBatch
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch import Tensor

from benchmarks.cells import AS_SHIPPED, Batch, Cell, layers
from benchmarks.peers import PeerSide
from benchmarks.watch import Timing, Unavailable

SHIPPED_STEPS = 10


class _Steps(TRPO):
    """Its number of CG iterations, a constant in the code, as a setting; and its early exit can be off."""

    cg_steps = SHIPPED_STEPS
    residual_tol = 1e-10

    def _conjugate_gradients(self, minibatch: Tensor, flat_kl_grad: Tensor, *_: Any, **__: Any) -> Tensor:
        solution: Tensor = super()._conjugate_gradients(minibatch, flat_kl_grad, self.cg_steps, self.residual_tol)
        return solution


def _gaussian(parameters: tuple[Tensor, Tensor]) -> torch.distributions.Distribution:
    mean, std = parameters
    return torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)


class TianshouSide(PeerSide):
    """
    tianshou. Its critic takes full-batch steps only: one is made, and it is not timed.

    :param cell: what is measured
    :param batch: the data
    """

    def __init__(self, cell: Cell, batch: Batch):
        shape = cell.robot

        def net() -> Net:
            return Net(state_shape=shape.observations, hidden_sizes=(64, 64), activation=torch.nn.Tanh)

        actor = ContinuousActorProbabilistic(preprocess_net=net(), action_shape=(shape.actions,), unbounded=True)
        space = spaces.Box(-1.0, 1.0, (shape.actions,))
        policy = ProbabilisticActorPolicy(
            actor=actor, dist_fn=_gaussian, action_space=space, action_scaling=False, action_bound_method=None
        )
        critic = ContinuousCritic(preprocess_net=net())
        optim = AdamOptimizerFactory(lr=1e-3)
        algorithm = _Steps(policy=policy, critic=critic, optim=optim, max_kl=cell.joint_kl, optim_critic_iters=1)
        algorithm._damping = cell.joint_damping
        if cell.equal_work:
            algorithm.cg_steps, algorithm.residual_tol = cell.cg_steps, 0.0
        self.algorithm = algorithm
        mine = (actor.sigma_param, *layers(actor.preprocess, actor.mu))
        super().__init__("tianshou", cell, batch, mine, layers(critic), algorithm.optim._optim)
        critic.register_forward_pre_hook(lambda *_: self.watch.mark())
        advantages = batch.advantages
        self._data = TianshouBatch(
            obs=batch.observations,
            act=batch.actions,
            logp_old=batch.log_prob,
            # Its preprocessing, which is not timed, normalises.
            adv=(advantages - advantages.mean()) / advantages.std(),
            returns=batch.returns,
            info=TianshouBatch(),
        )

    def update(self) -> Timing:
        """One update."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.watch.start()
            self.algorithm._update_with_batch(self._data, batch_size=None, repeat=1)
            return self.watch.stop(with_critic=False)


def make_side(cell: Cell, batch: Batch) -> TianshouSide:
    """
    Make the side.

    :param cell: what is measured
    :param batch: the data
    :return: the side
    :raises Unavailable: if it would do other work
    """
    if cell.mode == AS_SHIPPED and cell.cg_steps != SHIPPED_STEPS:
        raise Unavailable(f"as shipped it makes {SHIPPED_STEPS} CG iterations, a constant in its code")
    return TianshouSide(cell, batch)
