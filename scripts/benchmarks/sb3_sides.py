"""sb3-contrib and ours: models that collect the batch themselves, from the same seeds."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import sb3_contrib
import sb3_contrib.trpo.trpo as contrib_trpo
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure
from torch import Tensor

import sb3_trpo_ext
import sb3_trpo_ext.sb3.hyperparameters as our_settings
import sb3_trpo_ext.sb3.trpo as our_trpo
from benchmarks.cells import BATCH_SIZE, DAMPING, Batch, Cell, layers, make_env, season
from benchmarks.watch import DifferentWork, Timing, Unavailable, Watch

CONTRIB, OURS = "sb3-contrib", "ours"
PLAIN = "none"
# Unpatched, as a name that is looked up at call time.
_SOLVER = contrib_trpo.conjugate_gradient_solver
_UPDATE_POLICY = our_trpo.update_policy


def _settings(cell: Cell) -> dict[str, Any]:
    return {
        "n_steps": cell.samples // cell.n_envs,
        "batch_size": BATCH_SIZE,
        "cg_max_steps": cell.cg_steps,
        "cg_damping": DAMPING,
        "target_kl": cell.robot.target_kl,
        "n_critic_updates": cell.critic_epochs,
        "stats_window_size": 1,
        "seed": 0,
        "device": "cpu",
    }


class _SB3Side(ABC):
    """
    What both have in common.

    :param name: for the tables
    :param cls: the class
    :param cell: what is measured
    :param settings: arguments beside the cell's
    """

    def __init__(self, name: str, cls: type[sb3_contrib.TRPO], cell: Cell, settings: dict[str, Any]):
        self.name, self.validates, self.cell, self.watch = name, True, cell, Watch()
        env = make_env(cell)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = cls("MlpPolicy", env, **_settings(cell), **settings)
        self.model.set_logger(configure(None, []))
        season(self.model.policy)
        # A callback of the old kind: SB3's own loop collects on both sides, and their data are the same bits.
        _, callback = self.model._setup_learn(10**9, lambda _locals, _globals: True)
        torch.manual_seed(0)
        self.model.collect_rollouts(env, callback, self.model.rollout_buffer, self.model.n_steps)
        self._policy = copy.deepcopy(self.model.policy.state_dict())
        self._optimizer = copy.deepcopy(self.model.policy.optimizer.state_dict())
        # SB3 flattens a buffer once, when it is first read: each update begins with that.
        self._buffer = dict(vars(self.model.rollout_buffer))

    def reset(self) -> None:
        """Everything as it was before the first update."""
        self.model.policy.load_state_dict(self._policy)
        self.model.policy.optimizer.load_state_dict(copy.deepcopy(self._optimizer))
        vars(self.model.rollout_buffer).update(self._buffer)
        np.random.seed(0)  # noqa: NPY002 (SB3 draws minibatches from it)

    def update(self) -> Timing:
        """One update."""
        with self._observed():
            self.watch.start()
            self.model.train()
            return self.watch.stop()

    @abstractmethod
    def _observed(self) -> AbstractContextManager[Any]:
        """While active, the watch is marked where the library goes from the policy step to the critic."""

    def actor(self) -> tuple[Tensor, ...]:
        """Parameters of the actor now."""
        policy = self.model.policy
        return (policy.log_std, *layers(policy.mlp_extractor.policy_net, policy.action_net))

    def critic(self) -> tuple[Tensor, ...]:
        """Parameters of the critic now."""
        policy = self.model.policy
        return layers(policy.mlp_extractor.value_net, policy.value_net)

    def batch(self) -> Batch:
        """What it has collected, and its network before the first update."""
        self.reset()
        data = next(iter(self.model.rollout_buffer.get(batch_size=1)))
        data = self.model.rollout_buffer._get_samples(np.arange(self.cell.samples))
        self.reset()
        actor, critic = (tuple(part.detach().clone() for part in parts) for parts in (self.actor(), self.critic()))
        rows = (data.observations, data.actions, data.old_log_prob, data.advantages, data.returns)
        return Batch(*rows, actor, critic)


class MarkedBuffer(RolloutBuffer):
    """sb3-contrib's policy step ends where its critic first asks for minibatches."""

    watch: Watch

    def get(self, batch_size: int | None = None) -> Iterator[Any]:  # type: ignore[override]
        """As the parent, with a mark."""
        if batch_size == BATCH_SIZE:
            self.watch.mark()
        return super().get(batch_size)


class ContribSide(_SB3Side):
    """
    sb3-contrib.

    :param cell: what is measured
    """

    def __init__(self, cell: Cell):
        super().__init__(CONTRIB, sb3_contrib.TRPO, cell, {"rollout_buffer_class": MarkedBuffer})
        self.model.rollout_buffer.watch = self.watch

    def _observed(self) -> AbstractContextManager[Any]:
        if not self.cell.equal_work:
            return nullcontext()
        return mock.patch.object(contrib_trpo, "conjugate_gradient_solver", partial(_SOLVER, residual_tol=0.0))


class OurSide(_SB3Side):
    """
    Ours.

    :param cell: what is measured
    :param precision: ``cg_precision``; None: the default
    :param preconditioner: ``cg_preconditioner``; None: the default
    """

    def __init__(self, cell: Cell, precision: str | None = None, preconditioner: str | None = None):
        chosen = {"cg_precision": precision, "cg_preconditioner": preconditioner}
        settings: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
        name = ", ".join([OURS, *(value for value in settings.values() if value != PLAIN)])
        settings |= {"kl_reduction": "mean", "warn_on_risky": False}
        if cell.equal_work:
            settings |= {"adaptive_damping": False, "cg_rtol": 0.0, "max_critic_updates": cell.critic_epochs}
        try:
            super().__init__(name if precision else f"{OURS}, default", sb3_trpo_ext.TRPO, cell, settings)
        except ValueError as error:
            raise Unavailable(f"this version refuses it: {error}") from error
        self.preconditioned = preconditioner not in (None, PLAIN)
        self._damping = self.model._adapted_damping

    def reset(self) -> None:
        """Everything as it was before the first update."""
        super().reset()
        self.model._adapted_damping = self._damping

    def _observed(self) -> AbstractContextManager[Any]:
        observed = ExitStack()
        observed.enter_context(mock.patch.object(our_trpo, "update_policy", self._marked))
        if self.cell.equal_work:
            # A preconditioned solve stops once its model has settled: an early exit too.
            observed.enter_context(mock.patch.object(our_settings, "SETTLED_PROGRESS", 0.0))
        return observed

    def _marked(self, *arguments: Any, **keywords: Any) -> Any:
        result = _UPDATE_POLICY(*arguments, **keywords)
        self.watch.mark()
        return result

    def update(self) -> Timing:
        """
        Time one update.

        :return: what was measured
        :raises DifferentWork: if it did not do what it was asked for
        """
        timing = super().update()
        report = self.model.last_update
        if report is None or report.status != "accepted":
            raise DifferentWork(f"{self.name}: no step was taken: {report and report.advice}")
        if self.cell.equal_work:
            self._refuse_less_work(report)
        return timing

    @property
    def iterations(self) -> int | None:
        """CG iterations of the last update."""
        return self.model.last_update.cg_iterations if self.model.last_update is not None else None

    def _refuse_less_work(self, report: Any) -> None:
        # A preconditioned solve may have nothing left to do after fewer iterations: that is what it is for.
        iterations = self.cell.cg_steps if self.preconditioned else report.cg_iterations
        done = {"CG iterations": iterations, "critic epochs": report.critic_epochs}
        asked = {"CG iterations": self.cell.cg_steps, "critic epochs": self.cell.critic_epochs}
        if done != asked or report.line_search_backtracks:
            raise DifferentWork(
                f"{self.name}: not equal work: {done}, {report.line_search_backtracks} backtracks; asked {asked}"
            )
