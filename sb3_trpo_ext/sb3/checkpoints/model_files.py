"""
A model's zip: written whole or not at all, and with the statistics that normalise its observations at that moment.

SB3 keeps VecNormalize's statistics in a file of their own, so a model that is stored during a training (``best_model.zip``)
ends up beside the statistics of the end. One file can't be paired wrongly. SB3 and sb3-contrib ignore the additional entry.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path

from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext.records.atomic import write_atomic

STATISTICS_NAME = "vecnormalize.pkl"
"""Entry of the zip: what ``VecNormalize.save`` writes, for ``VecNormalize.load``."""

INITIAL_COUNT = RunningMeanStd().count
"""Number of samples in new statistics."""


def statistics_to_save(normalize: VecNormalize | None, loaded: bytes | None) -> bytes | None:
    """
    Choose the statistics that belong to a model.

    :param normalize: the wrapper of the model's environment, if it has one
    :param loaded: those that were in the zip which the model was loaded from, unless it has learned since
    :return: what ``VecNormalize.save`` writes; None if the model has none
    """
    if loaded is not None and (normalize is None or _has_seen_nothing(normalize)):
        return loaded
    try:
        return None if normalize is None else pickle.dumps(normalize)
    except Exception as error:  # a wrapper of the user's own may hold anything
        warnings.warn(
            f"TRPO: the statistics of {type(normalize).__name__} can't be saved with the model ({error!r})",
            UserWarning,
            stacklevel=3,
        )
        return None


def _has_seen_nothing(normalize: VecNormalize) -> bool:
    """Whether no sample has changed the statistics yet, so that any saved ones are better."""
    obs = getattr(normalize, "obs_rms", None)
    parts = [normalize.ret_rms, *(obs.values() if isinstance(obs, dict) else [obs] if obs is not None else [])]
    return all(part.count <= INITIAL_COUNT for part in parts)


def add_statistics(saved: io.BytesIO, content: bytes) -> None:
    """
    Put statistics into a model's zip.

    :param saved: what SB3's ``save`` has written
    :param content: of the entry
    """
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(STATISTICS_NAME, content)


def statistics_in(path: str | Path | io.BufferedIOBase) -> bytes | None:
    """
    Read the statistics that were saved with a model; nothing is unpickled.

    :param path: the model's zip, as of SB3's ``load``
    :return: the content of a ``vecnormalize.pkl``; None if the model has none, or the file is not a zip
    """
    try:
        opened = open_path(path, "r", suffix="zip") if isinstance(path, str | Path) else nullcontext(path)
        with opened as file, zipfile.ZipFile(file) as archive:
            return archive.read(STATISTICS_NAME) if STATISTICS_NAME in archive.namelist() else None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def write_model(path: str | Path | io.BufferedIOBase, content: bytes) -> None:
    """
    Write a file where SB3 would. An earlier one is replaced at once, so a kill leaves either the old file or the new one.

    :param path: as of SB3's ``save``: without a suffix it gets ``.zip``, and missing folders are made
    :param content: of the file
    :raises OSError: if that is impossible; an earlier file is still there
    """
    if isinstance(path, str | Path):
        target = Path(os.path.realpath(path if Path(path).suffix else f"{path}.zip"))
        if _can_be_replaced(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, content)
            return
    file = open_path(path, "w", suffix="zip")
    file.write(content)
    if isinstance(path, str | Path):
        file.close()


def _can_be_replaced(target: Path) -> bool:
    """False for pipes and devices, and where the folder does not take another file (a single file that is mounted)."""
    folder = next(part for part in target.parents if part.exists())
    return os.access(folder, os.W_OK) and (target.is_file() or not target.exists())
