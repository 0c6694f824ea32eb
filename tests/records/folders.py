"""Run folders to write and to read back."""

import csv
from pathlib import Path

import numpy as np

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.files import COLUMNS, CSV_NAME, RECORD_NAME
from sb3_trpo_ext.records.run_folder import RunFolder
from tests.monitoring.reports import make_report

HISTORIES = {"advantages": 7, "vf_loss": 2, "kl": 1, "entropy": 1}


def write(path: Path, first: int, last: int, resume: bool = False) -> None:
    folder = RunFolder(path, resume)
    for n in range(first, last + 1):
        folder.write(make_report(n))


def kls(path: Path) -> list[float]:
    return np.load(path / "kl.npy").tolist()


def updates_in(path: Path, csv_name: str = CSV_NAME) -> list[int]:
    """The updates in the folder, which are the same in every file."""
    reports = [UpdateReport.from_json(line) for line in (path / RECORD_NAME).read_text().splitlines()]
    numbers = [report.n_updates for report in reports]
    with (path / csv_name).open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [int(row["train/n_updates"]) for row in rows] == numbers
    assert all(tuple(row) == COLUMNS and None not in row.values() for row in rows)
    assert kls(path) == expected(*numbers)
    for name, width in HISTORIES.items():
        assert np.load(path / f"{name}.npy").shape == ((len(numbers), width) if width > 1 else (len(numbers),))
    assert not list(path.glob(".*"))
    return numbers


def set_aside(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.glob("previous_*/*"))


def expected(*updates: int) -> list[float]:
    return [float(np.float32(0.01 / n)) for n in updates]
