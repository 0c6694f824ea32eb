"""Where a run's folder is: asked for, or where its other logs already are."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv


def find_run_folder(log_folder: str | None, env: VecEnv | None, logger: Logger) -> str | None:
    """
    Choose the run folder.

    :param log_folder: what the user asked for
    :param env: the training environment: the RL Zoo's Monitor files lie in its save path
    :param logger: SB3's logger
    :return: ``log_folder``, else the folder of the Monitor files, else the logger's, else None
    """
    return log_folder or _monitor_folder(env) or logger.dir


def _monitor_folder(env: VecEnv | None) -> str | None:
    """Only environments of this process can be asked: an open file does not travel between processes."""
    local = getattr(env.unwrapped, "envs", None) if env is not None else None
    monitor = unwrap_wrapper(local[0], Monitor) if local else None
    writer = monitor.results_writer if isinstance(monitor, Monitor) else None
    return None if writer is None else str(Path(writer.file_handler.name).parent)
