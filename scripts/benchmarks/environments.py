"""What stands between a simulator and an algorithm: wrappers, and processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize

HEAVY = "Heavy"
HEAVY_SECONDS = 5e-3
"""A step of a renderer, a contact-rich scene or a network of the environment's own."""

MakeEnv = Callable[[], gym.Env]


class Heavy(gym.Env):
    """A simulator that computes for 5 ms a step: nothing but time, on a core of its own."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (17,))
        self.action_space = spaces.Box(-1.0, 1.0, (6,))
        self._observation = np.zeros(17, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        return self._observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Compute."""
        end = time.process_time() + HEAVY_SECONDS
        while time.process_time() < end:
            pass
        return self._observation, 0.0, False, False, {}


def monitored(task: str) -> gym.Env:
    """
    Make an environment as SB3 does.

    :param task: environment id, or ``HEAVY``
    :return: the environment in a Monitor
    """
    return Monitor(Heavy() if task == HEAVY else gym.make(task))


class GroupedVecEnv(VecEnv):
    """
    As many processes as asked for, each of which steps its share of the environments one after another.

    (Only what a measurement needs of a VecEnv.)

    :param env_fns: what makes each environment
    :param n_processes: how many processes
    """

    def __init__(self, env_fns: list[MakeEnv], n_processes: int):
        context = multiprocessing.get_context("forkserver")
        self._shares = np.array_split(np.arange(len(env_fns)), n_processes)
        self._pipes: list[Connection] = []
        for share in self._shares:
            ours, theirs = context.Pipe()
            made = cloudpickle.dumps([env_fns[index] for index in share])
            context.Process(target=_serve, args=(theirs, made), daemon=True).start()
            theirs.close()
            self._pipes.append(ours)
        self._pipes[0].send(("spaces", None))
        super().__init__(len(env_fns), *self._pipes[0].recv())

    def step_async(self, actions: np.ndarray) -> None:
        """Send each process its actions."""
        for pipe, share in zip(self._pipes, self._shares, strict=True):
            pipe.send(("step", actions[share]))

    def step_wait(self) -> Any:
        """Wait for all of them."""
        observations, rewards, dones, infos = zip(*(pipe.recv() for pipe in self._pipes), strict=True)
        return np.concatenate(observations), np.concatenate(rewards), np.concatenate(dones), list(chain(*infos))

    def reset(self) -> Any:
        """Begin anew everywhere."""
        for pipe in self._pipes:
            pipe.send(("reset", None))
        return np.concatenate([pipe.recv() for pipe in self._pipes])

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(("close", None))
            pipe.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """VecEnv's constructor asks for ``render_mode``."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not measured."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Not measured."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Not measured."""
        return [False] * self.num_envs


def _serve(pipe: Connection, made: bytes) -> None:
    """Run in a process: step one share of the environments."""
    env = FastDummyVecEnv(cloudpickle.loads(made))
    while True:
        command, data = pipe.recv()
        if command == "step":
            pipe.send(env.step(data))
        elif command == "reset":
            pipe.send(env.reset())
        elif command == "spaces":
            pipe.send((env.observation_space, env.action_space))
        else:
            return


class Stepped:
    """
    Environments that are stepped with random actions.

    :param name: for the tables
    :param task: environment id, or ``HEAVY``
    :param n_envs: how many
    :param make: list of what makes each environment -> the VecEnv
    """

    def __init__(self, name: str, task: str, n_envs: int, make: Callable[[list[MakeEnv]], VecEnv]):
        self.name = name
        self.env = make([partial(monitored, task) for _ in range(n_envs)])
        self.env.action_space.seed(0)
        self._actions = [np.stack([self.env.action_space.sample() for _ in range(n_envs)]) for _ in range(64)]
        self.env.reset()

    def train(self, steps: int) -> tuple[dict[str, float], int]:
        """
        Step.

        :param steps: of all environments together, at least
        :return: seconds, and the steps that were made
        """
        rounds = -(-steps // self.env.num_envs)
        start = time.perf_counter()
        for index in range(rounds):
            self.env.step(self._actions[index % len(self._actions)])
        return {"step": time.perf_counter() - start}, rounds * self.env.num_envs

    def close(self) -> None:
        """End processes."""
        self.env.close()


class Unwrapped(Stepped):
    """
    The same environments in their Monitors, without a VecEnv.

    :param name: for the tables
    :param task: environment id, or ``HEAVY``
    :param n_envs: how many
    :param bare: the simulator alone: no Monitor, none of gymnasium's wrappers
    """

    def __init__(self, name: str, task: str, n_envs: int, bare: bool):
        super().__init__(name, task, n_envs, DummyVecEnv)
        self._bare = bare
        self._limit = getattr(self.env.envs[0].spec, "max_episode_steps", None) or 10**9
        self._steps = [0] * n_envs

    def train(self, steps: int) -> tuple[dict[str, float], int]:
        """
        Step.

        :param steps: of all environments together, at least
        :return: seconds, and the steps that were made
        """
        envs = [env.unwrapped if self._bare else env for env in self.env.envs]
        for env in self.env.envs:
            env.reset()
        rounds = -(-steps // len(envs))
        start = time.perf_counter()
        for round_ in range(rounds):
            actions = self._actions[round_ % len(self._actions)]
            for index, env in enumerate(envs):
                _, _, terminated, truncated, _ = env.step(actions[index])
                self._steps[index] += 1
                if terminated or truncated or (self._bare and self._steps[index] >= self._limit):
                    env.reset()
                    self._steps[index] = 0
        return {"step": time.perf_counter() - start}, rounds * len(envs)


BARE, MONITOR = "simulator", "and Monitor"
DUMMY, NORMALIZE = "DummyVecEnv", "VecNormalize"


def wrapper_sides(task: str, n_envs: int) -> list[Stepped]:
    """
    Stack SB3's wrappers, and ours, one after another.

    :param task: environment id
    :param n_envs: environments
    :return: each side adds one wrapper
    """
    return [
        Unwrapped(BARE, task, n_envs, bare=True),
        Unwrapped(MONITOR, task, n_envs, bare=False),
        Stepped(DUMMY, task, n_envs, DummyVecEnv),
        Stepped(f"Fast{DUMMY}", task, n_envs, FastDummyVecEnv),
        Stepped(NORMALIZE, task, n_envs, lambda fns: VecNormalize(DummyVecEnv(fns))),
        Stepped(f"Fast{NORMALIZE}", task, n_envs, lambda fns: FastVecNormalize(DummyVecEnv(fns))),
    ]


def process_sides(task: str, n_envs: int, n_processes: int) -> list[Stepped]:
    """
    Step the same environments in one process, in a few, and in one for each.

    :param task: environment id, or ``HEAVY``
    :param n_envs: environments
    :param n_processes: the few
    :return: the sides
    """
    sides = [
        Stepped(DUMMY, task, n_envs, DummyVecEnv),
        Stepped(f"Fast{DUMMY}", task, n_envs, FastDummyVecEnv),
        Stepped("SubprocVecEnv", task, n_envs, partial(SubprocVecEnv, start_method="forkserver")),
    ]
    if n_processes < n_envs:
        sides.append(Stepped(f"{n_processes} processes", task, n_envs, lambda fns: GroupedVecEnv(fns, n_processes)))
    return sides
