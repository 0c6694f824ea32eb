"""Where a run's folder is: asked for, or where its other logs already are."""

from __future__ import annotations

from pathlib import Path

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
    if env is None or not env.env_is_wrapped(Monitor, indices=[0])[0]:
        return None
    writer = env.get_attr("results_writer", indices=[0])[0]
    file = getattr(writer, "file_handler", None)
    return None if file is None else str(Path(file.name).parent)
