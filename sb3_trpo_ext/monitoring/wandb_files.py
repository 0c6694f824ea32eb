"""Files that are worth keeping of a run, bounded in size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sb3_trpo_ext.monitoring.bounded import say

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


def dump_files(folder: Path, limit: int) -> list[Path]:
    """
    Give the flight recorder's dumps, newest first, as many as fit. What belongs to one dump has one name before the dot.

    :param folder: where they are, also in folders of their own; links are not followed
    :param limit: bytes of all of them together
    :return: files; none if there is no folder
    """
    dumps: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            dumps.setdefault(file.parent / file.name.partition(".")[0], []).append(file)
    newest = sorted(dumps.values(), key=lambda files: max(file.stat().st_mtime for file in files), reverse=True)
    chosen: list[Path] = []
    for files in newest[:MAX_DUMPS]:
        size = sum(file.stat().st_size for file in files)
        if size <= limit:
            chosen += files
            limit -= size
    if len(chosen) < sum(map(len, newest)):
        say("W&B: not all dumps fit into max_artifact_mb: the newest were taken", stacklevel=3)
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
            say(f"W&B: {file.name} ({size} bytes) is larger than max_artifact_mb and left out", stacklevel=3)
    return kept
