"""Trainings that end before their time, in one line: what has happened, what is left of the run, and how it is resumed."""

from __future__ import annotations

import errno
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType

from sb3_trpo_ext.sb3.checkpoints.files import FOLDER_NAME, checkpoints_in, newest_in_words
from sb3_trpo_ext.sb3.errors import EpisodeError, WorkerError

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


class EndedError(RuntimeError):
    """A training has ended for a reason outside the algorithm: its text needs no traceback."""


def resuming(env_id: str, run: Path) -> str:
    """
    Give the command that resumes a run.

    :param env_id: of its environment
    :param run: its folder
    :return: a line for a shell
    """
    return f"python -m sb3_trpo_ext train --env {env_id} --resume {shlex.quote(str(run))}"


@contextmanager
def told_in_one_line(env_id: str, run: Path) -> Iterator[None]:
    """
    Say in one line what a full disk means, or a worker that has died, or an evaluation without an end.

    :param env_id: of the environment
    :param run: the run's folder
    :yields: nothing
    :raises EndedError: in place of what was raised
    """
    try:
        yield
    except WorkerError as error:
        raise EndedError(f"training has ended: {error.args[0]} {_left(env_id, run)}") from error
    except EpisodeError as error:
        raise EndedError(f"training has ended: {error}") from error
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        text = f"training has ended: {error} (in {_writer(error)}). Make room first. {_left(env_id, run)}"
        raise EndedError(text) from error


def _left(env_id: str, run: Path) -> str:
    if not checkpoints_in(run / FOLDER_NAME):
        return f"{run} has no checkpoint: begin a new run."
    return newest_in_words(run, f"`{resuming(env_id, run)}` resumes from it")


def _writer(error: OSError) -> str:
    """The innermost function that is neither ours nor of what only writes for others."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    theirs = [frame for frame in frames if not frame.filename.startswith(ours)]
    known = [frame for frame in theirs if {"stable_baselines3", "rl_zoo3"} & set(Path(frame.filename).parts)]
    frame = (known or theirs or frames)[-1]
    return f"{frame.name}, {Path(frame.filename).name} line {frame.lineno}"


def first_raised(error: BaseException, learn: FunctionType) -> BaseException:
    """
    Find what a training died of: the Zoo cleans up after it, and what that raises would hide it.

    :param error: what has come out of the Zoo
    :param learn: the function that trains
    :return: the exception that came out of that function; the given one if none did
    """
    part: BaseException | None = error
    while part is not None:
        if any(frame.f_code is learn.__code__ for frame, _ in traceback.walk_tb(part.__traceback__)):
            return part
        part = part.__context__
    return error
