"""One run of one side of an incident, watched."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from incident_suite.scenario import CURED, OURS, Incident, make_model
from sb3_trpo_ext.monitoring import TrustRegionMonitor


@dataclass(frozen=True)
class Outcome:
    """
    What became of a run.

    :param returns: mean return of the episodes that ended during each update's rollout; None: none did
    :param alarms: (code, update) of ours, oldest first
    :param died: the exception that ended it, in one line; empty: none did
    :param left: whether the policy that it left can still act
    :param entropy: of that policy on its last rollout; None if it can't act
    :param dead: share of the units of the actor's worst layer that are dead or saturated on it; None for other networks
    :param largest_kl: over delta, of all updates, as logged
    :param seconds: wall clock
    """

    returns: list[float | None]
    alarms: list[tuple[str, int]]
    died: str
    left: bool
    entropy: float | None
    dead: float | None
    largest_kl: float
    seconds: float


class Watch(BaseCallback):
    """Keeps the returns of training episodes, as a person sees them, and the KL that was logged."""

    reads_step_values = False

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float | None] = []
        self.largest_kl = 0.0
        self._ended: list[float] = []

    def _on_step(self) -> bool:
        self._ended.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        return True

    def _on_rollout_start(self) -> None:
        logged = self.model.logger.name_to_value.get("train/kl_divergence_loss", 0.0)
        self.largest_kl = max(self.largest_kl, float(logged) / self.model.target_kl)  # type: ignore[attr-defined]

    def _on_rollout_end(self) -> None:
        self.returns.append(float(np.mean(self._ended)) if self._ended else None)
        self._ended = []


def train(incident: Incident, side: str, seed: int, folder: Path, updates: int | None = None) -> Outcome:
    """
    Run one side once.

    :param incident: the incident
    :param side: of ``SIDES``
    :param seed: its seed
    :param folder: run folder of ours
    :param updates: another length than the incident's
    :return: what became of it
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, trouble = make_model(incident, side, seed, folder)
        watch = Watch()
        monitor = _monitor(incident, side)
        observers: list[BaseCallback] = [watch] if monitor is None else [watch, monitor]
        steps = (updates or incident.length(side)) * model.n_steps * model.n_envs  # type: ignore[attr-defined]
        died, start = "", time.perf_counter()
        try:
            model.learn(steps, callback=[*trouble, *observers])
        except Exception as error:  # whatever ends a person's run
            died = f"{type(error).__name__}: {' '.join(str(error).split())}"
        seconds = time.perf_counter() - start
        alarms = [(alarm.code, alarm.n_updates) for alarm in monitor.alarms] if monitor else []
        entropy = _entropy(model)
        dead = None if entropy is None else _inactive(model)
        return Outcome(watch.returns, alarms, died, entropy is not None, entropy, dead, watch.largest_kl, seconds)


def _monitor(incident: Incident, side: str) -> TrustRegionMonitor | None:
    if side not in (OURS, CURED):
        return None
    return TrustRegionMonitor(**(incident.monitor if side == CURED else {}))


def _observations(model: Any) -> torch.Tensor:
    """Of the last rollout, by step and environment or (once SB3 has read the buffer) in one row."""
    observations = torch.as_tensor(model.rollout_buffer.observations, dtype=torch.float32)
    return torch.nan_to_num(observations.reshape(-1, *model.observation_space.shape))


def _entropy(model: BaseAlgorithm) -> float | None:
    """None if the policy that was left can't act."""
    policy: Any = model.policy
    policy.set_training_mode(False)
    try:
        with torch.no_grad():
            return float(policy.get_distribution(_observations(model)).entropy().mean())
    except ValueError:
        return None


def _inactive(model: BaseAlgorithm) -> float | None:
    """Of the actor's worst layer; units that are constant on the whole rollout, to a thousandth."""
    policy: Any = model.policy
    with torch.no_grad():
        latent = policy.extract_features(_observations(model), policy.pi_features_extractor)
        shares = []
        for layer in policy.mlp_extractor.policy_net:
            latent = layer(latent)
            if not isinstance(layer, nn.Linear):
                shares.append(float((latent.amax(0) - latent.amin(0) < 1e-3).float().mean()))
    return max(shares, default=None)
