"""Files that are worth keeping of a run, bounded in size."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000

MAX_DUMPS = 50
"""Of one run; the flight recorder keeps fewer."""


def save_model(model: Any, folder: Path) -> list[Path]:
    """
    Save what is needed to act: the model, and the statistics that its observations are normalised with.

    :param model: of SB3
    :param folder: where to
    :return: the files
    """
    files = [folder / "model.zip"]
    model.save(files[0])
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        files.append(folder / "vecnormalize.pkl")
        normalize.save(str(files[-1]))
    return files


def dump_files(model: Any, limit: int) -> list[Path]:
    """
    Give the dumps in the run folder, newest first, as many as fit.

    :param model: with ``run_folder``
    :param limit: bytes of all of them together
    :return: files; none if there is no folder
    """
    folder = getattr(model, "run_folder", None)
    if folder is None or not (Path(folder) / "dumps").is_dir():
        return []
    files = [file for file in (Path(folder) / "dumps").iterdir() if file.is_file()]
    newest = sorted(files, key=lambda file: (file.stat().st_mtime, file.name), reverse=True)
    chosen: list[Path] = []
    for file in within(newest[:MAX_DUMPS], limit):
        if sum(other.stat().st_size for other in chosen) + file.stat().st_size > limit:
            break
        chosen.append(file)
    return chosen


def within(files: Iterable[Path], limit: int) -> list[Path]:
    """
    Leave out what is too large, and say so.

    :param files: files
    :param limit: bytes of each
    :return: those that are kept
    """
    kept = []
    for file in files:
        size = file.stat().st_size
        if size <= limit:
            kept.append(file)
        else:
            warnings.warn(f"W&B: {file.name} ({size} bytes) is larger than max_artifact_mb and left out", stacklevel=3)
    return kept
