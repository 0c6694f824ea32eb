"""Trainings on several ranks: what the tests have each of them do, and what they look at afterwards."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.core.flat import flatten
from sb3_trpo_ext.sb3.ranks import training as rank_training
from sb3_trpo_ext.sb3.ranks.launch import place
from sb3_trpo_ext.sb3.ranks.normalization import write_moments
from tests.sb3.ranks.work import Meet
from tests.sb3.spaces import make_env, make_model

N_STEPS, N_ENVS = 32, 2
UPDATE = N_STEPS * N_ENVS
"""Environment steps of one rank."""

BATCH_SIZE = 21
"""Three whole minibatches and one of a single sample, which a rank that drops one does not have."""


class Seen(VecEnvWrapper):
    """Keeps what it has shown, in float64, in which its mean is then taken; does something at a step."""

    def __init__(self, venv: Any, at: int = -1, do: Callable[[Any], Any] | None = None):
        super().__init__(venv)
        self.observations: list[np.ndarray] = []
        self.n_steps, self.at, self.do = 0, at, do

    def reset(self) -> Any:
        self.observations.append(np.asarray(self.venv.reset(), np.float64))
        return self.observations[-1]

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        obs = np.asarray(obs, np.float64)
        if self.do is not None and self.n_steps == self.at:
            obs = self.do(obs)
        self.n_steps += 1
        self.observations.append(obs)
        return obs, rewards, dones, infos


class OnEveryRank(BaseCallback):
    """Does something at the start of a rollout, or ends training at a step, on one rank."""

    every_rank = True

    def __init__(self, rank: int, rollout: int = -1, do: Callable[[Any], None] | None = None, ends_at: int = -1):
        super().__init__()
        self.rank, self.rollout, self.do, self.ends_at = rank, rollout, do, ends_at
        self.n_rollouts = 0

    def _on_rollout_start(self) -> None:
        self.n_rollouts += 1
        if self.do is not None and place()[0] == self.rank and self.n_rollouts == self.rollout:
            self.do(self.model)

    def _on_step(self) -> bool:
        return not (place()[0] == self.rank and self.n_calls == self.ends_at)


class Counter(BaseCallback):
    """On rank 0 only, as any callback."""

    def _on_step(self) -> bool:
        return True


def trained(
    n_updates: int = 3,
    callback: Any = None,
    venv: Any = None,
    seen: dict[str, Any] | None = None,
    kind: str = "box",
    **settings: Any,
) -> dict[str, Any]:
    """Train; what is left behind."""
    rank, size = place()
    watched = Seen(make_env(kind, n_envs=N_ENVS) if venv is None else venv, **(seen or {}))
    model = make_model(kind, env=VecNormalize(watched), n_steps=N_STEPS, **settings)
    error = None
    start = time.monotonic()
    try:
        model.learn(n_updates * UPDATE * size, callback=callback)
    except (RuntimeError, ValueError) as problem:
        error = problem
    return left_by(model, watched) | {"error": error, "seconds": time.monotonic() - start, "rank": rank}


def left_by(model: Any, watched: Seen) -> dict[str, Any]:
    report = model.last_update
    return {
        "policy": flatten(part.detach().clone() for part in model.policy.parameters()),
        "num_timesteps": model.num_timesteps,
        "observed": np.concatenate(watched.observations[1:] or watched.observations),
        "first": watched.observations[0],
        "moments": (model.env.obs_rms.count, model.env.obs_rms.mean, model.env.obs_rms.var),
        "returns": (model.env.ret_rms.count, model.env.ret_rms.mean, model.env.ret_rms.var),
        "episodes": [(episode["r"], episode["l"]) for episode in model.ep_info_buffer],
        "report": None if report is None else report.to_json(),
        "n_updates": model._n_updates,
        "folder": model.run_folder,
        "outputs": len(model.logger.output_formats),
        "noise": torch.rand(1).item(),
    }


def _set_kl(model: Any) -> None:
    model.target_kl = 0.02


def _move_critic(model: Any) -> None:
    with torch.no_grad():
        model.policy.value_net.weight[0, 0] += 1e-3


def _move_actor(model: Any) -> None:
    with torch.no_grad():
        model.policy.action_net.weight[0, 0] += 1e-2


def _move_moments(model: Any) -> None:
    model.policy.optimizer.state[next(model.policy.value_net.parameters())]["exp_avg"] += 1e-3


def _nan(observations: np.ndarray) -> np.ndarray:
    return np.full_like(observations, np.nan)


def _sleep(observations: np.ndarray) -> np.ndarray:
    time.sleep(5.0)
    return observations


def _die(observations: np.ndarray) -> np.ndarray:
    os._exit(1)


def bad_data(on: int, **settings: Any) -> dict[str, Any]:
    return trained(seen={"at": N_STEPS + 5, "do": _nan} if place()[0] == on else None, **settings)


def other_statistics() -> dict[str, Any]:
    """A variance that faulty memory has changed on rank 1."""

    def write(env: Any, moments: Any) -> None:
        write_moments(env, moments)
        if place()[0] == 1:
            env.obs_rms.var = env.obs_rms.var * 1.001

    vars(rank_training).update(write_moments=write)
    try:
        return trained()
    finally:
        vars(rank_training).update(write_moments=write_moments)


def hang() -> dict[str, Any]:
    os.environ["TRPO_RANK_TIMEOUT"] = "2"
    try:
        return trained(seen={"at": N_STEPS + 5, "do": _sleep} if place()[0] == 1 else None)
    finally:
        del os.environ["TRPO_RANK_TIMEOUT"]


def interrupted_and_resumed(folder: str) -> dict[str, Any]:
    rank, size = place()
    # Of the others nobody needs to see the files.
    folder = folder if rank == 0 else "/nowhere"
    trained(2, callback=[Checkpoints(every_updates=1)], log_folder=folder)
    watched = Seen(make_env(n_envs=N_ENVS))
    model = TRPO.resume(folder, env=VecNormalize(watched), device="cpu")
    at_first = model._n_updates
    model.learn(4 * UPDATE * size, callback=[Checkpoints(every_updates=1)])
    return left_by(model, watched) | {"at_first": at_first, "error": None}


def resumed_from_nothing() -> Any:
    try:
        TRPO.resume(str(Path.cwd()), device="cpu")
    except (ValueError, RuntimeError) as error:
        return {"error": error}


def one_rank_writes() -> dict[str, Any]:
    counter = Counter()
    found = trained(2, callback=[counter], verbose=1, log_folder="run", tensorboard_log="tb")
    return found | {"calls": counter.n_calls, "files": sorted(path.name for path in Path.cwd().glob("*"))}


def dropped_here() -> dict[str, Any]:
    """Bad data on rank 1, which drops it: batches of unequal size, and minibatches of unequal number."""
    venv = make_env(n_envs=N_ENVS)
    broken = venv.envs[0].unwrapped
    calls, observe = iter(range(10_000)), broken.observe

    def sometimes_nan() -> Any:
        seen = observe()
        return seen * np.nan if place()[0] == 1 and next(calls) % 20 == 19 else seen

    broken.observe = sometimes_nan
    return trained(venv=venv, on_nonfinite="truncate", batch_size=BATCH_SIZE)


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": trained,
    "again": trained,
    "sde by SB3's loop": lambda: trained(kind="sde", callback=[OnEveryRank(0)], cg_preconditioner="kfac"),
    "discrete, thinned": lambda: trained(kind="discrete", sub_sampling_factor=2, min_explained_variance=-10.0),
    "one rank writes": one_rank_writes,
    "resumed from nothing": resumed_from_nothing,
    "bad data": lambda: bad_data(1),
    "dropped": dropped_here,
    "a callback stops": lambda: trained(callback=[OnEveryRank(1, ends_at=N_STEPS + 7)]),
    "another setting at first": lambda: trained(target_kl=0.01 if place()[0] == 0 else 0.02),
    "another setting later": lambda: trained(callback=[OnEveryRank(1, 2, _set_kl)]),
    "another critic": lambda: trained(callback=[OnEveryRank(1, 2, _move_critic)]),
    "another actor": lambda: trained(callback=[OnEveryRank(1, 2, _move_actor)]),
    "another optimiser": lambda: trained(callback=[OnEveryRank(1, 2, _move_moments)]),
    "other statistics": other_statistics,
    "hang": hang,
}


def scenarios(meet: Meet, folder: str) -> dict[str, Any]:
    """All of them, one after another: a training that has failed leaves the ranks able to begin another."""
    meet()
    found = {name: scenario() for name, scenario in SCENARIOS.items()}
    return found | {"resumed": interrupted_and_resumed(folder)}


def death(meet: Meet) -> dict[str, Any]:
    meet()
    return trained(seen={"at": N_STEPS + 5, "do": _die} if place()[0] == 1 else None)
