"""Where a run's folder is: asked for, or where its other logs already are."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecMonitor, unwrap_vec_wrapper


def find_run_folder(log_folder: str | None, env: VecEnv | None, logger: Logger) -> Path | None:
    """
    Choose the run folder.

    :param log_folder: what the user asked for
    :param env: the training environment: the RL Zoo's Monitor files lie in its save path
    :param logger: SB3's logger
    :return: ``log_folder``, else the folder of the Monitor files, else the logger's, else None
    """
    found = log_folder or monitor_folder(env) or _logger_folder(logger)
    return None if found is None else Path(found).absolute()


def monitor_folder(env: VecEnv | None) -> Path | None:
    """
    Find where an environment's Monitor files are.

    :param env: the environment
    :return: their folder; None if there are none, or nobody can tell
    """
    if env is None:
        return None
    base, around = env.unwrapped, unwrap_vec_wrapper(env, VecMonitor)
    local = getattr(base, "envs", None)
    inner = unwrap_wrapper(local[0], Monitor) if isinstance(local, list | tuple) and local else None
    for monitor in (inner, around):
        writer = getattr(monitor, "results_writer", None)
        if isinstance(writer, ResultsWriter):
            return Path(writer.file_handler.name).parent
    return _folder_of_worker(base) if isinstance(base, SubprocVecEnv) else None


def _folder_of_worker(env: SubprocVecEnv) -> Path | None:
    """
    Look which Monitor file a worker has open (on Linux): it can't be asked, since an open file does not travel between
    processes, and the attempt ends the worker.
    """
    with contextlib.suppress(OSError):
        # A forked worker has inherited what is open here.
        theirs = _open_files(str(env.processes[0].pid)) - _open_files("self")
        return next((Path(name).parent for name in sorted(theirs) if name.endswith(Monitor.EXT)), None)
    return None


def _open_files(pid: str) -> set[str]:
    names: set[str] = set()
    for descriptor in Path("/proc", pid, "fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            names.add(os.readlink(descriptor))
    return names


def _logger_folder(logger: Logger) -> str | None:
    """Not the folder that SB3 makes in the temporary one for every logger that was given none, if nothing is logged there."""
    if logger.dir is None:
        return None
    folder = Path(logger.dir)
    invented = folder.name.startswith("SB3-") and folder.parent == Path(tempfile.gettempdir())
    return None if invented and all(map(_is_console, logger.output_formats)) else logger.dir


def _is_console(output: object) -> bool:
    return isinstance(output, HumanOutputFormat) and not output.own_file
