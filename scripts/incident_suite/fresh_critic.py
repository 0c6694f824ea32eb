"""(b) A trained policy is fine-tuned with a new critic that hardly learns: the KL holds, the advantages are biased."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from incident_suite.scenario import FRESH_SEEDS, Incident, Kit

ONSET = 24
TRUSTING = {"gae_lambda": 0.5}


class FreshCritic(BaseCallback):
    """
    Puts a newly initialised critic in the place of the trained one, as loading an actor alone does.

    :param onset: before this rollout's update, from 1
    :param settings: attributes of the model from then on
    """

    reads_step_values = False

    def __init__(self, onset: int, **settings: Any):
        super().__init__()
        self.onset, self.settings, self._rollouts = onset, settings, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        if self._rollouts != self.onset:
            return
        policy: Any = self.model.policy
        for net, gain in ((policy.mlp_extractor.value_net, 2**0.5), (policy.value_net, 1.0)):
            for layer in net.modules():
                if isinstance(layer, nn.Linear):  # as SB3 initialises them
                    nn.init.orthogonal_(layer.weight, gain)
                    nn.init.zeros_(layer.bias)
        policy.optimizer.state.clear()
        for name, value in self.settings.items():
            setattr(self.model, name, value)


def lazily() -> list[BaseCallback]:
    """One epoch an update, at a learning rate that was right for fine-tuning some other network."""
    return [FreshCritic(ONSET, n_critic_updates=1, lr_schedule=lambda _: 1e-6)]


def properly() -> list[BaseCallback]:
    """The fresh critic, trained as the first one was, and the policy only once it explains something."""
    return [FreshCritic(ONSET, min_explained_variance=0.1)]


INCIDENT = Incident(
    letter="b",
    name="an undertrained critic",
    updates=45,
    onset=ONSET,
    trouble=f"at update {ONSET} the critic is a new one, with n_critic_updates=1 and learning_rate=1e-6; gae_lambda=0.5",
    cure="n_critic_updates=10, learning_rate=1e-3; min_explained_variance=0.1 from then on",
    alarms=("TR504", "TR601", "TR503"),
    kit=Kit(TRUSTING, callbacks=lazily),
    healthy=Kit(TRUSTING),
    cured=Kit(TRUSTING, callbacks=properly),
    seeds=FRESH_SEEDS,
)
