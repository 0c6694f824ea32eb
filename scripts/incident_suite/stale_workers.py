"""(a) Several workers, and a queue between them and the learner: every rollout is of weights ten versions old."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from incident_suite.scenario import Incident, Kit

LAG, ONSET = 10, 15
QUICK = {"target_kl": 0.02, "batch_size": 128}


class WorkerPolicy(ActorCriticPolicy):
    """
    Acts with a worker's weights once there are some; trained, evaluated and valued with its own.

    What it says of its actions is the truth: distribution and log-probability are those of the weights that acted.
    """

    worker: list[ActorCriticPolicy] | None = None  # in a list, so that it is no part of this module's parameters

    def act_with(self, weights: dict[str, Tensor]) -> None:
        """
        Let the workers have weights.

        :param weights: a state dict of this policy
        """
        if self.worker is None:
            self.worker = [copy.deepcopy(self)]
            self.worker[0].set_training_mode(False)
        self.worker[0].load_state_dict(weights)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """
        Act, as SB3's policies do when rollouts are collected.

        :param obs: observations
        :param deterministic: whether to take the mode
        :return: actions, values, log-probabilities
        """
        if self.worker is None:
            return super().forward(obs, deterministic)
        logits = self.worker[0].get_distribution(obs).distribution.logits  # type: ignore[union-attr]
        acting = self.action_dist.proba_distribution(logits)
        actions = acting.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), acting.log_prob(actions)


class Queue(BaseCallback):
    """
    Hands the weights of ``lag`` rollouts ago to the workers, from the rollout ``onset`` on.

    :param lag: rollouts that wait in the queue
    :param onset: first rollout that is late, from 1
    """

    reads_step_values = False

    def __init__(self, lag: int = LAG, onset: int = ONSET):
        super().__init__()
        self.onset, self._rollouts = onset, 0
        self._versions: deque[dict[str, Tensor]] = deque(maxlen=lag + 1)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        policy: Any = self.model.policy
        self._versions.append({name: torch.clone(value) for name, value in policy.state_dict().items()})
        if self._rollouts >= self.onset:
            policy.act_with(self._versions[0])


INCIDENT = Incident(
    letter="a",
    name="stale batches of several workers",
    updates=65,
    onset=ONSET,
    trouble=f"from update {ONSET} on, a queue: all 8 workers act with weights {LAG} versions old; target_kl=0.02",
    cure='on_stale_batch="skip"',
    kit=Kit(QUICK, WorkerPolicy, callbacks=lambda: [Queue()]),
    healthy=Kit(QUICK),
    ours={"on_stale_batch": "skip"},
)
