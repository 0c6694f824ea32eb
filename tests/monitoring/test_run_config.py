"""The config of a run: every hyperparameter, as plain values, of any size and kind."""

import inspect
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from rl_zoo3.utils import SimpleLinearSchedule
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring.bounded import HIDDEN
from sb3_trpo_ext.monitoring.run_config import (
    ENTRIES,
    NOT_HYPERPARAMETERS,
    TEXT,
    environment,
    hyperparameters,
    plain,
    run_config,
)
from tests.monitoring.wandb_runs import FAKE_KEY


def halved(progress: float) -> float:
    return 0.1 * progress


def test_every_argument_of_the_constructor_is_there() -> None:
    kwargs = {"net_arch": {"pi": [8], "vf": [16]}, "activation_fn": torch.nn.ReLU}
    model = TRPO("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, learning_rate=halved, target_kl=0.02, device="cpu")
    config = run_config(model)["sb3_trpo_ext"]
    arguments = set(inspect.signature(TRPO.__init__).parameters) - NOT_HYPERPARAMETERS
    assert arguments <= set(config["trpo"])
    assert config["trpo"]["policy_kwargs"] == {
        "net_arch": {"pi": [8], "vf": [16]},
        "activation_fn": "torch.nn.modules.activation.ReLU",
    }
    assert config["trpo"]["learning_rate"] == "tests.monitoring.test_run_config.halved"
    assert (config["trpo"]["target_kl"], config["trpo"]["device"], config["trpo"]["seed"]) == (0.02, "cpu", None)
    assert config["environment"]["id"] == "Pendulum-v1"
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        ((1, None, True), [1, None, True]),
        ({1: {"a": {2}}}, {"1": {"a": [2]}}),
        (torch.device("cpu"), "cpu"),
        (torch.float32, "torch.float32"),
        (torch.zeros(1000), "torch.Tensor"),
        (object(), "builtins.object"),
        (ConstantSchedule(0.25), 0.25),
        (LinearSchedule(1.0, 0.0, 0.5), "LinearSchedule: 1 at the start, 0 half way, 0 at the end"),
        (SimpleLinearSchedule("0.2"), "SimpleLinearSchedule: 0.2 at the start, 0.1 half way, 0 at the end"),
        (FloatSchedule(LinearSchedule(1.0, 0.0, 0.5)), "LinearSchedule: 1 at the start, 0 half way, 0 at the end"),
        (FloatSchedule(halved), "tests.monitoring.test_run_config.halved"),
        (lambda: 3, "<lambda>"),
        ("x" * 5000, "x" * TEXT),
        (range(5), "builtins.range"),
    ],
)
def test_values_become_plain(value: Any, expected: Any) -> None:
    found = plain(value)
    if expected == "<lambda>":
        assert found.endswith("<lambda>")
    else:
        assert (found, type(found)) == (expected, type(expected))


def test_it_is_bounded_and_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert len(json.dumps(plain(endless))) < 200
    assert len(plain(list(range(10_000)))) == ENTRIES
    assert plain({"extractor": {"token": f"Bearer {FAKE_KEY}"}}) == {"extractor": {"token": f"Bearer {HIDDEN}"}}
    assert plain({FAKE_KEY: 1}) == {HIDDEN: 1}
    for n_before in range(TEXT - len(FAKE_KEY), TEXT):
        assert FAKE_KEY[:8] not in plain("x" * n_before + FAKE_KEY)


class Counts:
    """A schedule with a memory."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, progress: float) -> float:
        self.calls += 1
        return 1e-3 / self.calls


def test_a_schedule_with_a_memory_is_not_called() -> None:
    schedule = Counts()
    model = TRPO("MlpPolicy", "CartPole-v1", learning_rate=schedule, device="cpu")
    before = schedule.calls
    assert hyperparameters(model)["learning_rate"] == "tests.monitoring.test_run_config.Counts"
    assert schedule.calls == before


class Passes(TRPO):
    def __init__(self, *args: Any, mine: int = 1, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mine = mine


class Fixes(TRPO):
    def __init__(self, env: str):
        super().__init__("MlpPolicy", env, gamma=0.9, device="cpu")


def test_a_subclass_says_what_it_hands_on_and_what_it_fixes() -> None:
    arguments = set(inspect.signature(TRPO.__init__).parameters) - NOT_HYPERPARAMETERS
    passed = hyperparameters(Passes("MlpPolicy", "CartPole-v1", gamma=0.9, mine=3, device="cpu"))
    fixed = hyperparameters(Fixes("CartPole-v1"))
    assert (passed["gamma"], passed["mine"], fixed["gamma"]) == (0.9, 3, 0.9)
    assert arguments <= set(passed)
    assert arguments <= set(fixed)
    # SB3's, which TRPO does not use.
    assert not {"ent_coef", "kwargs", "args"} & set(passed)


def test_the_environments_arguments_and_its_normalisation() -> None:
    env = make_vec_env("CartPole-v1", env_kwargs={"sutton_barto_reward": True})
    plainly = environment(TRPO("MlpPolicy", env, device="cpu"))
    assert plainly["kwargs"]["sutton_barto_reward"] is True
    assert plainly["vec_normalize"] is None
    normalised = environment(TRPO("MlpPolicy", VecNormalize(env, clip_obs=7.0, norm_reward=False), device="cpu"))
    settings = normalised["vec_normalize"]
    assert (settings["clip_obs"], settings["norm_reward"], settings["norm_obs"]) == (7.0, False, True)


def test_workers_survive_a_specification_that_cant_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Here-v0", gym.envs.registration.EnvSpec("Here-v0", lambda **_: CartPoleEnv()))
    env = make_vec_env("Here-v0", n_envs=2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})
    model = TRPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu")
    assert environment(model)["id"] == "Here-v0"
    model.learn(64)
    env.close()
