"""Files that are written whole or not at all: whatever happens meanwhile, a reader finds the old file or the new one."""

from __future__ import annotations

import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished_"
"""Beginning of the temporary names; only a kill leaves such a file."""


@contextmanager
def atomic(path: Path, suffix: str = "") -> Iterator[Path]:
    """
    Give a file to write to, which is flushed to the disk and takes the place of another when the block ends without an error.

    It gets the permissions of the file that it replaces, else the usual ones. A symbolic link is replaced, not followed.

    :param path: of the file that is replaced, or not there yet; its folder is
    :param suffix: of the temporary name, for writers that go by it
    :yields: an empty file in the same folder
    :raises OSError: if that is impossible; an earlier file is still there, and nothing else
    """
    # A name that nobody can foresee: nobody puts a link there, and two writers of one file don't meet.
    part = path.with_name(f"{_beginning(path)}{secrets.token_hex(8)}{suffix}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        flush(part)
        if path.is_file() and not path.is_symlink():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """
    Write a file, as ``atomic`` does.

    :param path: of the file; its folder has to be there
    :param content: all of it
    """
    with atomic(path) as part:
        part.write_bytes(content)


def remove_unfinished(path: Path) -> None:
    """
    Remove what kills have left of a file.

    :param path: of a file that nobody else is writing now
    """
    for part in path.parent.glob(f"{_beginning(path)}*"):
        part.unlink(missing_ok=True)


def _beginning(path: Path) -> str:
    """A number for the file's name, which may be as long as a name can be."""
    return f"{UNFINISHED}{zlib.crc32(os.fsencode(path.name)):08x}_"


def flush(path: Path) -> None:
    """
    Bring a file's content, or a folder's names, to the disk, so that a power failure can't take them.

    :param path: of the file or folder; where folders can't be opened (Windows) there is no way to flush one
    """
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
