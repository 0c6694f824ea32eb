"""
What the files of a run folder hold: one row a recorded update (``thinning``), as bytes.

``updates.jsonl`` (whole reports) is the record; the others are views of it, and can be written again from it:
``progress.csv`` (the logged keys), and histories that one line of NumPy looks at: ``advantages.npy`` (n_updates, 7: mean,
std, min, 5 %, 50 %, 95 %, max), ``vf_loss.npy`` (n_updates, 2: before, after), ``kl.npy`` and ``entropy.npy``
(n_updates,), float32, NaN where nothing was computed.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.keys import KEYS, logged_values

RECORD_NAME = "updates.jsonl"
CSV_NAME = "progress.csv"
SPARE_CSV_NAME = "updates.csv"
"""Ours, where SB3's own CSV logger writes a ``progress.csv`` into the same folder."""

ALARMS_NAME = "alarms.jsonl"
"""What monitors have raised, a line each."""

DUMPS_NAME = "dumps"
"""Folder of what the flight recorder has dumped."""

LONGEST_ROW = 2**14
"""Bytes of a row of the CSV, quoted texts and all; they have 1,000."""

COLUMNS = ("time/total_timesteps", "train/status", *KEYS)
WIDTHS: Mapping[str, int] = {"advantages.npy": 7, "vf_loss.npy": 2, "kl.npy": 1, "entropy.npy": 1}


def row(report: UpdateReport, text: str) -> dict[str, bytes]:
    """
    Give what one update adds to each file, in the order in which they are written: the record first.

    :param report: the update
    :param text: the same as JSON
    :return: bytes by file name
    """
    return {
        RECORD_NAME: f"{text}\n".encode(),
        CSV_NAME: _csv_row(report),
        **{name: np.asarray(values, dtype="<f4").tobytes() for name, values in _histories(report).items()},
    }


def headers(n_rows: int) -> dict[str, bytes]:
    """
    Give what each file begins with; its length does not depend on ``n_rows`` (NumPy pads, so that an array may grow).

    :param n_rows: updates in the file
    :return: bytes by file name
    """
    return {
        RECORD_NAME: b"",
        CSV_NAME: ",".join(COLUMNS).encode() + b"\r\n",
        **{name: _npy_header(n_rows, width) for name, width in WIDTHS.items()},
    }


def follows_from(path: Path, name: str, n_records: int) -> bool:
    """
    Whether a file says nothing that the records don't.

    :param path: the file
    :param name: which one it is
    :param n_records: number of records
    :return: whether it can be written again from them
    """
    try:
        if name == CSV_NAME:
            if path.stat().st_size > LONGEST_ROW * (n_records + 1):
                return False
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                # Other columns: SB3's own file, or another version's.
                return set(next(reader, [])) <= set(COLUMNS) and sum(1 for _ in reader) <= n_records
        return _npy_rows(path) <= n_records
    except (ValueError, csv.Error):
        return False


def _npy_rows(path: Path) -> int:
    """By its header alone, which can promise more than there is, or than a machine holds."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of files that Python 2 might have written
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("not as we write it")
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        except OSError:
            raise
        except Exception as error:  # NumPy lets through what its parser of headers raises
            raise ValueError(f"no array: {type(error).__name__}") from error
    if not shape:
        raise ValueError("a single number")
    return int(shape[0])


def _csv_row(report: UpdateReport) -> bytes:
    text = StringIO(newline="")
    values = {"time/total_timesteps": report.num_timesteps, "train/status": report.status, **dict(logged_values(report))}
    csv.DictWriter(text, COLUMNS).writerow(values)
    return text.getvalue().encode()


def _histories(report: UpdateReport) -> dict[str, tuple[float, ...]]:
    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    advantages = (number(report.advantage_mean), number(report.advantage_std), *report.advantage_quantiles)
    return {
        "advantages.npy": advantages if report.advantage_quantiles else (float("nan"),) * WIDTHS["advantages.npy"],
        "vf_loss.npy": (number(report.value_loss_before), number(report.value_loss_after)),
        "kl.npy": (report.kl,),
        "entropy.npy": (number(report.entropy),),
    }


def _npy_header(n_rows: int, width: int) -> bytes:
    shape = (n_rows,) if width == 1 else (n_rows, width)
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
