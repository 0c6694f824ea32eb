"""
The run folder: what every run leaves behind, one row an update.

``progress.csv`` (the logged keys), ``updates.jsonl`` (whole reports), and histories that one line of NumPy looks at:
``advantages.npy`` (n_updates, 7: mean, std, min, 5 %, 50 %, 95 %, max), ``vf_loss.npy`` (n_updates, 2: before, after),
``kl.npy`` and ``entropy.npy`` (n_updates,), float32, NaN where nothing was computed. Everything is appended and flushed:
a kill loses at most the update that was being written.
"""

from __future__ import annotations

import csv
from io import SEEK_END, BytesIO
from pathlib import Path

import numpy as np

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.keys import KEYS, logged_values

Row = tuple[float, ...]

CSV_NAME, ALARMS_NAME = "progress.csv", "alarms.jsonl"


def _histories(report: UpdateReport) -> dict[str, Row]:
    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    advantages = (number(report.advantage_mean), number(report.advantage_std), *report.advantage_quantiles)
    return {
        "advantages": advantages if report.advantage_quantiles else (float("nan"),) * 7,
        "vf_loss": (number(report.value_loss_before), number(report.value_loss_after)),
        "kl": (report.kl,),
        "entropy": (number(report.entropy),),
    }


class RunFolder:
    """
    Writes a run's folder.

    :param path: the folder; made with the first update
    :param resume: whether to go on with files that are there, instead of putting them aside
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        self._fresh = not resume

    def write(self, report: UpdateReport, with_csv: bool = True) -> None:
        """
        Append one update.

        :param report: the update
        :param with_csv: whether ``progress.csv`` is ours (SB3's own CSV logger may write a file of that name)
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self._fresh:
            self._put_aside(["updates.jsonl", ALARMS_NAME, *([CSV_NAME] if with_csv else []), *_npy_names(report)])
            self._fresh = False
        path = self.path / "updates.jsonl"
        _drop_cut_off_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(report.to_json() + "\n")
        if with_csv:
            self._append_csv(report)
        for name, row in _histories(report).items():
            _append_npy(self.path / f"{name}.npy", row)

    def _put_aside(self, names: list[str]) -> None:
        """Move an earlier run's files into a folder of their own: nothing is lost."""
        earlier = [self.path / name for name in names if (self.path / name).exists()]
        if not earlier:
            return
        number = 1
        while (aside := self.path / f"previous_{number}").exists():
            number += 1
        aside.mkdir()
        for file in earlier:
            file.rename(aside / file.name)

    def _append_csv(self, report: UpdateReport) -> None:
        path = self.path / CSV_NAME
        values = {"time/total_timesteps": report.num_timesteps, "train/status": report.status, **dict(logged_values(report))}
        _drop_cut_off_line(path)
        with path.open("a+", newline="", encoding="utf-8") as file:
            file.seek(0)
            # A resumed run keeps to the columns that the file began with.
            columns = next(csv.reader(file), None)
            writer = csv.DictWriter(file, columns or ["time/total_timesteps", "train/status", *KEYS], extrasaction="ignore")
            if columns is None:
                writer.writeheader()
            writer.writerow(values)


def _drop_cut_off_line(path: Path) -> None:
    """Remove what a kill left of a last line, so that it spoils no other."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _npy_names(report: UpdateReport) -> list[str]:
    return [f"{name}.npy" for name in _histories(report)]


def _header(n_rows: int, width: int) -> bytes:
    """NumPy pads the header so that the first axis may grow in place: its length does not depend on ``n_rows``."""
    shape = (n_rows,) if width == 1 else (n_rows, width)
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _append_npy(path: Path, row: Row) -> None:
    """Append a row, then correct the header: a kill in between loses that row only."""
    data = np.asarray(row, dtype="<f4").tobytes()
    start = len(_header(0, len(row)))
    if not path.exists() or path.stat().st_size < start:
        path.write_bytes(_header(0, len(row)))
    n_rows = (path.stat().st_size - start) // len(data)
    with path.open("r+b") as file:
        file.seek(start + n_rows * len(data))
        file.write(data)
        file.seek(0)
        file.write(_header(n_rows + 1, len(row)))
