"""CSV files: SB3's and our ``progress.csv``, and the episodes in ``monitor.csv``."""

from __future__ import annotations

import csv
import json
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sb3_trpo_ext.doctor.bounds import Lines
from sb3_trpo_ext.doctor.reports import say_lines
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import STATUS, Row

MAX_COLUMNS = 500

EPISODES = 100
"""Episodes that a mean return is taken of, as SB3 does."""

MAX_EPISODES = 200_000
"""Read of all Monitor files of a run."""


def read_rows(run: Run, path: Path) -> Iterator[Row]:
    """
    Read a logger's file row by row.

    :param run: gets findings
    :param path: the file
    :yields: numbers (NaN too), and the texts of ``train/status``, by column; empty cells are left out
    """
    lines = Lines(path)
    header: list[str] | None = None
    read, bad, last_bad = 0, 0, False
    for line in lines:
        cells = _cells(line)
        if header is None:
            header = cells or []
            if not 0 < len(header) <= MAX_COLUMNS or not any("/" in name for name in header):
                run.find("DR002", path, why="its first line names no columns of a logger")
                return
            continue
        row = _row(header, cells)
        last_bad = row is None or lines.cut_off
        if row is None or lines.cut_off:
            bad += 1
            continue
        read += 1
        yield row
    say_lines(run, path, lines, bad + lines.too_long, last_bad, "a row that does not fit its header", read)
    if header is None:
        run.find("DR004", path, why="it is empty yet")


def _cells(line: str) -> list[str] | None:
    try:
        return next(csv.reader([line], strict=True), None)
    except csv.Error:
        return None


def _row(header: list[str], cells: list[str] | None) -> Row | None:
    if cells is None or len(cells) != len(header):
        return None
    row: Row = {}
    for name, cell in zip(header, cells, strict=True):
        if name == STATUS and cell:
            row[name] = cell
        elif cell:
            try:
                row[name] = float(cell)
            except ValueError:
                # A logger writes texts too; a figure of ours is never one.
                if name.startswith("train/"):
                    return None
    return row


def read_episodes(run: Run, paths: list[Path]) -> None:
    """
    Read Monitor files: the mean return of the last episodes, by environment steps.

    :param run: gets returns, the environment's id and findings
    :param paths: one for each environment
    """
    episodes: list[tuple[float, float, float]] = []
    for path in paths:
        episodes += _episodes(run, path, MAX_EPISODES // len(paths))
    newest: deque[float] = deque(maxlen=EPISODES)
    steps = 0.0
    for _, length, value in sorted(episodes):
        steps += length
        newest.append(value)
        run.returns.append((steps, sum(newest) / len(newest)))
    run.num_timesteps = max(run.num_timesteps, int(steps))


def _episodes(run: Run, path: Path, most: int) -> list[tuple[float, float, float]]:
    """When each episode ended, its length and its return."""
    lines = Lines(path)
    columns: list[str] | None = None
    found: list[tuple[float, float, float]] = []
    bad, last_bad = 0, False
    for line in lines:
        if line.startswith("#") and columns is None:
            run.settings.setdefault("env", _environment(line[1:]))
            continue
        cells = _cells(line) or []
        if columns is None:
            columns = cells
            if not {"r", "l", "t"} <= set(columns):
                run.find("DR002", path, why="no Monitor file: it has no columns r, l and t")
                return []
            continue
        episode = _episode(columns, cells)
        last_bad = episode is None or lines.cut_off
        if episode is None or lines.cut_off:
            bad += 1
        elif len(found) < most:
            found.append(episode)
    say_lines(run, path, lines, bad + lines.too_long, last_bad, "no episode", len(found))
    return found


def _episode(columns: list[str], cells: list[str]) -> tuple[float, float, float] | None:
    try:
        value, length, time = (float(cells[columns.index(name)]) for name in "rlt")
    except (ValueError, IndexError):
        return None
    sane = all(map(math.isfinite, (value, length, time))) and 0 <= length < 1e12 and abs(value) < 1e300
    return (time, length, value) if sane else None


def _environment(text: str) -> Any:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = header.get("env_id") if isinstance(header, dict) else None
    return name if isinstance(name, str) else None
