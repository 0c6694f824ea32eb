"""
A model's zip: written whole or not at all, and with the statistics that normalise its observations at that moment.

SB3 keeps VecNormalize's statistics in a file of their own, so a model that is stored during a training (``best_model.zip``)
ends up beside the statistics of the end. One file can't be paired wrongly. SB3 and sb3-contrib ignore the additional entry.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.vec_env import VecNormalize

STATISTICS_NAME = "vecnormalize.pkl"
"""Entry of the zip: what ``VecNormalize.save`` writes, for ``VecNormalize.load``."""


def add_statistics(saved: io.BytesIO, normalize: VecNormalize) -> None:
    """
    Put statistics into a model's zip.

    :param saved: what SB3's ``save`` has written
    :param normalize: the wrapper of the model's environment
    """
    try:
        content = pickle.dumps(normalize)
    except Exception as error:  # a wrapper of the user's own may hold anything
        warnings.warn(
            f"TRPO: the statistics of {type(normalize).__name__} can't be saved with the model ({error!r})",
            UserWarning,
            stacklevel=3,
        )
        return
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(STATISTICS_NAME, content)


def statistics_in(path: Path) -> bytes | None:
    """
    Read the statistics that were saved with a model; nothing is unpickled.

    :param path: the model's zip
    :return: the content of a ``vecnormalize.pkl``; None if the model has none, or the file is not a zip
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(STATISTICS_NAME) if STATISTICS_NAME in archive.namelist() else None
    except (OSError, zipfile.BadZipFile):
        return None


def write_model(path: str | Path | io.BufferedIOBase, content: bytes) -> None:
    """
    Write a file where SB3 would. An earlier one is replaced at once: a kill leaves the one or the other.

    :param path: as of SB3's ``save``: without a suffix it gets ``.zip``, and missing folders are made
    :param content: of the file
    :raises OSError: if that is impossible; an earlier file is still there
    """
    if isinstance(path, str | Path):
        target = Path(os.path.realpath(path if Path(path).suffix else f"{path}.zip"))
        if target.is_file() or not target.exists():
            replace_file(target, content)
            return
    file = open_path(path, "w", suffix="zip")
    file.write(content)
    if isinstance(path, str | Path):
        file.close()


def replace_file(path: Path, content: bytes) -> None:
    """
    Write a file under a temporary name and rename it.

    :param path: of the file; missing folders are made
    :param content: of the file
    :raises OSError: if that is impossible; an earlier file is still there
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
