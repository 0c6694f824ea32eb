"""Folders that real runs have left: ours, with every alarm of the monitors, and sb3-contrib's."""

import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.monitoring import TrustRegionMonitor
from tests.monitoring.scenarios import N_STEPS, SCENARIOS, Small, healthy


def train_ours(folder: Path, code: str | None = None, monitors: bool = True, n_updates: int | None = None) -> Path:
    """The scenario of an alarm, or a healthy run."""
    make, usual = SCENARIOS[code] if code else (healthy, 22)
    model = make()
    model.log_folder = str(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = TrustRegionMonitor() if monitors else None
        model.learn((n_updates or usual) * model.n_steps * model.n_envs, callback=callback)
    return folder


class Remembers(BaseCallback):
    """What sb3-contrib logs of every update, before SB3 writes it with another row."""

    def __init__(self) -> None:
        super().__init__()
        self.kls: dict[int, tuple[int, float]] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._look()

    def _on_training_end(self) -> None:
        self._look()

    def _look(self) -> None:
        values = self.logger.name_to_value
        if "train/n_updates" in values:
            self.kls[values["train/n_updates"]] = (self.num_timesteps, values["train/kl_divergence_loss"])


def train_contrib(
    folder: Path, n_updates: int, env: dict[str, Any] | None = None, eval_freq: int = 0, task: Any = Small, **settings: Any
) -> Remembers:
    chosen: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 128, "seed": 0, "device": "cpu", "learning_rate": 3e-3}
    envs = make_vec_env(task, n_envs=2, seed=0, env_kwargs=env or {})
    model = sb3_contrib.TRPO("MlpPolicy", envs, **{**chosen, "policy_kwargs": {"net_arch": [16, 16]}, **settings})
    model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    remembers = Remembers()
    callbacks: list[BaseCallback] = [remembers]
    if eval_freq:
        other = make_vec_env(task, n_envs=1, seed=1, env_kwargs=env or {})
        callbacks.append(EvalCallback(other, eval_freq=eval_freq, log_path=str(folder), n_eval_episodes=2, verbose=0))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        model.learn(n_updates * N_STEPS * 2, callback=callbacks)
    return remembers


def write_events(path: Path, updates: Iterable[int], kl: float = 0.005, **more: float) -> None:
    """As SB3 writes them: update n at the steps of the next rollout."""
    with path.open("wb") as file:
        for n in updates:
            for tag, value in {"rollout/ep_rew_mean": float(n), "train/kl_divergence_loss": kl, **more}.items():
                value_of = Summary.Value(tag=tag, simple_value=value)
                record = Event(step=256 * (n + 1), summary=Summary(value=[value_of])).SerializeToString()
                length = struct.pack("<Q", len(record))
                for part in (length, record):
                    file.write(part + struct.pack("<I", masked_crc32c(part)))


CONTRIB: dict[str, tuple[int, dict[str, Any]]] = {
    "TR104": (13, {"target_kl": 0.5, "cg_damping": 1e-4, "line_search_max_iter": 1}),
    "TR105": (13, {"cg_damping": 1e3}),
    "TR203": (26, {"env": {"reward": lambda _, action: float(np.abs(action).sum())}, "target_kl": 0.05}),
    "TR503": (24, {"env": {"reward": lambda now, _: 0.02 * float(now.rng.standard_normal())}, "learning_rate": 1e-9}),
}
"""What sb3-contrib's keys allow to see: by code, updates and settings."""
