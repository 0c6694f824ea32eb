"""The fast wrappers against SB3's: the same numbers, files and classes; nothing that a later step changes."""

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    is_vecenv_wrapped,
    sync_envs_normalization,
    unwrap_vec_normalize,
)

from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize, update
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, RandomEnv, make_model

FLOAT32_BOX = spaces.Box(-1.0, 1.0, (4,))
BODIES = {
    "float32": FLOAT32_BOX,
    "float64": spaces.Box(-1.0, 1.0, (4,), np.float64),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "dict": spaces.Dict({"body": FLOAT32_BOX, "more": spaces.Box(-1.0, 1.0, (2,), np.float64)}),
    "images": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "number": spaces.Box(-1.0, 1.0, ()),
}


class Talkative(RandomEnv):
    """Infos of many kinds, one of which the environment writes into again and again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reused = np.zeros(2)

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        self.reused += 1.0
        info = {"number": np.float64(self.step_count), "text": "x", "list": [self.step_count], "array": self.reused}
        return (*rest, {**info, "nested": {"none": None, "array": self.reused}})


def make(vec: type, observation_space: spaces.Space, n_envs: int = 3, kind: type = Talkative) -> VecEnv:
    env = vec([lambda: Monitor(kind(observation_space, ACTIONS["box"][0])) for _ in range(n_envs)])
    env.seed(3)
    return env


def actions(steps: int, n_envs: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (steps, n_envs, 3)).astype(np.float32)


def plain(value: Any) -> Any:
    """Without the clock's time, and with dtypes."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != "t"}
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return (type(value), value)


def history(env: VecEnv, steps: int = 60) -> list[Any]:
    """Everything that an environment says; read at the end, so that what a later step overwrites shows."""
    said: list[Any] = [env.reset()]
    said += [env.step(action) for action in actions(steps)]
    return [plain(part) for part in said]


@pytest.mark.parametrize("body", BODIES)
def test_the_environments_say_the_same(body: str) -> None:
    assert history(make(FastDummyVecEnv, BODIES[body])) == history(make(DummyVecEnv, BODIES[body]))


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "no_reward": {"norm_reward": False},
    "no_observations": {"norm_obs": False},
    "frozen": {"training": False},
    "tight": {"clip_obs": 0.5, "clip_reward": 0.1, "gamma": 0.5, "epsilon": 1e-2},
}


def statistics_of(env: VecNormalize) -> Any:
    observations = getattr(env, "obs_rms", None)
    kept = list(observations.values()) if isinstance(observations, dict) else [observations]
    return [plain([rms.mean, rms.var, rms.count]) for rms in [*kept, env.ret_rms] if rms is not None]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("body", BODIES)
def test_normalised_bit_for_bit(body: str, settings: str) -> None:
    ours = FastVecNormalize(make(FastDummyVecEnv, BODIES[body]), **SETTINGS[settings])
    theirs = VecNormalize(make(DummyVecEnv, BODIES[body]), **SETTINGS[settings])
    assert history(ours) == history(theirs)
    assert statistics_of(ours) == statistics_of(theirs)
    assert plain(ours.returns) == plain(theirs.returns)
    assert plain(ours.get_original_obs()) == plain(theirs.get_original_obs())
    assert plain(ours.get_original_reward()) == plain(theirs.get_original_reward())


def test_only_some_keys_of_a_dict() -> None:
    ours, theirs = (
        normalize(make(vec, BODIES["dict"]), norm_obs_keys=["more"])
        for vec, normalize in ((FastDummyVecEnv, FastVecNormalize), (DummyVecEnv, VecNormalize))
    )
    assert history(ours) == history(theirs)
    assert statistics_of(ours) == statistics_of(theirs)


NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(arrays(st.sampled_from([np.float32, np.float64]), array_shapes(min_dims=1, max_dims=3, max_side=9), elements=NUMBERS))
def test_statistics_are_updated_bit_for_bit(batch: np.ndarray) -> None:
    ours, theirs = RunningMeanStd(shape=batch.shape[1:]), RunningMeanStd(shape=batch.shape[1:])
    for part in (batch, batch[:1] * 3, batch[::-1] + 1):
        update(ours, part)
        theirs.update(part)
        assert plain([ours.mean, ours.var, ours.count]) == plain([theirs.mean, theirs.var, theirs.count])


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8, np.int64, bool])
def test_statistics_of_other_types_are_sb3s(dtype: type) -> None:
    batch = np.arange(40).reshape(10, 4).astype(dtype)
    ours, theirs = RunningMeanStd(shape=(4,)), RunningMeanStd(shape=(4,))
    update(ours, batch)
    theirs.update(batch)
    assert plain([ours.mean, ours.var, ours.count]) == plain([theirs.mean, theirs.var, theirs.count])


class OwnStatistics(RunningMeanStd):
    def update(self, arr: np.ndarray) -> None:
        self.count += 100


class Own(FastVecNormalize):
    def _update_reward(self, reward: np.ndarray) -> None:
        self.seen = [*getattr(self, "seen", []), float(reward.sum())]
        super()._update_reward(reward)


def test_a_users_own_statistics_and_subclasses_are_obeyed(tmp_path: Path) -> None:
    env = Own(make(FastDummyVecEnv, FLOAT32_BOX))
    env.obs_rms = OwnStatistics(shape=(4,))
    history(env, 3)
    assert env.obs_rms.count == pytest.approx(400)
    assert len(env.seen) == 3
    env.save(str(tmp_path / "own.pkl"))
    loaded = FastVecNormalize.load(str(tmp_path / "own.pkl"), make(FastDummyVecEnv, FLOAT32_BOX))
    assert type(loaded) is Own
    assert loaded.seen == env.seen


def test_an_info_that_is_more_than_a_dictionary_stays_what_it_is() -> None:
    class Defaults(RandomEnv):
        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return (*rest, collections.defaultdict(int, info))

    env = make(FastDummyVecEnv, FLOAT32_BOX, kind=Defaults)
    env.reset()
    assert env.step(actions(1)[0])[3][0]["missing"] == 0


def test_observations_that_are_not_normalised_are_copies() -> None:
    env = FastVecNormalize(make(FastDummyVecEnv, BODIES["dict"]), norm_obs_keys=["more"])
    first = env.reset()
    kept = env.get_original_obs()["body"].copy()
    first["body"] += 1.0
    assert np.array_equal(env.get_original_obs()["body"], kept)


def test_nan_and_infinity_go_through_as_in_sb3s() -> None:
    class Broken(RandomEnv):
        def observe(self) -> Any:
            return super().observe() * (np.nan if self.step_count == 3 else np.inf if self.step_count == 5 else 1.0)

    with np.errstate(all="ignore"):
        ours = history(FastVecNormalize(make(FastDummyVecEnv, FLOAT32_BOX, kind=Broken)), 8)
        theirs = history(VecNormalize(make(DummyVecEnv, FLOAT32_BOX, kind=Broken)), 8)
    assert ours == theirs


def test_the_pickle_is_sb3s_and_loads_as_either(tmp_path: Path) -> None:
    ours, theirs = FastVecNormalize(make(FastDummyVecEnv, FLOAT32_BOX)), VecNormalize(make(DummyVecEnv, FLOAT32_BOX))
    history(ours)
    history(theirs)
    ours.save(str(tmp_path / "ours.pkl"))
    theirs.save(str(tmp_path / "theirs.pkl"))
    assert b"sb3_trpo_ext" not in (tmp_path / "ours.pkl").read_bytes()
    written, expected = (pickle.loads((tmp_path / name).read_bytes()) for name in ("ours.pkl", "theirs.pkl"))
    assert type(written) is VecNormalize
    assert written.__dict__.keys() == expected.__dict__.keys()
    assert statistics_of(written) == statistics_of(expected)
    fast = FastVecNormalize.load(str(tmp_path / "theirs.pkl"), make(FastDummyVecEnv, FLOAT32_BOX))
    slow = VecNormalize.load(str(tmp_path / "ours.pkl"), make(DummyVecEnv, FLOAT32_BOX))
    assert (type(fast), type(slow)) == (FastVecNormalize, VecNormalize)
    assert history(fast) == history(slow)


def test_sb3_takes_them_for_its_own() -> None:
    env = FastVecNormalize(make(FastDummyVecEnv, FLOAT32_BOX))
    assert isinstance(env.unwrapped, DummyVecEnv)
    assert unwrap_vec_normalize(env) is env
    assert is_vecenv_wrapped(env, VecNormalize)
    history(env)
    other = VecNormalize(make(DummyVecEnv, FLOAT32_BOX), training=False)
    sync_envs_normalization(env, other)
    assert statistics_of(other) == statistics_of(env)


def test_what_was_given_out_is_not_what_is_kept() -> None:
    env = FastVecNormalize(make(FastDummyVecEnv, FLOAT32_BOX), norm_obs=False)
    first = env.reset()
    kept = first.copy()
    first += 1.0
    assert np.array_equal(env.get_original_obs(), kept)
    observations, rewards, dones, infos = env.step(actions(1)[0])
    before = [plain(part) for part in (observations, rewards, dones, infos)]
    for action in actions(30):
        env.step(action)
    assert [plain(part) for part in (observations, rewards, dones, infos)] == before


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_a_training_in_them_is_the_training_in_sb3s(observation: str) -> None:
    def train(vec: Callable[..., Any], normalize: Callable[..., Any]) -> Any:
        env = vec([lambda: Monitor(RandomEnv(OBSERVATIONS[observation][0], ACTIONS["box"][0])) for _ in range(2)])
        env.seed(0)
        env = normalize(env, norm_obs=observation == "vector")
        return make_model(observation=observation, env=env, n_steps=32).learn(192)

    ours, theirs = train(FastDummyVecEnv, FastVecNormalize), train(DummyVecEnv, VecNormalize)
    a, b = ([p.detach().numpy().tobytes() for p in model.policy.parameters()] for model in (ours, theirs))
    assert a == b


def test_one_environment_given_twice_is_refused_as_by_sb3() -> None:
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="same instance"):
        FastDummyVecEnv([lambda: env, lambda: env])
