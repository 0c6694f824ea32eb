"""
The results: small CSVs that are committed.

A file is rewritten whole and moved into place under a lock, so a kill at any moment leaves the old or the new one, and
several runners can share a folder. A run's curve and configuration are written before its row in ``runs.csv``, which alone
makes it finished; what a kill in between left behind is replaced when the run is added again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from evidence.runs import Run

_IDENTITY = ["run", "task", "seed", "implementation", "overrides", "config_hash", "config_source", "numerics_version", "steps"]
_PROVENANCE = [
    "commit",
    "dirty",
    "python",
    "torch",
    "sb3",
    "sb3_contrib",
    "rl_zoo3",
    "gymnasium",
    "mujoco",
    "numpy",
    "machine",
]
RETURNS = ["return_mean", "return_std", "return_min", "return_max", "length_mean", "episodes"]
COLUMNS = {
    "runs": [
        *_IDENTITY,
        *RETURNS,
        *("steps_done", "seconds", "evaluation_seconds", "cpu_seconds", "updates", "updates_accepted", "updates_skipped"),
        *("largest_kl_ratio", "updates_lowered_share"),
        *_PROVENANCE,
        "finished",
    ],
    "curves": ["run", "task", "seed", "implementation", "steps", *RETURNS, "training_return", "training_episodes"],
    "failures": [*_IDENTITY, "error", *_PROVENANCE, "finished"],
}
Row = dict[str, Any]


def _cell(value: Any) -> Any:
    """Six digits are more than any of these measurements has."""
    return f"{value:.6g}" if isinstance(value, float) else value


class Store:
    """
    A folder of results.

    :param folder: where ``runs.csv``, ``curves.csv``, ``failures.csv`` and ``configurations.json`` are
    :param work: an ignored folder for the lock
    """

    def __init__(self, folder: Path, work: Path):
        self.folder, self.work = folder.absolute(), work.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.work / "results.lock")

    def rows(self, name: str) -> list[dict[str, str]]:
        """
        Read a table.

        :param name: a key of ``COLUMNS``
        :return: its rows as text; empty if there is none yet
        """
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def finished(self) -> set[str]:
        """Ids of the runs that have been done."""
        return {row["run"] for row in self.rows("runs")}

    def add(self, run: Run, result: Row, curve: list[Row]) -> None:
        """
        Keep a finished run; adding it twice changes nothing.

        :param run: the run
        :param result: its columns of ``runs.csv`` beside its identity
        :param curve: its rows of ``curves.csv`` beside its identity
        """
        with self._lock:
            if run.id in self.finished():
                return
            identity = run.identity()
            shared = {key: identity[key] for key in ("run", "task", "seed", "implementation")}
            self._add_configuration(run)
            self._replace("curves", run.id, [{**shared, **point} for point in curve])
            self._replace("failures", run.id, [])
            self._replace("runs", run.id, [{**identity, **result}])

    def add_failure(self, run: Run, error: str, provenance: Row) -> None:
        """
        Keep what went wrong, until the run succeeds.

        :param run: the run
        :param error: one line
        :param provenance: code, versions, machine
        """
        with self._lock:
            self._replace("failures", run.id, [{**run.identity(), "error": error, **provenance}])

    def _replace(self, name: str, run_id: str, rows: Iterable[Row]) -> None:
        old = self.rows(name)
        kept: list[Row] = [row for row in old if row["run"] != run_id]
        new = [{key: _cell(value) for key, value in row.items()} for row in rows]
        if not new and len(kept) == len(old):
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS[name], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *new])
        write_whole(self.folder / f"{name}.csv", text.getvalue())

    def _add_configuration(self, run: Run) -> None:
        path = self.folder / "configurations.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if run.entry and run.config_hash not in known:
            known[run.config_hash] = run.entry
            lines = [f"{json.dumps(key)}: {json.dumps(known[key], sort_keys=True)}" for key in sorted(known)]
            write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_whole(path: Path, text: str) -> None:
    """
    Write a file whole or not at all, whenever this process is killed.

    :param path: the file
    :param text: its content
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
