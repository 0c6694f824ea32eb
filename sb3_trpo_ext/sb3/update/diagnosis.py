"""Diagnostics that somebody has subscribed to, and what has to be remembered for them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.core.activity import LayerActivity, evenly, layer_activity
from sb3_trpo_ext.core.diagnostics import (
    Activity,
    Diagnosed,
    ResidualTest,
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
from sb3_trpo_ext.sb3.update.report import UpdateInputs

ACTIVITY_SAMPLES = 256
"""Samples that activity is measured on: a unit that fires for 2 % of all is missed once in 170 times, at under 2 % of an
update's time (``scripts/benchmark_update.py --monitors``)."""

DRIFT_SAMPLES = 512
"""Samples that drift is measured on, which is a mean: known to a few per cent."""


@dataclass(frozen=True)
class Seen:
    """
    An update, as diagnostics see it.

    :param inputs: what went into it
    :param policy: what it leaves, in eval mode
    :param buffer: the rollout
    :param last_episode_starts: whether the step after the rollout is its episode's first, shape (n_envs,)
    :param num_timesteps: environment steps so far
    :param before_first: of the policy, before the first update; None in later ones
    """

    inputs: UpdateInputs
    policy: ActorCriticPolicy
    buffer: RolloutBuffer
    last_episode_starts: np.ndarray | None
    num_timesteps: int
    before_first: Snapshot | None


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

    def compute(self, seen: Seen) -> Diagnosed:
        """
        Compute what is subscribed, after the update; random numbers that a policy may draw are given back.

        :param seen: the update
        :return: the diagnostics
        """
        problem = seen.inputs.evaluated.problem
        computed: dict[Diagnostic, Callable[[], dict[str, Any]]] = {
            Diagnostic.ACTIVITY: lambda: {"activity": _activity(seen)},
            Diagnostic.DRIFT: lambda: {"drift_kl": self._drift(problem, seen.inputs.result.accepted is not None)},
            Diagnostic.TAILS: lambda: {"tails": advantage_tails(problem.surrogate.advantages)},
            Diagnostic.RESIDUALS: lambda: {"residuals": self._residuals(seen)},
            Diagnostic.EPISODES: lambda: _returns(seen),
        }
        found = Diagnosed()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for name in sorted(self.subscribed):
                try:
                    found = replace(found, **computed[name]())
                except Exception as error:  # of a user's module, which may raise anything: no diagnostic ends a run
                    self.subscribed.discard(name)
                    text = f"the diagnostic {str(name)!r} does not work on this policy, and is left out from now on: {error!r}"
                    warnings.warn(f"TRPO: {text}", UserWarning, stacklevel=3)
        return found

    def _drift(self, problem: PolicyProblem, accepted: bool) -> float | None:
        before, surrogate = self._memory.theta, problem.surrogate
        self._memory = _Memory(problem.theta if accepted else None, self._memory.num_timesteps, self._memory.ages)
        if before is None or [part.shape for part in before] != [part.shape for part in problem.theta]:
            return None
        rows = evenly(len(surrogate.phi), DRIFT_SAMPLES).to(surrogate.phi.device)
        largest = max(len(surrogate.phi[chunk]) for chunk in surrogate.mean.chunks)
        # Of several processes, this one's samples: monitors are on one, and the others don't take part.
        mean = replace(surrogate.mean, reducer=single_process).subsample(rows, largest)
        earlier = tuple(part.to(like) for part, like in zip(before, problem.theta, strict=True))
        return policy_drift(surrogate, mean, earlier)

    def _residuals(self, seen: Seen) -> ResidualTest:
        ends, batch, buffer = _ends(seen), seen.inputs.batch, seen.buffer
        if ends is None or batch.episode_starts is None:
            return ResidualTest()
        residuals = td_residuals(batch.by_step(batch.advantages), ends, buffer.gamma * buffer.gae_lambda)
        ages, known = self._ages(torch.as_tensor(batch.episode_starts[0]).bool(), ends, seen.num_timesteps)
        if batch.places is not None:
            counted = batch.by_step(torch.ones(len(batch))).bool()
            residuals, ages, known = residuals[counted], ages[counted], known[counted]
        return residual_test(residuals, ages, known)

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


def _returns(seen: Seen) -> dict[str, Any]:
    ends, batch = _ends(seen), seen.inputs.batch
    if ends is None or batch.rewards is None:
        return {}
    returns, known = finished_returns(torch.as_tensor(batch.rewards), ends, seen.buffer.gamma)
    known &= batch.by_step(torch.ones(len(batch))).bool()
    values = batch.by_step(batch.values)
    explained = explained_variance(values[known], returns[known]) if bool(known.any()) else None
    return {"explained_variance_mc": explained, "mc_samples": int(known.sum())}


def _ends(seen: Seen) -> Tensor | None:
    """Whether a step ends its episode, shape (n_steps, n_envs); None where order or advantages are a custom buffer's."""
    starts, last = seen.inputs.batch.episode_starts, seen.last_episode_starts
    sb3s = type(seen.buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage
    if starts is None or last is None or not sb3s:
        return None
    return torch.cat([torch.as_tensor(starts[1:]).bool(), torch.as_tensor(last).bool().reshape(1, -1)])


def _activity(seen: Seen) -> Activity:
    """Of the networks as they are after the update, and once as they were before the first."""
    batch = seen.inputs.batch
    rows = evenly(len(batch), ACTIVITY_SAMPLES).to(batch.advantages.device)
    observations = map_tensors(lambda tensor: tensor[rows], batch.observations)
    networks = _networks(seen.policy, observations)
    layers = [(f"{network} {layer.name}", layer) for network, found in networks.items() for layer in found]
    before: list[LayerActivity] = []
    if seen.before_first is not None:
        with _as_before(seen.policy, seen.before_first):
            before = [layer for found in _networks(seen.policy, observations).values() for layer in found]
    worst = {name: max((layer.inactive for layer in found), default=None) for name, found in networks.items()}
    return Activity(
        samples=len(rows),
        names=tuple(name for name, _ in layers),
        units=tuple(layer.units for _, layer in layers),
        dead=tuple(layer.dead for _, layer in layers),
        saturated=tuple(layer.saturated for _, layer in layers),
        dead_before=tuple(layer.dead for layer in before),
        actor_inactive=worst["actor"],
        critic_inactive=worst["critic"],
    )


def _networks(policy: ActorCriticPolicy, observations: Any) -> dict[str, tuple[LayerActivity, ...]]:
    modules = list(policy.named_modules())
    return {
        "actor": layer_activity(modules, lambda: policy.get_distribution(observations)),
        "critic": layer_activity(modules, lambda: policy.predict_values(observations)),
    }


@contextmanager
def _as_before(policy: ActorCriticPolicy, before: Snapshot) -> Iterator[None]:
    """The policy with what it held when the update began; afterwards bit for bit as now. (gSDE's can't be copied.)"""
    now = Snapshot.take(chain(policy.parameters(), policy.buffers()))
    try:
        before.restore()
        yield
    finally:
        now.restore()
