"""Wrappers outside the Monitor that end episodes: an evaluation counts them and ends; lives that are lost are no episodes."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from sb3_trpo_ext import EpisodeError
from sb3_trpo_ext.sb3.integrity import lost_episodes
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv
from tests.sb3.integrity.faulty import guarded_model
from tests.sb3.spaces import BOX, VECTOR

ENDS = "a wrapper outside the Monitor ends episodes of environment"


class Walk(gym.Env):
    """Step n of an episode earns n; the episode ends after some steps."""

    observation_space, action_space = VECTOR, BOX

    def __init__(self, n_steps: int = 12) -> None:
        self.n_steps, self.age = n_steps, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.age = 0
        return np.zeros(VECTOR.shape, np.float32), {}

    def step(self, action: Any) -> Any:
        self.age += 1
        return np.zeros(VECTOR.shape, np.float32), float(self.age), self.age == self.n_steps, False, {}


class Ends(gym.Wrapper):
    """Terminates after some steps; and lets the next reset through, or begins another life in the same episode."""

    def __init__(self, env: gym.Env, after: int = 4, lives: bool = False, noops: int = 0) -> None:
        super().__init__(env)
        self.after, self.lives, self.noops = after, lives, noops
        self.n_steps, self.over = 0, True

    def reset(self, **kwargs: Any) -> Any:
        self.n_steps = 0
        if self.lives and not self.over:
            return self.env.step(np.zeros(BOX.shape, np.float32))[0], {}
        self.over = False
        found = self.env.reset(**kwargs)
        for _ in range(self.noops):
            self.env.step(np.zeros(BOX.shape, np.float32))
        return found

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.n_steps += 1
        self.over = terminated
        return obs, reward, terminated or self.n_steps == self.after, truncated, info


def limited() -> gym.Env:
    return TimeLimit(Monitor(Walk()), 5)


def evaluate(make: Any, cls: Any = DummyVecEnv, n_envs: int = 2, above: Any = None, **kwargs: Any) -> EvalCallback:
    env = cls([make] * n_envs, **kwargs)
    callback = EvalCallback(above(env) if above else env, n_eval_episodes=4, eval_freq=8, verbose=0, warn=False)
    callback.eval_env.training = False
    trained = DummyVecEnv([lambda: Monitor(Walk())])
    model = guarded_model(VecNormalize(trained) if above is VecNormalize else trained, on_nonfinite="raise")
    try:
        model.learn(16, callback=callback)
    finally:
        env.close()
    return callback


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [(DummyVecEnv, {}), (FastDummyVecEnv, {}), (SubprocVecEnv, {"start_method": "fork"})],
    ids=["dummy", "fast", "subproc"],
)
def test_a_time_limit_outside_the_monitor(cls: Any, kwargs: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=f"{ENDS} 0 of the evaluation") as warned:
        callback = evaluate(limited, cls, **kwargs)
    assert callback.last_mean_reward == 1 + 2 + 3 + 4 + 5
    assert sum(ENDS in str(each.message) for each in warned) == 1


def test_below_a_vec_normalize() -> None:
    with pytest.warns(UserWarning, match=ENDS):
        assert evaluate(limited, above=VecNormalize).last_mean_reward == 15


@pytest.mark.parametrize("noops", [0, 3])
def test_a_wrapper_that_terminates_and_one_whose_reset_steps(noops: int) -> None:
    with pytest.warns(UserWarning, match=ENDS):
        callback = evaluate(lambda: Ends(Monitor(Walk(100)), noops=noops))
    assert callback.last_mean_reward == sum(range(noops + 1, noops + 5))


def test_lives_that_are_lost_are_no_episodes() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{ENDS}")
        callback = evaluate(lambda: Ends(Monitor(Walk(12)), lives=True))
    assert callback.last_mean_reward == sum(range(1, 13))


@pytest.mark.parametrize("above", [None, VecMonitor])
def test_monitors_that_notice(above: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{ENDS}")
        callback = evaluate(limited if above else lambda: Monitor(TimeLimit(Walk(), 5)), above=above)
    assert callback.last_mean_reward == 15


def test_an_evaluation_that_would_never_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_episodes, "ENDINGS", 20)
    with pytest.raises(EpisodeError, match="environment 0 of the evaluation has ended 20 times without an end of its Monitor"):
        evaluate(lambda: Ends(Monitor(Walk(10**9)), lives=True))


@pytest.mark.parametrize("loop", ["ours", "sb3's"])
def test_the_training_counts_them_too_across_rollouts(loop: str) -> None:
    model = guarded_model(DummyVecEnv([lambda: TimeLimit(Monitor(Walk(50)), 20)] * 2), on_nonfinite="raise")
    with pytest.warns(UserWarning, match=f"{ENDS} 0 "):
        model.learn(160, callback=None if loop == "ours" else lambda *_: True)
    assert [(episode["r"], episode["l"]) for episode in model.ep_info_buffer] == [(210.0, 20)] * 8


class Hides(gym.Wrapper):
    """A wrapper outside the Monitor that has something of its own under the Monitor's names."""

    def __init__(self, env: gym.Env, rewards: Any) -> None:
        super().__init__(env)
        self._rewards = rewards

    @property
    def rewards(self) -> Any:
        if self._rewards is None:
            raise RuntimeError("nothing yet")
        return self._rewards

    def get_total_steps(self) -> int:
        return 0


HIDDEN = {
    "a dict": {"upright": 1.0, "ctrl": -0.1},
    "a number": 0.5,
    "empty": [],
    "texts": ["a"],
    "a property that raises": None,
}


@pytest.mark.parametrize("rewards", HIDDEN.values(), ids=HIDDEN.keys())
def test_attributes_that_hide_the_monitors_do_not_matter(rewards: Any) -> None:
    """Monitors in this process are asked themselves."""
    with pytest.warns(UserWarning, match=ENDS):
        callback = evaluate(lambda: Hides(limited(), rewards))
    assert callback.last_mean_reward == 15.0
    env = DummyVecEnv([lambda: Hides(Ends(Monitor(Walk()), lives=True), rewards)])
    model = guarded_model(env, on_nonfinite="raise")
    model.learn(32)
    # Lives that are lost are no episodes: the Monitor reports twelve steps.
    assert {episode["l"] for episode in model.ep_info_buffer} == {12}


@pytest.mark.parametrize("rewards", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_monitor_in_a_worker_is_not_asked(rewards: Any) -> None:
    """Whatever a wrapper there answers or raises: what a time limit cuts off is counted, and lost lives are no episodes."""
    lengths = []
    for ends in (lambda: TimeLimit(Monitor(Walk()), 5), lambda: Ends(Monitor(Walk()), lives=True)):
        env = SubprocVecEnv([lambda ends=ends: Hides(ends(), rewards)], start_method="fork")
        model = guarded_model(env, on_nonfinite="raise")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.learn(32)
        lengths.append({(episode["r"], episode["l"]) for episode in model.ep_info_buffer})
        env.close()
    assert lengths == [{(15.0, 5)}, {(78.0, 12)}]


def test_an_episode_in_a_worker_that_began_unseen_is_not_reported() -> None:
    env = SubprocVecEnv([limited], start_method="fork")
    watched = lost_episodes.LostEpisodes(env)
    env.reset()
    env.step(np.zeros((1, *BOX.shape), np.float32))
    found = []
    for _ in range(9):
        _, rewards, dones, infos = env.step(np.zeros((1, *BOX.shape), np.float32))
        found += [info["episode"]["l"] for info in watched.report(rewards, dones, infos, False) if "episode" in info]
    assert found == [5]
    env.close()
