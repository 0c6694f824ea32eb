"""Environments that go wrong at known steps, in every way that one can."""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import TRPO
from tests.sb3.spaces import BOX, VECTOR

FAULTS = ("observation", "reward", "both", "terminal", "time_limit", "reward_at_end")
DICT = spaces.Dict({"body": VECTOR, "mode": spaces.Discrete(3), "eye": spaces.Box(0, 255, (4,), np.uint8)})


class Faulty(gym.Env):
    """
    Episodes of ten steps, or fewer: at a faulty step it is the simulation that breaks.

    With ``limited`` the same environment, whose designer has put a time limit where the other breaks: the state stays, and the
    reward of that step is 0. All random numbers are the same.
    """

    def __init__(
        self,
        faults: Mapping[int, str] | None = None,
        bad: float = math.nan,
        limited: bool = False,
        observation_space: spaces.Space = VECTOR,
        action_space: spaces.Space = BOX,
        bad_resets: int = 0,
    ):
        self.faults, self.bad, self.limited = dict(faults or {}), bad, limited
        self.observation_space, self.action_space = observation_space, action_space
        self.bad_resets, self.life, self.age, self.resets = bad_resets, -1, 0, 0

    def draw(self, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self.draw(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.np_random.integers(space.n))
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, dtype=np.uint8)
        return self.np_random.uniform(-1.0, 1.0, space.shape).astype(space.dtype)

    def broken(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {key: self.broken(part) for key, part in observation.items()}
        if isinstance(observation, np.ndarray) and observation.dtype.kind == "f":
            observation = observation.copy()
            observation[1] = self.bad
        return observation

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age, self.seen = 0, self.draw(self.observation_space)
        self.resets += 1
        if self.bad_resets:
            self.bad_resets -= 1
            return self.broken(self.seen), {}
        return self.seen, {"resets": self.resets}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.life, self.age = self.life + 1, self.age + 1
        fault = self.faults.get(self.life)
        if fault == "reset":
            self.bad_resets += 1
        elif fault is not None:
            if self.limited:
                return self.seen, 0.0, False, True, {}
            seen = self.seen if fault.startswith("reward") else self.broken(self.seen)
            reward = self.bad if fault in ("reward", "both", "reward_at_end") else 1.0
            return seen, reward, fault in ("terminal", "reward_at_end"), fault == "time_limit", {}
        self.seen = self.draw(self.observation_space)
        body = self.seen["body"] if isinstance(self.seen, dict) else self.seen
        reward = float(np.asarray(body, float).reshape(-1)[0] - 0.1 * np.square(np.asarray(action, float)).sum())
        return self.seen, reward, fault == "reset" or self.age == 7, self.age == 10, {}


class OwnBuffer(RolloutBuffer):
    """SB3's loop must fill it."""

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)


class OwnDictBuffer(DictRolloutBuffer):
    """The same for dictionaries."""

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)


def faulty_vec(*faults: Mapping[int, str], cls: Any = DummyVecEnv, monitored: bool = True, **kwargs: Any) -> Any:
    """One environment for each table of faults."""

    def make(table: Mapping[int, str]) -> gym.Env:
        env = Faulty(table, **kwargs)
        return Monitor(env) if monitored else env

    return cls([lambda table=table: make(table) for table in faults])


def guarded_model(env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> TRPO:
    settings: dict[str, Any] = {"n_steps": 16, "n_critic_updates": 2, "seed": 0, "device": "cpu", "policy_kwargs": {}}
    settings |= {"kl_reduction": "mean", "warn_on_risky": False, "on_nonfinite": "truncate", **kwargs}
    settings["policy_kwargs"] = {"net_arch": [8], **settings["policy_kwargs"]}
    return TRPO(policy, env, batch_size=settings["n_steps"] * env.num_envs, **settings)


def statistics(env: VecNormalize) -> dict[str, np.ndarray]:
    """Everything that runs along in a VecNormalize."""
    found = {"returns": env.returns.copy()}
    named = env.obs_rms if isinstance(env.obs_rms, dict) else {"obs": env.obs_rms}
    for name, running in {**named, "ret": env.ret_rms}.items():
        found |= {f"{name}.{part}": np.array(getattr(running, part)) for part in ("mean", "var", "count")}
    return found


def equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
