"""
What is kept of the behaviour policy: the distribution that each action was sampled from, full evidence at no cost a step.

While SB3's own loop collects, hooks on the policy (1) stop at an observation that is not finite, before it reaches the
network, and (2) keep the distribution of each step as the actor computes it. Our loop (``rollout``) does both itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.sb3.integrity.finiteness import refuse_non_finite
from sb3_trpo_ext.sb3.problem.action_distributions import distribution_parameters


class BehaviourRecorder:
    """Keeps the distribution of each step of a rollout: torch's, or anything that ``distribution_parameters`` reads."""

    def __init__(self) -> None:
        self._steps: dict[int, Any] = {}
        self.collection: str | None = None
        self.changed: str | None = None
        self.dropped: list[tuple[int, int]] = []
        """Step and environment of each sample that is none: its environment gave something that is not finite."""

    def begin(self, collection: str) -> None:
        """
        Forget the last rollout.

        :param collection: how the next one is collected, in words
        """
        self._steps, self.dropped = {}, []
        self.collection = collection

    def keep(self, step: int, distribution: Any) -> None:
        """
        Keep one step's distribution, unless that step has one.

        :param step: its number, from 0
        :param distribution: of all environments
        """
        self._steps.setdefault(step, distribution)

    def places(self, n_steps: int, n_envs: int) -> np.ndarray | None:
        """
        Say which samples count.

        :param n_steps: steps of the rollout
        :param n_envs: environments
        :return: environment * n_steps + step of each, rising, int64; None: all of them
        """
        if not self.dropped:
            return None
        lost = [environment * n_steps + step for step, environment in self.dropped]
        return np.setdiff1d(np.arange(n_envs * n_steps), lost)

    @contextmanager
    def recording(self, policy: ActorCriticPolicy, buffer: RolloutBuffer) -> Iterator[None]:
        """
        Watch the policy while SB3's loop collects.

        :param policy: the behaviour
        :param buffer: the buffer that is filled; its ``pos`` is the step
        :yields: nothing
        """

        def before(_: Any, args: Any, kwargs: Any) -> None:
            observations = args[0] if args else kwargs.get("obs")
            refuse_non_finite("observations", observations, getattr(buffer, "pos", None))

        def after(module: Any, *_: Any) -> None:
            # A callback may call the policy again before the step is stored: the first call of a step is the behaviour's.
            self.keep(getattr(buffer, "pos", -1), getattr(module.action_dist, "distribution", None))

        handles = []
        try:
            handles.append(policy.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(policy.register_forward_hook(after))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def by_step(self, n_steps: int) -> Tensor | None:
        """
        Give out what was recorded, step by step.

        :param n_steps: how many steps from the first
        :return: phi, shape (n_steps * n_envs, n_parameters); None unless every step is there
        """
        distributions = [self._steps.get(step) for step in range(n_steps)]
        return None if any(dist is None for dist in distributions) else distribution_parameters(distributions).detach()

    def phi(self, n_steps: int, n_envs: int) -> Tensor | None:
        """
        Give out what was recorded, environment by environment.

        :param n_steps: steps of the rollout
        :param n_envs: environments
        :return: phi, shape (n_envs * n_steps, n_parameters); None unless every step is there
        """
        phi = self.by_step(n_steps)
        if phi is None or len(phi) != n_steps * n_envs:
            return None
        return phi.view(n_steps, n_envs, -1).transpose(0, 1).reshape(n_steps * n_envs, -1)
