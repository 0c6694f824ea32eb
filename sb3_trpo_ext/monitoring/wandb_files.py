"""Files that are worth keeping of a run, bounded in size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from sb3_trpo_ext.monitoring.bounded import say
from sb3_trpo_ext.monitoring.observed import Observed
from sb3_trpo_ext.monitoring.wandb import WandbRun
from sb3_trpo_ext.records.files import DUMPS_NAME

MEGABYTE = 1_000_000

MAX_DUMPS = 50
"""Of one run; the flight recorder keeps fewer."""


def publish_model(run: WandbRun, model: Observed, max_mb: float) -> None:
    """
    Keep the model and the statistics of its observations.

    :param run: where
    :param model: the model
    :param max_mb: larger files are left out
    """
    with tempfile.TemporaryDirectory() as folder:
        files = within(save_model(model, Path(folder)), int(max_mb * MEGABYTE))
        run.keep("model", Path(folder), files, _metadata(model))


def publish_dumps(run: WandbRun, model: Observed, max_mb: float) -> None:
    """
    Keep the flight recorder's dumps, where there are any.

    :param run: where
    :param model: the model
    :param max_mb: of all of them together
    """
    if model.run_folder is not None:
        folder = Path(model.run_folder) / DUMPS_NAME
        run.keep(DUMPS_NAME, folder, dump_files(folder, int(max_mb * MEGABYTE)), _metadata(model))


def _metadata(model: Observed) -> dict[str, int]:
    report = model.last_update
    return {} if report is None else {"num_timesteps": report.num_timesteps, "n_updates": report.n_updates}


def save_model(model: Observed, folder: Path) -> list[Path]:
    """
    Save what is needed to act: the model, and the statistics that its observations are normalised with.

    :param model: the model
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
