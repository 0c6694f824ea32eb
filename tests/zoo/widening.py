"""A task whose observations change while a policy trains: the best policy is an early one, behind early statistics."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

TASK = "Widening-v0"
LENGTH = 20
NARROW = 1200
"""Steps of an environment after which it shows the same thing ten times as wide. Evaluations are over before."""


class Widening(gym.Env):
    """Say what you see, around 100. Episodes are alike, so the mean reward of a policy is one number."""

    def __init__(self, render_mode: str | None = None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.render_mode = render_mode
        self.steps = self.age = 0

    def _seen(self) -> float:
        return float(np.linspace(-0.9, 0.9, LENGTH + 1)[self.age])

    def _observe(self) -> np.ndarray:
        width = 1.0 if self.steps < NARROW else 10.0
        return np.array([100.0 + width * self._seen()], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = 1.0 - abs(float(action[0]) - self._seen())
        self.steps += 1
        self.age += 1
        return self._observe(), reward, False, self.age == LENGTH, {}

    def render(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


gym.register(TASK, entry_point=Widening)
