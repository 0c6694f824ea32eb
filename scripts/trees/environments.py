"""Small seeded environments in every action and observation space, and one with a broken sensor."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

HORIZON, END_PROBABILITY = 20, 0.05
"""Episodes are short and of unequal length, so that a rollout of 32 steps has several ends."""

BROKEN_EVERY = 45
"""Steps between two NaN observations: less than two rollouts, so that each training has some."""

BOX = spaces.Box(-2.0, 2.0, (3,))
ACTIONS: dict[str, spaces.Space] = {
    "Box": BOX,
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
}
VECTOR = spaces.Box(-1.0, 1.0, (6,))
OBSERVATIONS: dict[str, spaces.Space] = {
    "Box": VECTOR,
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([4, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict({"body": VECTOR, "mode": spaces.Discrete(3)}),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
}


class SmallEnv(gym.Env):
    """
    Random observations; the reward depends on observation and action.

    :param observations: a key of ``OBSERVATIONS``
    :param actions: a key of ``ACTIONS``
    :param broken: whether an observation is NaN now and then (Box only)
    """

    def __init__(self, observations: str = "Box", actions: str = "Box", broken: bool = False):
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]
        self.broken = broken
        self.steps = self.all_steps = 0

    def _draw(self, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return {name: self._draw(part) for name, part in space.spaces.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.np_random.integers(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            return self.np_random.integers(space.nvec).astype(space.dtype)
        if isinstance(space, spaces.MultiBinary):
            return self.np_random.integers(0, 2, space.shape, dtype=np.int8)
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, dtype=np.uint8)
        return self.np_random.uniform(-1.0, 1.0, space.shape).astype(space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode.

        :param seed: as in Gymnasium
        :param options: ignored
        :return: observation and an empty dictionary
        """
        super().reset(seed=seed)
        self.steps, self.seen = 0, self._draw(self.observation_space)
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Make a step.

        :param action: in the action space
        :return: as in Gymnasium
        """
        seen = self.seen["body"] if isinstance(self.seen, dict) else self.seen
        signal = float(np.asarray(seen, dtype=np.float64).reshape(-1)[:2].sum())
        chosen = np.asarray(action, dtype=np.float64).reshape(-1)
        reward = signal * float(chosen[0]) - 0.5 * float((chosen**2).mean())
        self.steps, self.all_steps, self.seen = self.steps + 1, self.all_steps + 1, self._draw(self.observation_space)
        ended = bool(self.np_random.random() < END_PROBABILITY)
        shown = np.full_like(self.seen, np.nan) if self.broken and self.all_steps % BROKEN_EVERY == 0 else self.seen
        return shown, reward, ended, self.steps >= HORIZON, {}
