"""Diagnostics that somebody has subscribed to: from a model and its update to fields of ``UpdateReport``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_trpo_ext.core.activity import LayerActivity, evenly, layer_activity
from sb3_trpo_ext.core.diagnostics import (
    advantage_tails,
    episode_ages,
    finished_returns,
    policy_drift,
    residual_test,
    td_residuals,
)
from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.core.update import PolicyProblem
from sb3_trpo_ext.sb3.adapter import map_tensors
from sb3_trpo_ext.sb3.problems import explained_variance

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO, UpdateInputs

ACTIVITY_SAMPLES = 256
"""Samples that activity is measured on: a unit that fires for 2 % of all is missed once in 170 times, at under 2 % of an
update's time (``scripts/benchmark_update.py --monitors``)."""

DRIFT_SAMPLES = 512
"""Samples that drift is measured on, which is a mean: known to a few per cent."""


@dataclass(frozen=True)
class _Memory:
    """
    What an update leaves for the next one's diagnostics.

    :param theta: parameters of the policy before the step; None if none was taken
    :param num_timesteps: environment steps so far
    :param ages: step within the episode that each environment is at, shape (n_envs,)
    """

    theta: Parameters | None = None
    num_timesteps: int | None = None
    ages: Tensor | None = None


class Diagnosis:
    """Who subscribed to what, and what has to be remembered from one update to the next for it."""

    def __init__(self) -> None:
        self.subscribed: set[Diagnostic] = set()
        self._memory = _Memory()

    def subscribe(self, names: Iterable[str]) -> None:
        """
        Add diagnostics.

        :param names: of ``Diagnostic``
        :raises ValueError: for any other name
        """
        known = [str(member) for member in Diagnostic]
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f": you maybe meant {close[0]!r}" if close else ""
                raise ValueError(f"TRPO: there is no diagnostic {name!r}{hint}. There are: {', '.join(known)}.")
            self.subscribed.add(Diagnostic(name))

    def fields(self, model: TRPO, inputs: UpdateInputs) -> dict[str, Any]:
        """
        Compute what is subscribed, after the update; random numbers that a policy may draw are given back.

        :param model: the model, its policy in eval mode
        :param inputs: what went into the update
        :return: fields of ``UpdateReport``
        """
        if not self.subscribed:
            return {}
        fields: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if Diagnostic.ACTIVITY in self.subscribed:
                fields |= _activity(model, inputs)
            if Diagnostic.DRIFT in self.subscribed:
                fields |= self._drift(inputs.evaluated.problem, inputs.result.accepted is not None)
            if Diagnostic.TAILS in self.subscribed:
                fields |= vars(advantage_tails(inputs.evaluated.problem.surrogate.advantages))
            fields |= self._from_buffer(model, inputs)
        return fields

    def _drift(self, problem: PolicyProblem, accepted: bool) -> dict[str, Any]:
        before, surrogate = self._memory.theta, problem.surrogate
        self._memory = _Memory(problem.theta if accepted else None, self._memory.num_timesteps, self._memory.ages)
        if before is None or [part.shape for part in before] != [part.shape for part in problem.theta]:
            return {}
        rows = evenly(len(surrogate.phi), DRIFT_SAMPLES).to(surrogate.phi.device)
        largest = max(len(surrogate.phi[chunk]) for chunk in surrogate.mean.chunks)
        mean = surrogate.mean.subsample(rows, largest)
        earlier = tuple(part.to(like) for part, like in zip(before, problem.theta, strict=True))
        return {"drift_kl": policy_drift(surrogate, mean, earlier)}

    def _from_buffer(self, model: TRPO, inputs: UpdateInputs) -> dict[str, Any]:
        """What needs the buffer's order, and SB3's own advantages in it."""
        buffer, batch = model.rollout_buffer, inputs.batch
        wanted = self.subscribed & {Diagnostic.RESIDUALS, Diagnostic.EPISODES}
        ours = type(buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage
        if not wanted or batch.n_steps is None or not ours or model._last_episode_starts is None:
            return {}
        starts, last = torch.as_tensor(buffer.episode_starts), torch.as_tensor(model._last_episode_starts)
        ends = torch.cat([starts[1:].bool(), last.bool().reshape(1, -1)])
        fields: dict[str, Any] = {}
        if Diagnostic.RESIDUALS in wanted:
            advantages = batch.advantages.cpu().view(buffer.n_envs, batch.n_steps).T
            residuals = td_residuals(advantages, ends, buffer.gamma * buffer.gae_lambda)
            ages, known = self._ages(starts.bool()[0], ends, model.num_timesteps)
            fields |= vars(residual_test(residuals, ages, known))
        if Diagnostic.EPISODES in wanted:
            returns, known = finished_returns(torch.as_tensor(buffer.rewards), ends, buffer.gamma)
            values = batch.values.cpu().view(buffer.n_envs, batch.n_steps).T
            explained = explained_variance(values[known], returns[known]) if bool(known.any()) else None
            fields |= {"explained_variance_mc": explained, "mc_samples": int(known.sum())}
        return fields

    def _ages(self, begins: Tensor, ends: Tensor, num_timesteps: int) -> tuple[Tensor, Tensor]:
        """Ages go on from the batch before, unless there was something in between."""
        memory = self._memory
        goes_on = memory.ages is not None and memory.num_timesteps == num_timesteps - ends.numel()
        first = memory.ages if goes_on else None
        if bool(begins.all()):
            first = torch.zeros(ends.shape[1], dtype=torch.int64)
        ages, known, following = episode_ages(ends, first)
        self._memory = _Memory(memory.theta, num_timesteps, following if bool(known[-1].all()) else None)
        return ages, known


def _activity(model: TRPO, inputs: UpdateInputs) -> dict[str, Any]:
    """Of the networks as they are after the update."""
    policy = model.policy
    rows = evenly(len(inputs.batch), ACTIVITY_SAMPLES).to(inputs.batch.advantages.device)
    observations = map_tensors(lambda tensor: tensor[rows], inputs.batch.observations)
    modules = list(policy.named_modules())
    networks: dict[str, tuple[LayerActivity, ...]] = {
        "actor": layer_activity(modules, lambda: policy.get_distribution(observations)),
        "critic": layer_activity(modules, lambda: policy.predict_values(observations)),
    }
    layers = [(f"{network} {layer.name}", layer) for network, found in networks.items() for layer in found]
    worst = {name: max((layer.inactive for layer in found), default=None) for name, found in networks.items()}
    return {
        "activity_samples": len(rows),
        "layer_names": tuple(name for name, _ in layers),
        "layer_units": tuple(layer.units for _, layer in layers),
        "layer_dead": tuple(layer.dead for _, layer in layers),
        "layer_saturated": tuple(layer.saturated for _, layer in layers),
        "actor_inactive": worst["actor"],
        "critic_inactive": worst["critic"],
    }
