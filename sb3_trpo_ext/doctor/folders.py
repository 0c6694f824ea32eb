"""What lies in a folder, and which of it makes the folder a run's."""

from __future__ import annotations

import dataclasses
import os
from itertools import islice
from pathlib import Path

from sb3_trpo_ext.doctor.bounds import MAX_ENTRIES, is_file
from sb3_trpo_ext.doctor.wandb_files import SUFFIX
from sb3_trpo_ext.records.files import ALARMS_NAME, CSV_NAME, RECORD_NAME, SPARE_CSV_NAME, WIDTHS

DUMPS = "dumps"
EVALUATIONS = "evaluations.npz"
EVENTS = "events.out.tfevents."
MONITOR = "monitor.csv"


@dataclasses.dataclass(frozen=True)
class Listing:
    """
    What lies in a folder.

    :param files: regular files, by name
    :param folders: folders, no links to such, by name
    :param n_entries: everything that was looked at
    :param problem: why it could not be listed
    """

    files: list[Path] = dataclasses.field(default_factory=list)
    folders: list[Path] = dataclasses.field(default_factory=list)
    n_entries: int = 0
    problem: str = ""


def listing(folder: Path, most: int = MAX_ENTRIES) -> Listing:
    """
    List a folder.

    :param folder: the folder
    :param most: entries that are looked at
    :return: its files and folders
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(islice(entries, most), key=lambda entry: entry.name)
            folders = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
            return Listing([Path(entry.path) for entry in found if is_file(Path(entry.path))], folders, len(found))
    except OSError as error:
        return Listing(problem=error.strerror or str(error))


def is_record(path: Path) -> bool:
    """
    Whether a file makes its folder a run's.

    :param path: the file
    :return: whether it does
    """
    names = (RECORD_NAME, CSV_NAME, SPARE_CSV_NAME, ALARMS_NAME, EVALUATIONS, MONITOR, *WIDTHS)
    return path.name in names or path.name.endswith(f".{MONITOR}") or path.name.startswith(EVENTS) or path.suffix == SUFFIX
