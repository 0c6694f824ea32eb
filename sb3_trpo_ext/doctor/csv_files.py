"""CSV files: SB3's and our ``progress.csv``, and the episodes in ``monitor.csv``."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sb3_trpo_ext.doctor.bounds import MAX_COLUMNS
from sb3_trpo_ext.doctor.reports import say_lines
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import STATUS, Row

EPISODES = 100
"""Episodes that a mean return is taken of, as SB3 does."""

LARGEST_RETURN = 1e300
"""Sums of larger ones overflow; NaN is not smaller either."""


def read_rows(run: Run, path: Path) -> Iterator[Row]:
    """
    Read a logger's file row by row.

    :param run: gets findings
    :param path: the file
    :yields: numbers (NaN too), and the texts of ``train/status``, by column; empty cells are left out
    """
    lines = run.lines(path)
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
    if '"' not in line:
        return line.split(",")
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
    files: list[np.ndarray] = []
    for path in paths:
        try:
            files.append(_episodes(run, path, len(paths)))
        except OSError as error:
            run.find("DR002", path, why=error.strerror or str(error))
    episodes = np.concatenate([found for found in files if len(found)] or [np.empty((0, 3))])
    # Times in the order in which they were written, those of several environments interleaved.
    episodes = episodes[np.argsort(episodes[:, 0], kind="stable")]
    steps = np.cumsum(episodes[:, 1])
    for place in evenly(len(steps), run.limits.points):
        newest = episodes[max(0, place + 1 - EPISODES) : place + 1, 2]
        run.returns.append((float(steps[place]), float(newest.mean())))
    run.num_timesteps = max(run.num_timesteps, int(steps[-1]) if len(steps) else 0)


def evenly(length: int, most: int) -> list[int]:
    """
    Choose places of a long array that is drawn.

    :param length: of the array
    :param most: how many places
    :return: places, the first and the last among them
    """
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist() if length else []


def _episodes(run: Run, path: Path, n_files: int) -> np.ndarray:
    """When each episode ended, its length and its return; those left out are in the lengths of the others."""
    lines = run.lines(path, rows=run.limits.episodes // n_files, size=run.limits.size // n_files)
    columns: list[int] | None = None
    found, infinite, bad, last_bad = array("d"), 0, 0, False
    for line in lines:
        if line.startswith("#") and columns is None:
            run.settings.setdefault("env", _environment(line[1:]))
            continue
        cells = _cells(line) or []
        if columns is None:
            if not {"r", "l", "t"} <= set(cells):
                run.find("DR002", path, why="no Monitor file: it has no columns r, l and t")
                return np.empty((0, 3))
            columns = [cells.index(name) for name in "tlr"]
            continue
        episode = _episode(columns, cells)
        last_bad = episode is None or lines.cut_off
        if episode is None or lines.cut_off:
            bad += 1
        elif abs(episode[2]) < LARGEST_RETURN:
            found.extend(episode)
        else:
            infinite += 1
    say_lines(run, path, lines, bad + lines.too_long, last_bad, "no episode", len(found) // 3, drawn_only=True)
    if infinite:
        run.find("DR008", path, keys="r", episodes=infinite)
    episodes = np.array(found).reshape(-1, 3)
    episodes[:, 1] /= max(lines.share, 1e-9)
    return episodes


def _episode(columns: list[int], cells: list[str]) -> tuple[float, float, float] | None:
    """None if it is none; a return that is not finite is one."""
    try:
        time, length, value = (float(cells[column]) for column in columns)
    except (ValueError, IndexError):
        return None
    return (time, length, value) if math.isfinite(time) and 0.0 <= length < 1e12 else None


def _environment(text: str) -> Any:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = header.get("env_id") if isinstance(header, dict) else None
    return name if isinstance(name, str) else None
