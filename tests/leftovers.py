"""What a refused configuration must not leave behind: files, open files, threads, processes, environments."""

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

AT_HOME = "Counted-v0"


class Counted(gym.Env[Any, Any]):
    """An environment that knows how many of its kind are open; its spaces are what somebody asks for."""

    open = 0

    def __init__(self, observation: Any = None, action: Any = None, render_mode: str | None = None) -> None:
        if observation == "broken":
            raise RuntimeError("no\nrobot there")
        self.observation_space = SPACES.get(observation, spaces.Box(-1, 1, (3,)))
        self.action_space = SPACES.get(action, spaces.Discrete(2))
        Counted.open += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}

    def close(self) -> None:
        Counted.open -= 1


BOX = spaces.Box(-1, 1, (2,))
SPACES: dict[Any, spaces.Space[Any]] = {
    "tuple": spaces.Tuple([BOX, BOX]),
    "dict": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}),
    "nested": spaces.Dict({"a": spaces.Dict({"b": BOX})}),
    "point in a key": spaces.Dict({"arm.left": BOX}),
    "key of torch's": spaces.Dict({"keys": BOX}),
    "text": spaces.Text(5),
    "infinite": spaces.Box(-np.inf, np.inf, (2,)),
    "half": spaces.Box(np.array([-1, -np.inf]), np.array([1, 1]), dtype=np.float64),
    "nan": spaces.Box(-1, 1, (2,)),
    "nothing": spaces.Box(-1, 1, (0,)),
    "grid": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "bits": spaces.MultiBinary([2, 3]),
    "integers": spaces.Box(0, 5, (2,), dtype=np.int64),
    "point": spaces.Box(-1, 1, ()),
    "from one": spaces.Discrete(3, start=1),
    "parts from one": spaces.MultiDiscrete([3, 4], start=[0, 1]),
    "image": spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8),
}
SPACES["nan"].low[1] = np.nan  # type: ignore[attr-defined]  # Gymnasium refuses it, a simulator may still do it


def as_it_is(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """A function for a wrapper."""
    return env


def register() -> None:
    """Under ``AT_HOME``, once."""
    if AT_HOME not in gym.registry:
        gym.register(AT_HOME, entry_point=Counted, disable_env_checker=True, order_enforce=False)


def _there() -> dict[str, Any]:
    return {
        "files": sorted(str(path) for path in Path().rglob("*")),
        "open files": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_file(fd)),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "processes": [child.pid for child in multiprocessing.active_children()],
        "environments": Counted.open,
    }


def _is_file(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/")
    except OSError:
        return False


@contextmanager
def nothing_left() -> Iterator[None]:
    """As before, after this."""
    gc.collect()  # what earlier tests have left is not closed in between
    before = _there()
    yield
    assert _there() == before
