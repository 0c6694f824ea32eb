"""
One update of a large batch or a large network, in a process of its own: its time, and how far its memory rose.

Memory on a CPU is the kernel's high-water mark of the resident memory, reset after the rollout was collected and the heap's
free pages were given back, less what stood there; on a GPU it is torch's. So rollout buffer and networks are not counted;
everything that the update makes of them is. A small update first loads the libraries' code. Linux and glibc.
"""

from __future__ import annotations

import ctypes
import gc
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo_ext

OURS, CONTRIB = "ours", "sb3-contrib"
MLP, LARGE_MLP, CNN = "mlp 64x64", "mlp 10M", "nature cnn"
WARM_UP_SAMPLES = 64
ENVS = 16
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True)
class Update:
    """
    What is measured.

    :param network: ``MLP``: 17 observations, 6 actions, as HalfCheetah; ``LARGE_MLP``: 348 and 17, as Humanoid, actor of three
        layers of 2,176 units (10.3 million parameters), critic of 256 and 256; ``CNN``: SB3's, 84x84x4 uint8 frames, 6 actions
    :param samples: in the batch
    :param side: ``OURS`` or ``CONTRIB``
    :param cg_steps: CG iterations
    :param critic_epochs: critic epochs
    :param critic_batch: samples in a minibatch of the critic; 0: all
    :param chunk: ``fisher_chunk_size``; 0: from the memory bound
    :param precision: ``cg_precision``; "": the default
    :param preconditioner: ``cg_preconditioner``
    :param device: of the policy
    """

    network: str
    samples: int
    side: str = OURS
    cg_steps: int = 10
    critic_epochs: int = 1
    critic_batch: int = 128
    chunk: int = 0
    precision: str = ""
    preconditioner: str = "none"
    device: str = "cpu"

    @property
    def policy(self) -> tuple[str, dict[str, Any]]:
        """SB3's name of the policy, and its keyword arguments."""
        if self.network == CNN:
            return "CnnPolicy", {}
        net_arch = {"pi": [2176] * 3, "vf": [256, 256]} if self.network == LARGE_MLP else {"pi": [64, 64], "vf": [64, 64]}
        return "MlpPolicy", {"net_arch": net_arch}


class Noise(gym.Env[np.ndarray, Any]):
    """
    Observations drawn at random, and a reward that depends on them and on the action.

    :param network: whose observations and actions
    """

    def __init__(self, network: str):
        vectors = {MLP: (17, 6), LARGE_MLP: (348, 17)}
        if network == CNN:
            self.observation_space = spaces.Box(0, 255, (4, 84, 84), dtype=np.uint8)
            self.action_space: spaces.Space[Any] = spaces.Discrete(6)
        else:
            observations, actions = vectors[network]
            self.observation_space = spaces.Box(-np.inf, np.inf, (observations,))
            self.action_space = spaces.Box(-1.0, 1.0, (actions,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; episodes are 100 steps on average."""
        reward = float(np.reshape(self._seen, -1)[0] * np.reshape(action, -1)[0]) / (
            255.0 if self._seen.dtype == np.uint8 else 1.0
        )
        return self._observe(), reward, bool(self.np_random.random() < 1e-2), False, {}

    def _observe(self) -> np.ndarray:
        shape, dtype = self.observation_space.shape, self.observation_space.dtype
        assert shape is not None
        if dtype == np.uint8:
            # Bytes at random that cost little: a frame of 7x7 blocks.
            small = self.np_random.integers(0, 256, (4, 12, 12), dtype=np.uint8)
            self._seen: np.ndarray = small.repeat(7, axis=1).repeat(7, axis=2)
        else:
            self._seen = self.np_random.standard_normal(shape, dtype=np.float32)
        return self._seen


def make_model(update: Update) -> Any:
    """
    Make a model with a full rollout buffer.

    :param update: what is measured
    :return: the model, before its first update
    """
    n_envs = min(ENVS, update.samples)
    policy, policy_kwargs = update.policy
    settings: dict[str, Any] = {
        "n_steps": update.samples // n_envs,
        "batch_size": update.critic_batch or update.samples,
        "cg_max_steps": update.cg_steps,
        "n_critic_updates": update.critic_epochs,
        "policy_kwargs": policy_kwargs,
        "seed": 0,
        "device": update.device,
    }
    if update.side == OURS:
        settings |= {"max_critic_updates": update.critic_epochs, "cg_preconditioner": update.preconditioner}
        settings |= {"fisher_chunk_size": update.chunk or None}
        settings |= {"cg_precision": update.precision} if update.precision else {}
    cls: Any = sb3_trpo_ext.TRPO if update.side == OURS else sb3_contrib.TRPO
    env = DummyVecEnv([lambda: Noise(update.network)] * n_envs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cls(policy, env, **settings)
    model.set_logger(configure(None, []))
    _, callback = model._setup_learn(10**9, None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def measure(update: Update) -> dict[str, Any]:
    """
    Measure in this process, which has done nothing else.

    :param update: what
    :return: MiB, seconds, and what the update says of itself
    """
    make_model(replace(update, samples=WARM_UP_SAMPLES, cg_steps=1, chunk=0)).train()
    model = make_model(update)
    before = reset_peak(update.device)
    start = time.perf_counter()
    model.train()
    if update.device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"mib": (peak(update.device) - before) / 2**20, "seconds": seconds}
    if update.side == OURS:
        report = model.last_update
        problem = model.session.update_inputs.evaluated.problem
        row |= {"status": report.status, "rung": report.fisher_rung, "iterations": report.cg_iterations}
        row |= {"kept": report.cg_kept, "trials": len(report.trial_kls), "chunks": len(problem.surrogate.mean.chunks)}
        row |= {"parameters": sum(part.numel() for part in problem.parameters)}
    return row


def reset_peak(device: str = "cpu") -> int:
    """
    Forget the peak so far.

    :param device: of the policy
    :return: bytes that are in use now
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    _CLEAR.write_text(_RESET_PEAK)
    return _status("VmRSS")


def peak(device: str = "cpu") -> int:
    """
    Say how much was in use at most since then.

    :param device: of the policy
    :return: bytes
    """
    return int(torch.cuda.max_memory_allocated()) if device != "cpu" else _status("VmHWM")


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
