"""Whole trainings as the RL Zoo runs them, side by side: sb3-contrib's TRPO, ours, SB3's PPO, and the bare simulator."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import rl_zoo3
import sb3_contrib
from evidence.configurations import make_run
from evidence.runs import Run
from evidence.training import make_manager
from rl_zoo3 import exp_manager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_trpo_ext
from sb3_trpo_ext.sb3.collect.acting import ActorAlone
from sb3_trpo_ext.sb3.collect.rollout import Rollout
from sb3_trpo_ext.sb3.problem.critic import Critic
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize

CONTRIB, OURS, PPO, SIMULATOR = "sb3-contrib", "ours", "PPO", "bare simulator"
OURS_IN_SB3S = "ours, SB3's wrappers"
"""As ``TRPO(env=VecNormalize(...))`` runs: only the command line puts our wrappers in."""

IMPLEMENTATIONS = {CONTRIB: "contrib-zoo", OURS: "ours", OURS_IN_SB3S: "ours", PPO: "ppo-zoo"}
ENDLESS = 10**9
SB3_WRAPPERS = {"DummyVecEnv": DummyVecEnv, "VecNormalize": VecNormalize}
OUR_WRAPPERS = {"DummyVecEnv": FastDummyVecEnv, "VecNormalize": FastVecNormalize}

WHOLE, COLLECTION, UPDATE = "whole training", "collection", "update"
IN_SIMULATOR, IN_WRAPPERS, ACTING, VALUES, LOOP = "simulator", "wrappers", "acting", "values at the end", "rest of the loop"
POLICY_STEP, CRITIC = "policy step", "critic"
PARTS = (IN_SIMULATOR, IN_WRAPPERS, ACTING, VALUES, LOOP, POLICY_STEP, CRITIC)
"""What a training's time is spent on; PPO's update is all policy step, its critic being trained with it."""

Seconds = dict[str, float]


class Training:
    """
    One side: a model and its environments, as ``rl_zoo3.train`` (ours: ``python -m sb3_trpo_ext train``) makes them.

    :param name: a key of ``IMPLEMENTATIONS``
    :param task: environment id
    :param n_envs: environments; the rest of the settings are the Zoo's
    :param folder: where the Zoo may write
    """

    def __init__(self, name: str, task: str, n_envs: int, folder: Path):
        run = make_run(IMPLEMENTATIONS[name], task, seed=0, steps=ENDLESS)
        if run is None:
            raise LookupError(f"the Zoo has no settings of {name} for {task}")
        run = dataclasses.replace(run, entry={**run.entry, "n_envs": n_envs})
        folder.mkdir(parents=True)
        self.name = name
        self.model, self._callbacks = _as_the_zoo_makes_it(name, run, folder)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one rollout."""
        return self.model.n_steps * self.model.n_envs

    def train(self, steps: int) -> tuple[Seconds, int]:
        """
        Go on training.

        :param steps: environment steps, at least
        :return: seconds of the whole, of collection and of updates; and the steps that were made
        """
        before, update = self.model.num_timesteps, Clock()
        with update.on(self.model, "train"):
            start = time.perf_counter()
            self.model.learn(steps, callback=self._callbacks or None, reset_num_timesteps=False)
            whole = time.perf_counter() - start
        seconds = {WHOLE: whole, COLLECTION: whole - update.seconds, UPDATE: update.seconds}
        return seconds, self.model.num_timesteps - before

    def split(self, steps: int) -> tuple[Seconds, int]:
        """
        Go on training with a clock on each part, which costs some time of its own.

        :param steps: environment steps, at least
        :return: seconds of ``PARTS``; and the steps that were made
        """
        model = self.model
        clocks = {name: Clock() for name in (IN_SIMULATOR, IN_WRAPPERS, ACTING, VALUES, CRITIC)}
        with ExitStack() as stack:
            for env in model.env.unwrapped.envs:
                for method in ("step", "reset"):
                    stack.enter_context(clocks[IN_SIMULATOR].on(env.unwrapped, method))
            stack.enter_context(clocks[IN_WRAPPERS].on(model.env, "step"))
            if self.name in (OURS, OURS_IN_SB3S):
                stack.enter_context(clocks[ACTING].on(ActorAlone, "__call__"))
                stack.enter_context(clocks[VALUES].on(Rollout, "evaluate"))
                stack.enter_context(clocks[CRITIC].on(Critic, "fit"))
            else:
                stack.enter_context(clocks[ACTING].on(model.policy, "forward"))
            if self.name == CONTRIB:
                stack.enter_context(_critic_of_contrib(model, clocks[CRITIC]))
            whole, done = self.train(steps)
        seconds = {name: clock.seconds for name, clock in clocks.items()}
        in_environments = seconds[IN_WRAPPERS]
        seconds[IN_WRAPPERS] -= seconds[IN_SIMULATOR]
        seconds[LOOP] = whole[COLLECTION] - in_environments - seconds[ACTING] - seconds[VALUES]
        seconds[POLICY_STEP] = whole[UPDATE] - seconds[CRITIC]
        return seconds, done


def _as_the_zoo_makes_it(name: str, run: Run, folder: Path) -> tuple[BaseAlgorithm, list[Any]]:
    trpo = sb3_trpo_ext.TRPO if IMPLEMENTATIONS[name] == "ours" else sb3_contrib.TRPO
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(rl_zoo3.ALGOS, {"trpo": trpo}))
        stack.enter_context(mock.patch.multiple(exp_manager, **(OUR_WRAPPERS if name == OURS else SB3_WRAPPERS)))
        stack.enter_context(redirect_stdout(io.StringIO()))
        manager = make_manager(run, folder)
        set_random_seed(run.seed)
        model, _ = manager.setup_experiment()  # type: ignore[misc]
    assert isinstance(model, trpo) or name == PPO
    return model, manager.callbacks


class Clock:
    """Adds up the time that is spent in some methods."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def on(self, owner: Any, method: str) -> Iterator[None]:
        """
        Watch a method.

        :param owner: an object, or a class for all of its objects
        :param method: name
        :yields: nothing
        """
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        with mock.patch.object(owner, method, timed):
            yield


@contextmanager
def _critic_of_contrib(model: BaseAlgorithm, clock: Clock) -> Iterator[None]:
    """sb3-contrib's policy step takes the whole buffer; its critic begins where minibatches are asked for."""
    began: list[float] = []
    get, train = model.rollout_buffer.get, model.train  # type: ignore[attr-defined]

    def marked(batch_size: int | None = None) -> Any:
        if batch_size is not None:
            began.append(time.perf_counter())
        return get(batch_size)

    def timed() -> None:
        began.clear()
        train()
        clock.seconds += time.perf_counter() - began[0]

    with mock.patch.object(model.rollout_buffer, "get", marked), mock.patch.object(model, "train", timed):  # type: ignore[attr-defined]
        yield


class BareSimulator:
    """
    The task's own ``step`` and nothing around it, on random actions; episodes of at most the task's length.

    :param task: environment id
    :param n_envs: environments, one after the other
    """

    name = SIMULATOR

    def __init__(self, task: str, n_envs: int):
        self._limit = gym.spec(task).max_episode_steps or ENDLESS
        self._envs = [gym.make(task).unwrapped for _ in range(n_envs)]
        for seed, env in enumerate(self._envs):
            env.action_space.seed(seed)
            env.reset(seed=seed)
        self._steps = [0] * n_envs

    def train(self, steps: int) -> tuple[Seconds, int]:
        """
        Step.

        :param steps: of all environments together, at least
        :return: seconds of the whole; and the steps that were made
        """
        rounds = -(-steps // len(self._envs))
        actions = [[env.action_space.sample() for env in self._envs] for _ in range(rounds)]
        start = time.perf_counter()
        for chosen in actions:
            for index, (env, action) in enumerate(zip(self._envs, chosen, strict=True)):
                _, _, terminated, truncated, _ = env.step(action)
                self._steps[index] += 1
                if terminated or truncated or self._steps[index] >= self._limit:
                    env.reset()
                    self._steps[index] = 0
        return {WHOLE: time.perf_counter() - start}, rounds * len(self._envs)


def alternate(
    sides: list[Any], steps: int, repetitions: int, measure: Callable[[Any, int], tuple[Seconds, int]]
) -> dict[str, list[Seconds]]:
    """
    Let sides take turns, each repetition beginning with another one.

    :param sides: the sides
    :param steps: environment steps of each in a repetition
    :param repetitions: how often
    :param measure: (side, steps) -> seconds and steps made
    :return: by name: microseconds an environment step of each part, one dictionary a repetition
    """
    found: dict[str, list[Seconds]] = {side.name: [] for side in sides}
    for repetition in range(repetitions):
        first = repetition % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            seconds, done = measure(side, steps)
            found[side.name].append({part: 1e6 * value / done for part, value in seconds.items()})
    return found
