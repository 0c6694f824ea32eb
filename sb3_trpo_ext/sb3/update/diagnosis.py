"""Diagnostics that somebody has subscribed to: from a model and its update to fields of ``UpdateReport``."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
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
from sb3_trpo_ext.core.flat import Parameters, Snapshot
from sb3_trpo_ext.core.reduce import single_process
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.core.update import PolicyProblem
from sb3_trpo_ext.sb3.problem.actor import map_tensors
from sb3_trpo_ext.sb3.problem.statistics import explained_variance

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO
    from sb3_trpo_ext.sb3.update.report import UpdateInputs

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

    def state_dict(self) -> dict[str, Any]:
        """
        Give what a resumed run needs for its next update's diagnostics.

        :return: numbers and tensors by name
        """
        return dict(vars(self._memory))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on from a state.

        :param state: of ``state_dict``
        """
        self._memory = _Memory(**state)

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
        computed: dict[Diagnostic, Callable[[], dict[str, Any]]] = {
            Diagnostic.ACTIVITY: lambda: _activity(model, inputs),
            Diagnostic.DRIFT: lambda: self._drift(inputs.evaluated.problem, inputs.result.accepted is not None),
            Diagnostic.TAILS: lambda: vars(advantage_tails(inputs.evaluated.problem.surrogate.advantages)),
            Diagnostic.RESIDUALS: lambda: self._residuals(model, inputs),
            Diagnostic.EPISODES: lambda: self._episodes(model, inputs),
        }
        fields: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for name in sorted(self.subscribed):
                try:
                    fields |= computed[name]()
                except Exception as error:  # of a user's module, which may raise anything: no diagnostic ends a run
                    self.subscribed.discard(name)
                    text = f"the diagnostic {str(name)!r} does not work on this policy, and is left out from now on: {error!r}"
                    warnings.warn(f"TRPO: {text}", UserWarning, stacklevel=4)
        return fields

    def _drift(self, problem: PolicyProblem, accepted: bool) -> dict[str, Any]:
        before, surrogate = self._memory.theta, problem.surrogate
        self._memory = _Memory(problem.theta if accepted else None, self._memory.num_timesteps, self._memory.ages)
        if before is None or [part.shape for part in before] != [part.shape for part in problem.theta]:
            return {}
        rows = evenly(len(surrogate.phi), DRIFT_SAMPLES).to(surrogate.phi.device)
        largest = max(len(surrogate.phi[chunk]) for chunk in surrogate.mean.chunks)
        # Of several processes, this one's samples: monitors are on one, and the others don't take part.
        mean = replace(surrogate.mean, reducer=single_process).subsample(rows, largest)
        earlier = tuple(part.to(like) for part, like in zip(before, problem.theta, strict=True))
        return {"drift_kl": policy_drift(surrogate, mean, earlier)}

    def _residuals(self, model: TRPO, inputs: UpdateInputs) -> dict[str, Any]:
        ends, batch, buffer = _ends(model, inputs), inputs.batch, model.rollout_buffer
        if ends is None or batch.episode_starts is None:
            return {}
        residuals = td_residuals(batch.by_step(batch.advantages), ends, buffer.gamma * buffer.gae_lambda)
        ages, known = self._ages(torch.as_tensor(batch.episode_starts[0]).bool(), ends, model.num_timesteps)
        if batch.places is not None:
            counted = batch.by_step(torch.ones(len(batch))).bool()
            residuals, ages, known = residuals[counted], ages[counted], known[counted]
        return vars(residual_test(residuals, ages, known))

    def _episodes(self, model: TRPO, inputs: UpdateInputs) -> dict[str, Any]:
        ends, batch = _ends(model, inputs), inputs.batch
        if ends is None or batch.rewards is None:
            return {}
        returns, known = finished_returns(torch.as_tensor(batch.rewards), ends, model.rollout_buffer.gamma)
        known &= batch.by_step(torch.ones(len(batch))).bool()
        values = batch.by_step(batch.values)
        explained = explained_variance(values[known], returns[known]) if bool(known.any()) else None
        return {"explained_variance_mc": explained, "mc_samples": int(known.sum())}

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


def _ends(model: TRPO, inputs: UpdateInputs) -> Tensor | None:
    """Whether a step ends its episode, shape (n_steps, n_envs); None where order or advantages are a custom buffer's."""
    starts, last = inputs.batch.episode_starts, model._last_episode_starts
    sb3s = type(model.rollout_buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage
    if starts is None or last is None or not sb3s:
        return None
    return torch.cat([torch.as_tensor(starts[1:]).bool(), torch.as_tensor(last).bool().reshape(1, -1)])


def _activity(model: TRPO, inputs: UpdateInputs) -> dict[str, Any]:
    """Of the networks as they are after the update, and once as they were before the first."""
    rows = evenly(len(inputs.batch), ACTIVITY_SAMPLES).to(inputs.batch.advantages.device)
    observations = map_tensors(lambda tensor: tensor[rows], inputs.batch.observations)
    networks = _networks(model.policy, observations)
    layers = [(f"{network} {layer.name}", layer) for network, found in networks.items() for layer in found]
    before: list[LayerActivity] = []
    if model._n_updates == 0:
        with _as_before(model) as policy:
            before = [layer for found in _networks(policy, observations).values() for layer in found]
    worst = {name: max((layer.inactive for layer in found), default=None) for name, found in networks.items()}
    return {
        "activity_samples": len(rows),
        "layer_names": tuple(name for name, _ in layers),
        "layer_units": tuple(layer.units for _, layer in layers),
        "layer_dead": tuple(layer.dead for _, layer in layers),
        "layer_saturated": tuple(layer.saturated for _, layer in layers),
        "layer_dead_before": tuple(layer.dead for layer in before),
        "actor_inactive": worst["actor"],
        "critic_inactive": worst["critic"],
    }


def _networks(policy: ActorCriticPolicy, observations: Any) -> dict[str, tuple[LayerActivity, ...]]:
    modules = list(policy.named_modules())
    return {
        "actor": layer_activity(modules, lambda: policy.get_distribution(observations)),
        "critic": layer_activity(modules, lambda: policy.predict_values(observations)),
    }


@contextmanager
def _as_before(model: TRPO) -> Iterator[ActorCriticPolicy]:
    """The policy with what it held when the update began; afterwards bit for bit as now. (gSDE's can't be copied.)"""
    now = Snapshot.take(chain(model.policy.parameters(), model.policy.buffers()))
    try:
        if model.session.update_start is not None:
            model.session.update_start.held.snapshot.restore()
        yield model.policy
    finally:
        now.restore()
