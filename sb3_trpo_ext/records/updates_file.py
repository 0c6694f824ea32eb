"""
``updates.jsonl``, line by line: a run that goes on holds one report of it in memory at a time, however long the file is, or
its lines are. (What it keeps of each is where it stands.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sb3_trpo_ext.core.report import UpdateReport

LONGEST_LINE = 2**20
"""Bytes of a record; a report with 1,000 iterations of conjugate gradient has 50,000."""

QUANTILES = 5
"""Of the advantages, in a report that has any."""


@dataclass(frozen=True)
class Place:
    """
    Where a record stands.

    :param n_updates: the update that it is of
    :param start: its first byte in the file
    :param size: its bytes, with the end of the line
    """

    n_updates: int
    start: int
    size: int


def find_records(path: Path) -> tuple[list[Place], int]:
    """
    Find the lines that are records.

    :param path: the file, which need not exist
    :return: where they stand, in their order; and where a last line begins that a kill has cut off (or the file's end)
    """
    places: list[Place] = []
    line_start = 0
    for start, piece in _pieces(path):
        n_updates = _update_of(piece) if start == line_start else None
        if n_updates is not None:
            places.append(Place(n_updates, start, len(piece)))
        if n_updates is not None or piece.endswith(b"\n"):
            line_start = start + len(piece)
    return places, line_start


def choose(places: Iterable[Place], before: int) -> list[Place]:
    """
    Choose the records that a run which goes on stands on: rising, each update once, as it was written last.

    :param places: of all records, in their order
    :param before: number of the update that comes next: what was that one, and all later ones, will happen again
    :return: those
    """
    kept: list[Place] = []
    for place in places:
        if place.n_updates >= before:
            continue
        while kept and kept[-1].n_updates >= place.n_updates:
            kept.pop()
        kept.append(place)
    return kept


def records_at(path: Path, places: Iterable[Place]) -> Iterator[tuple[str, UpdateReport]]:
    """
    Read records.

    :param path: the file
    :param places: of ``find_records``
    :yields: the line without its end, and what it says
    """
    for text in map(bytes.decode, _read_at(path, places)):
        yield text.rstrip("\n"), parse(text)


def other_lines(path: Path, kept: Iterable[Place], end: int) -> Iterator[bytes]:
    """
    Read all that is not in certain records.

    :param path: the file
    :param kept: the records
    :param end: where to stop
    :yields: lines, or pieces of lines that are too long; no empty ones
    """
    starts = {place.start for place in kept}
    begins = True
    for start, piece in _pieces(path):
        if start < end and start not in starts and not (begins and piece == b"\n"):
            yield piece
        begins = piece.endswith(b"\n")


def parse(text: str) -> UpdateReport:
    """
    Read a line.

    :param text: the line
    :return: its report
    :raises ValueError: if it is none, or none that fits into the histories
    """
    report = UpdateReport.from_json(text)
    if len(report.advantage_quantiles) not in (0, QUANTILES):
        raise ValueError("would not fit into the histories")
    return report


def _update_of(piece: bytes) -> int | None:
    if len(piece) >= LONGEST_LINE:
        return None
    try:
        return parse(piece.decode()).n_updates
    except ValueError:
        return None


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines and where they begin; of one that is too long, its pieces."""
    if not path.is_file():
        return
    start = 0
    with path.open("rb") as file:
        while piece := file.readline(LONGEST_LINE):
            yield start, piece
            start += len(piece)


def _read_at(path: Path, places: Iterable[Place]) -> Iterator[bytes]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for place in places:
            file.seek(place.start)
            yield file.read(place.size)
