"""A hardened, drop-in TRPO for Stable-Baselines3."""

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.sb3.checkpoints.callback import Checkpoints
from sb3_trpo_ext.sb3.errors import (
    CheckpointError,
    EpisodeError,
    NonFiniteError,
    RanksError,
    StaleBatchError,
    TooEarlyError,
    WorkerError,
)
from sb3_trpo_ext.sb3.trpo import TRPO

__version__ = "0.1.0"

__all__ = [
    "TRPO",
    "CheckpointError",
    "Checkpoints",
    "EpisodeError",
    "NonFiniteError",
    "RanksError",
    "StaleBatchError",
    "TooEarlyError",
    "UpdateReport",
    "WorkerError",
]
