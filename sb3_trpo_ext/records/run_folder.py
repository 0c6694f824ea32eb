"""
The run folder: what every run leaves behind, one row a recorded update in every file (``files``
says what is in them, ``thinning`` which updates are).

Each update is appended where the last one ended, whatever the length of the run, and the header of a history follows its
data, so that ``np.load`` reads it at any moment. A kill loses at most the update that was being written: a run that goes on
begins by writing every file again from ``updates.jsonl``, up to the update that it goes on from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.atomic import atomic, remove_unfinished
from sb3_trpo_ext.records.files import (
    ALARMS_NAME,
    CSV_NAME,
    DUMPS_NAME,
    RECORD_NAME,
    SPARE_CSV_NAME,
    WIDTHS,
    follows_from,
    headers,
    row,
)
from sb3_trpo_ext.records.updates_file import Place, choose, find_records, other_lines, records_at


class RunFolder:
    """
    Writes a run's folder.

    :param path: the folder; made with the first update
    :param resume: whether to go on with files that are there, instead of putting them aside
    :param cut: whether updates in them that will happen again are dropped, instead of being put aside
    """

    def __init__(self, path: Path, resume: bool, cut: bool = False):
        self.path = path
        self._fresh = not resume
        self._cut = cut
        self._aside: _Aside | None = None
        self._goes_on_at: int | None = None
        self._csv_name: str | None = None
        self._last = 0
        self._n_rows = 0
        self._sizes: dict[str, int] = {}

    def write(self, report: UpdateReport, csv_name: str = CSV_NAME) -> None:
        """
        Append one update to every file, or to none.

        :param report: the update
        :param csv_name: ``CSV_NAME``, or ``SPARE_CSV_NAME`` where another writer has taken that
        :raises OSError: if that is impossible, or another run has begun to write there
        """
        if csv_name != self._csv_name or report.n_updates <= self._last or not self._as_left():
            self._begin(report.n_updates, csv_name)
        self._append(report)
        self._last = report.n_updates

    def _as_left(self) -> bool:
        """Whether every file is as the last update left it; what somebody has removed or spoilt can be written again."""
        sizes = {name: self._path(name).stat().st_size for name in self._sizes if self._path(name).exists()}
        if sizes.get(RECORD_NAME, 0) not in (0, self._sizes[RECORD_NAME]):
            raise OSError(f"another run writes to it: {RECORD_NAME} has changed")
        return sizes == self._sizes

    def _path(self, name: str, csv_name: str | None = None) -> Path:
        return self.path / ((csv_name or self._csv_name or name) if name == CSV_NAME else name)

    # ---------------------------------------------------------------- the first update of a run, or of one that goes on

    def _begin(self, n_updates: int, csv_name: str) -> None:
        """Bring all files to the same rows: those before this update."""
        self._csv_name = None
        # If the last attempt has failed: where that was going to begin. Later rows belong to another run.
        self._goes_on_at = n_updates if self._goes_on_at is None else min(n_updates, self._goes_on_at)
        self.path.mkdir(parents=True, exist_ok=True)
        for name in headers(0):
            remove_unfinished(self._path(name, csv_name))
        kept = self._keep(self._goes_on_at, csv_name)
        self._write_again(kept, csv_name)
        self._csv_name, self._aside, self._goes_on_at = csv_name, None, None

    def _write_again(self, kept: list[Place], csv_name: str) -> None:
        """Each file whole under another name, one update at a time; then all of them into place."""
        self._n_rows, self._sizes = len(kept), {}
        paths = {name: self._path(name, csv_name) for name in headers(0)}
        with ExitStack() as stack:
            # A stack ends backwards: every file is closed, then the record is put into place, then its views.
            parts = {name: stack.enter_context(atomic(path)) for name, path in reversed(paths.items())}
            files = {name: stack.enter_context(part.open("wb")) for name, part in parts.items()}
            for name, header in headers(len(kept)).items():
                files[name].write(header)
            for text, report in records_at(self.path / RECORD_NAME, kept):
                for name, data in row(report, text).items():
                    files[name].write(data)
            self._sizes = {name: file.tell() for name, file in files.items()}

    def _keep(self, n_updates: int, csv_name: str) -> list[Place]:
        """Put aside what is in the folder and does not belong to the updates before this one: nothing is lost."""
        # The same one if the last attempt has failed.
        aside = self._aside = self._aside or _Aside(self.path)
        if self._fresh:
            theirs = [CSV_NAME] if csv_name == CSV_NAME else []
            aside.move([*theirs, SPARE_CSV_NAME, RECORD_NAME, ALARMS_NAME, DUMPS_NAME, *WIDTHS])
            self._fresh = False
        record = self.path / RECORD_NAME
        places, end = find_records(record)
        kept = choose(places, n_updates)
        # A resumed run cuts what came after its checkpoint: it will happen again.
        aside.add(RECORD_NAME, other_lines(record, places if self._cut else kept, end))
        views = {name: self._path(name, csv_name) for name in (CSV_NAME, *WIDTHS)}
        aside.move([path.name for name, path in views.items() if path.exists() and not follows_from(path, name, len(places))])
        spare = self.path / SPARE_CSV_NAME
        if csv_name == CSV_NAME and spare.exists() and follows_from(spare, CSV_NAME, len(places)):
            spare.unlink()
        return kept

    # ---------------------------------------------------------------- every update

    def _append(self, report: UpdateReport) -> None:
        """Rows first, then the headers that count them; what fails on the way leaves the files as they were."""
        rows = row(report, report.to_json())
        try:
            for name, data in rows.items():
                with self._path(name).open("r+b") as file:
                    file.seek(self._sizes[name])
                    file.write(data)
                    file.truncate()
            self._count(self._n_rows + 1)
        except BaseException:
            try:
                self._count(self._n_rows)
                for name, size in self._sizes.items():
                    os.truncate(self._path(name), size)
            except OSError:
                self._csv_name = None  # so that the next update begins by writing them again
            raise
        self._n_rows += 1
        for name, data in rows.items():
            self._sizes[name] += len(data)

    def _count(self, n_rows: int) -> None:
        fresh = headers(n_rows)
        for name in WIDTHS:
            with self._path(name).open("r+b") as file:
                file.write(fresh[name])


class _Aside:
    """
    A folder beside the files, for those of an earlier run; made when there is something to put there.

    :param path: the run folder
    """

    def __init__(self, path: Path):
        self.path = path
        self._folder: Path | None = None

    def folder(self) -> Path:
        """Make it."""
        if self._folder is None:
            number = 1
            while (self.path / f"previous_{number}").exists():
                number += 1
            self._folder = self.path / f"previous_{number}"
            self._folder.mkdir()
        return self._folder

    def add(self, name: str, lines: Iterator[bytes]) -> None:
        """
        Write a file there, if it has any line.

        :param name: the file
        :param lines: one at a time
        """
        first = next(lines, None)
        if first is None:
            return
        with (self.folder() / name).open("wb") as file:
            file.writelines(chain([first], lines))

    def move(self, names: list[str]) -> None:
        """
        Move files there.

        :param names: those which exist are moved
        """
        for name in names:
            if (self.path / name).exists():
                (self.path / name).rename(self.folder() / name)
