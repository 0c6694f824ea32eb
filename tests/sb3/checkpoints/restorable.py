"""A small task whose state can be restored, and trainings on it that are broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_trpo_ext import TRPO

N_STEPS, N_ENVS = 32, 2
BATCH = N_STEPS * N_ENVS


class Walk(gym.Env):
    """A noisy walk that is rewarded for staying near 0, in episodes of random length."""

    def __init__(self, action: str = "box", observation: str = "box"):
        box = spaces.Box(-10.0, 10.0, (3,), np.float32)
        self.observation_space = spaces.Dict({"walk": box, "age": spaces.Discrete(64)}) if observation == "dict" else box
        self.action_space = spaces.Discrete(3) if action == "discrete" else spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.walk, self.age = np.zeros(3, np.float32), 0

    def _observe(self) -> Any:
        return (
            {"walk": self.walk.copy(), "age": self.age}
            if isinstance(self.observation_space, spaces.Dict)
            else self.walk.copy()
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.walk, self.age = self.np_random.normal(size=3).astype(np.float32), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = np.mean(action) - (1.0 if isinstance(self.action_space, spaces.Discrete) else 0.0)
        self.walk = np.clip(0.9 * self.walk + push + 0.1 * self.np_random.normal(size=3), -10, 10).astype(np.float32)
        self.age += 1
        over = bool(self.np_random.random() < 0.05)
        return self._observe(), -float(np.square(self.walk).mean()), over, self.age == 60, {}

    def state_dict(self) -> dict[str, Any]:
        return {"walk": self.walk, "age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.walk, self.age = state["walk"], state["age"]


def walks(folder: Path | None, normalised: bool = False, append: bool = False, **kwargs: Any) -> VecEnv:
    def made(index: int) -> Any:
        name = None if folder is None else str(folder / str(index))
        return lambda: Monitor(Walk(**kwargs), name, override_existing=not append)

    env = DummyVecEnv([made(index) for index in range(N_ENVS)])
    env.seed(7)
    return VecNormalize(env, gamma=0.9) if normalised else env


def trpo(env: VecEnv, folder: Path | None, **kwargs: Any) -> TRPO:
    settings = {
        **{"policy": "MlpPolicy", "n_steps": N_STEPS, "batch_size": 16, "n_critic_updates": 2, "seed": 5, "device": "cpu"},
        **{"kl_reduction": "joint", "warn_on_risky": False, "policy_kwargs": {"net_arch": [8]}, "gamma": 0.9},
        "log_folder": None if folder is None else str(folder),
    }
    return TRPO(env=env, **(settings | kwargs))


def numbers(model: TRPO) -> torch.Tensor:
    """Everything that training changes in a policy and its optimiser, as one vector."""
    states = model.policy.optimizer.state_dict()["state"].values()
    held = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return torch.cat([part.detach().double().flatten() for part in [*model.policy.state_dict().values(), *held]])


class Shrink(BaseCallback):
    """A trust region that shrinks as training goes on."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.model.target_kl = 0.02 * (0.1 + 0.9 * self.model._current_progress_remaining)
