"""
A dump: everything that one update began with, and what came of it, in two files that hold data only.

``NAME.npz`` holds the arrays (no pickle), ``NAME.json`` the rest and the checksum of the arrays. Both are written under other
names and moved into place, the JSON last: a dump that has one is whole. Names of arrays:

    batch/…      the rollout, sample = environment * n_steps + step (rewards, episode_starts: (n_steps, n_envs); places, where
                 samples were dropped: that number of each)
    before/…     parameters and buffers before the update, by name      after/…   the same after it
    optimizer/…  its state by number of the parameter and name          random/…  states of random streams
    space/…      bounds of Box spaces
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_trpo_ext.records.atomic import write_atomic
from sb3_trpo_ext.records.one_line import one_line

FORMAT = 1

LARGEST_HEADER = 2**23
"""Bytes of JSON: 50 reports of 20 KB are 1 MB. In memory they can become 25 times as many."""

LARGEST_ARRAYS = 2**30
"""Bytes of all arrays, unpacked: a reader takes no more from a file that anybody may have made."""


MOST_ARRAYS = 10_000
"""In a file; a dump has some hundred."""

KINDS = "biufc"
"""Of data: numbers. Objects would be pickles."""


class DumpError(ValueError):
    """
    A file that is not a dump, or an incomplete one.

    :param message: what is wrong with which file; what it quotes is made one printable line
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Dump:
    """
    One update.

    :param header: plain data, as JSON holds them
    :param arrays: by name
    """

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        """Bytes of the arrays, unpacked."""
        return sum(array.nbytes for array in self.arrays.values())

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """
        Give the arrays of one kind.

        :param prefix: such as "before"
        :return: by the rest of their names
        """
        return {name[len(prefix) + 1 :]: array for name, array in self.arrays.items() if name.startswith(f"{prefix}/")}


def files(path: Path) -> tuple[Path, Path]:
    """
    Name a dump's two files.

    :param path: either of them, or their common name without an ending
    :return: the JSON and the arrays
    """
    stem = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")


def write_dump(path: Path, dump: Dump) -> None:
    """
    Write a dump; whatever happens meanwhile, there is none or a whole one.

    :param path: name without an ending; its folder is made
    :param dump: the dump
    """
    header_file, arrays_file = files(path)
    header_file.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, **dump.arrays)  # type: ignore[arg-type]
    content = packed.getvalue()
    header = {"format": FORMAT, **dump.header, "arrays_sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(header, allow_nan=False, indent=1).encode()
    try:
        write_atomic(arrays_file, content)
        write_atomic(header_file, text)
    except BaseException:
        if not header_file.exists():
            arrays_file.unlink(missing_ok=True)
        raise


def read_dump(path: Path) -> Dump:
    """
    Read a dump, which nobody need trust: nothing in it is evaluated, and it can't fill the memory.

    :param path: either of its files, or their common name
    :return: the dump
    :raises DumpError: if it is none, is not whole, or is too large
    """
    header_file, arrays_file = files(path)
    try:
        header = _read_header(header_file)
        content = _read_bounded(arrays_file, LARGEST_ARRAYS)
    except OSError as error:
        both = f"{header_file.name} and {arrays_file.name}"
        why = f"{error.filename}: {error.strerror or error}"
        raise DumpError(f"{path}: is no dump, which is two files side by side, {both} ({why})") from error
    if hashlib.sha256(content).hexdigest() != header.get("arrays_sha256"):
        raise DumpError(f"{arrays_file}: is not the file that {header_file.name} was written with (cut off, or changed since)")
    return Dump(header, _read_arrays(arrays_file, content))


def _read_bounded(path: Path, limit: int) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise DumpError(f"{path}: is no file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DumpError(f"{path}: larger than {limit >> 20} MiB: no part of a dump")
    return content


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(_read_bounded(path, LARGEST_HEADER).decode(), parse_constant=_no_number)
    except DumpError:
        raise
    except (ValueError, RecursionError) as error:
        raise DumpError(f"{path}: is no JSON ({str(error)[:120]})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise DumpError(f"{path}: is no dump of format {FORMAT} (format: {found!r})")
    return header


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _read_arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    if content.count(b"PK\x01\x02") > MOST_ARRAYS:  # how an entry of the directory begins, of which each takes memory
        raise DumpError(f"{path}: more than {MOST_ARRAYS} arrays")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > LARGEST_ARRAYS:
                raise DumpError(f"{path}: {unpacked >> 20} MiB unpacked, more than {LARGEST_ARRAYS >> 20} MiB")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            # What is no array in such a file, NumPy gives as bytes.
            return {name: _array(path, name, arrays[name]) for name in arrays.files}
    except DumpError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a file that is not what it says
        raise DumpError(f"{path}: can't be read as arrays ({type(error).__name__}: {str(error)[:120]})") from error


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in KINDS:
        raise DumpError(f"{path}: {name} is no array of numbers")
    return value
