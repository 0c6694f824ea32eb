"""A disk that takes no more: what was being written, what is left of the run, and how it goes on."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_trpo_ext.sb3.checkpoint_files import FOLDER_NAME, checkpoints_in, newest_whole

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


class DiskError(OSError):
    """A training has ended because something of the Zoo's or of SB3's could not be written."""


@contextmanager
def disk_errors(run: Path) -> Iterator[None]:
    """
    Say in one line what a full disk means.

    :param run: the run's folder
    :yields: nothing
    :raises DiskError: in place of what the disk has raised
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskError) or error.errno not in OF_THE_DISK:
            raise
        raise DiskError(f"training has ended: {error} (in {_writer(error)}). {_what_is_left(run)}") from error


def _writer(error: OSError) -> str:
    """The innermost function that is neither ours nor of what only writes for others."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    theirs = [frame for frame in frames if not frame.filename.startswith(ours)]
    known = [frame for frame in theirs if {"stable_baselines3", "rl_zoo3"} & set(Path(frame.filename).parts)]
    frame = (known or theirs or frames)[-1]
    return f"{frame.name}, {Path(frame.filename).name} line {frame.lineno}"


def _what_is_left(run: Path) -> str:
    newest = newest_whole(run)[0] if checkpoints_in(run / FOLDER_NAME) else None
    if newest is None:
        return f"{run} has no whole checkpoint: make room, and begin anew."
    steps = newest.about["num_timesteps"]
    return f"The newest checkpoint is of update {newest.n_updates} ({steps} steps): make room, then --resume {run} goes on."
