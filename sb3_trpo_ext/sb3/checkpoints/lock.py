"""
One process at a time trains in a run's folder: two would cut each other's logs, and mix their checkpoints.

The lock is the system's, on the folder of checkpoints itself: it ends with the process, however that ends, and leaves no file.
Where there are no such locks (Windows, some network disks) nothing is locked.
"""

from __future__ import annotations

import os
from pathlib import Path

from sb3_trpo_ext.sb3.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: dict[Path, tuple[int, int]] = {}
"""By folder: which process has taken it (a fork inherits this table), and the open folder."""


def claim(folder: Path) -> None:
    """
    Take a folder of checkpoints for this process; done twice it is done once.

    :param folder: which; made if it is not there
    :raises CheckpointError: if another process, which lives, has it
    """
    folder = folder.absolute()
    if fcntl is None or _held.get(folder, (None,))[0] == os.getpid():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # who writes there will say so
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise CheckpointError(
                f"{folder.parent}: another process trains in this run's folder: wait until it has ended, or end it."
            ) from error
        return
    _held[folder] = os.getpid(), descriptor


def release(folder: Path) -> None:
    """
    Give a folder back.

    :param folder: which; it need not have been taken
    """
    process, descriptor = _held.pop(folder.absolute(), (None, None))
    if descriptor is not None and process == os.getpid():
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # for forks that have inherited it, too
        os.close(descriptor)
