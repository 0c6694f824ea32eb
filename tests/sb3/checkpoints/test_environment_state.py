"""Environments that go on in the middle of their episodes."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

from sb3_trpo_ext.sb3.checkpoints.environment import EnvironmentState
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize

TASKS = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Hopper-v5", "Humanoid-v5"]


def stack(task: str, seed: int) -> VecEnv:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_vec_env(task, 2, seed=seed)


def play(env: VecEnv, steps: int, chance: np.random.Generator) -> list[Any]:
    seen = []
    for _ in range(steps):
        space = env.action_space
        if isinstance(space, gym.spaces.Discrete):
            actions = chance.integers(space.n, size=2)
        else:
            actions = chance.uniform(0.5 * space.low, 0.5 * space.high, size=(2, *space.shape))
        *numbers, infos = env.step(actions)
        episodes = [info.get("episode", {}) for info in infos]
        seen.append([*numbers, [(episode.get("r"), episode.get("l")) for episode in episodes]])
    return seen


def same(first: list[Any], second: list[Any]) -> bool:
    def equal(left: Any, right: Any) -> bool:
        if isinstance(left, dict):
            return all(np.array_equal(left[key], right[key]) for key in left)
        return left == right if isinstance(left, list) else np.array_equal(left, right)

    return all(
        equal(left, right) for one, two in zip(first, second, strict=True) for left, right in zip(one, two, strict=True)
    )


def goes_on(first: VecEnv, second: VecEnv, before: int = 30, after: int = 250) -> tuple[str | None, bool]:
    first.reset()
    second.reset()
    play(first, before, np.random.default_rng(1))
    state = pickle.loads(pickle.dumps(EnvironmentState.of(first)))
    # A mark that what is looked at is not changed.
    expected = play(first, after, np.random.default_rng(2))
    reason = state.restore(second)
    return reason, same(expected, play(second, after, np.random.default_rng(2)))


@pytest.mark.parametrize("task", TASKS)
def test_gymnasiums_tasks(task: str) -> None:
    reason, equal = goes_on(stack(task, 0), stack(task, 1))
    assert (reason, equal) == (None, True)


@pytest.mark.parametrize("wrap", [VecMonitor, VecCheckNan, VecNormalize, FastVecNormalize, lambda env: VecFrameStack(env, 3)])
def test_sb3s_wrappers(wrap: Any) -> None:
    reason, equal = goes_on(wrap(stack("Pendulum-v1", 0)), wrap(stack("Pendulum-v1", 1)))
    assert (reason, equal) == (None, True)


def test_the_zoos_wrappers_and_ours() -> None:
    from rl_zoo3 import gym_patches  # noqa: F401  (from here on gym.make limits time with the Zoo's own wrapper)

    def made(seed: int) -> VecEnv:
        env = FastDummyVecEnv([lambda: gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1.0, 1.0)] * 2)
        env.seed(seed)
        return env

    assert goes_on(made(0), made(1)) == (None, True)


class Remembers(gym.Wrapper):
    """A user's own."""


class RemembersAll(VecEnvWrapper):
    """A user's own."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def test_what_is_not_known_is_named() -> None:
    env = FastDummyVecEnv([lambda: Remembers(gym.make("CartPole-v1"))] * 2)
    assert goes_on(env, env)[0] == "Remembers has no state_dict() and load_state_dict(state)"
    env = RemembersAll(stack("CartPole-v1", 0))
    assert goes_on(env, env)[0] == "RemembersAll has no state_dict() and load_state_dict(state)"


def test_what_was_made_differently_is_said() -> None:
    plain, wrapped = stack("Pendulum-v1", 0), FastDummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    assert "an environment is now made of" in str(goes_on(plain, wrapped)[0])
    three = make_vec_env("Pendulum-v1", 3)
    plain.reset()
    assert EnvironmentState.of(plain).restore(three) == "it is now a DummyVecEnv of 3 environments"
