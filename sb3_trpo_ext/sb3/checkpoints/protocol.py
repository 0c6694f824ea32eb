"""What of a model is read and written when its training is saved and restored."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.sb3.integrity.guard import FailureObserver, Mark
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder
from sb3_trpo_ext.sb3.ranks.group import Ranks
from sb3_trpo_ext.sb3.update.diagnosis import Diagnosis
from sb3_trpo_ext.sb3.update.run_log import RunLog


class Learning(Protocol):
    """Of the model's session: what lives while it learns."""

    failure_observers: list[FailureObserver]
    between_updates: list[Callable[[], bool]]
    stop_signal: int | None
    computing: Mark
    recorder: BehaviourRecorder
    run_log: RunLog
    diagnosis: Diagnosis
    first_update: int

    @property
    def ranks(self) -> Ranks:
        """The other processes of this training."""


class Trainee(Protocol):
    """A model that is trained; names and meanings are SB3's and ``TRPO``'s."""

    policy: ActorCriticPolicy
    env: VecEnv | None
    seed: int | None
    log_folder: str | None
    last_update: UpdateReport | None
    num_timesteps: int
    start_time: float
    ep_info_buffer: deque[Any] | None
    _n_updates: int
    _total_timesteps: int
    _num_timesteps_at_start: int
    _custom_logger: bool
    _last_obs: np.ndarray | dict[str, np.ndarray] | None
    _last_episode_starts: np.ndarray | None

    @property
    def session(self) -> Learning:
        """What lives while it learns."""

    @property
    def logger(self) -> Logger:
        """SB3's."""

    @property
    def run_folder(self) -> Path | None:
        """Where this run's files are."""

    def save(self, path: io.BytesIO) -> None:
        """Write the model's zip."""

    def set_logger(self, logger: Logger) -> None:
        """Use a logger of one's own."""

    def set_random_seed(self, seed: int | None = None) -> None:
        """Begin all random streams anew."""
