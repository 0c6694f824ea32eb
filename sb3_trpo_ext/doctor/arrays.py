"""NumPy's files, without pickle: the header is read first, and an array is made only if the file really holds it."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from sb3_trpo_ext.doctor.bounds import MAX_ARCHIVE, MAX_BYTES, MAX_MEMBERS, is_file
from sb3_trpo_ext.doctor.csv_files import LARGEST_RETURN, evenly
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.records.files import WIDTHS

NUMBERS = "fiub"
"""Kinds of data that are numbers; objects would be pickles."""


def read_histories(run: Run, folder: Path) -> dict[str, np.ndarray]:
    """
    Read the histories of a run folder.

    :param run: gets findings
    :param folder: the run folder
    :return: float32 arrays by file name, each of (updates,) or (updates, width)
    """
    found: dict[str, np.ndarray] = {}
    for name, width in WIDTHS.items():
        path = folder / name
        array = _read(run, path, _npy) if is_file(path) else None
        if array is None:
            continue
        if array.dtype != np.float32 or array.shape[1:] != ((width,) if width > 1 else ()):
            run.find("DR002", path, why=f"not a history: {array.dtype} {array.shape}")
            continue
        found[name] = array
    return found


def read_evaluations(run: Run, path: Path) -> None:
    """
    Read EvalCallback's file.

    :param run: gets the evaluations and findings
    :param path: ``evaluations.npz``
    """
    if path.stat().st_size == 0:
        run.find("DR004", path, why="it is empty yet")
        return
    arrays = _read(run, path, _npz)
    if arrays is None:
        return
    steps, results = arrays.get("timesteps"), arrays.get("results")
    if steps is None or results is None or steps.ndim != 1 or results.ndim != 2 or len(steps) != len(results):
        run.find("DR002", path, why="no file of EvalCallback: timesteps and results are missing or do not fit together")
        return
    if not results.size:
        return
    with np.errstate(all="ignore"):
        means = results.astype(float).mean(axis=1)
        sane = np.isfinite(steps) & (np.abs(means) < LARGEST_RETURN) & (steps >= 0) & (steps < 1e15)
    if not np.isfinite(results).all():
        run.find("DR008", path, keys="results")
    steps, means = steps[sane], means[sane]
    for place in evenly(len(steps), run.limits.points):
        run.evaluations.append((float(steps[place]), float(means[place])))


Read = TypeVar("Read")


def _read(run: Run, path: Path, read: Callable[[Path], Read]) -> Read | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of files that Python 2 might have written
            return read(path)
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a file that is not what it says
        run.find("DR002", path, why=f"{type(error).__name__}: {error}")
        return None


def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return _array(file, path.stat().st_size)


def _npz(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if path.stat().st_size > MAX_ARCHIVE:
        raise ValueError(f"larger than {MAX_ARCHIVE >> 20} MiB")
    with zipfile.ZipFile(path) as archive:
        members = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")][:MAX_MEMBERS]
        if sum(entry.file_size for entry in members) > MAX_ARCHIVE:
            raise ValueError(f"more than {MAX_ARCHIVE >> 20} MiB unpacked")
        for entry in members:
            with archive.open(entry) as file:
                found[entry.filename[: -len(".npy")]] = _array(file, entry.file_size)
    return found


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """One array in NumPy's format, of at most so many bytes."""
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of NumPy's format")
    shape, fortran, dtype = read_header(file)  # type: ignore[arg-type]
    if dtype.kind not in NUMBERS or fortran:
        raise ValueError(f"holds no plain numbers ({dtype})")
    count = math.prod(shape)
    if any(length < 0 for length in shape) or count * dtype.itemsize > min(size, MAX_BYTES):
        raise ValueError(f"cut off, or too large: {shape} of {dtype} in {size} bytes")
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"cut off: {len(data)} of {count * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype=dtype, count=count).reshape(shape)
