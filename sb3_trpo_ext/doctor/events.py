"""TensorBoard's event files: their records are framed here, within bounds, and unpacked by TensorBoard's own messages."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.doctor.bounds import MAX_COLUMNS, MAX_FILES, MAX_RECORD, stretches
from sb3_trpo_ext.doctor.reports import mebibytes
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import STEPS, Row

HEADER = struct.Struct("<QI")
CHECKSUM = 4

FRAME = re.compile(rb"(?s)(?=(?!\0\0)..\0{6}....)")
"""Where a record may begin: a length of two bytes, and a checksum."""

WINDOW, MAX_TRIES = 2**20, 50_000
"""Bytes that are searched for a record at once, and places that are tried in them."""

SB3_TAGS = ("train/", "rollout/", "time/")
BEGINNING = 1000
"""Records in which the first of them stands."""


def read_events(run: Run, paths: list[Path]) -> Iterator[Row]:
    """
    Read the scalars of event files as rows: what was written at one step belongs together.

    :param run: gets findings
    :param paths: the files, in the order in which they were begun
    :yields: numbers by tag, and the step
    """
    if len(paths) > MAX_FILES:
        run.left_out(f"{len(paths) - MAX_FILES} of {len(paths)} event files, the oldest")
    begun: dict[Path, tuple[int, float]] = {}
    for path in paths[-MAX_FILES:]:
        try:
            begun[path] = path.stat().st_size, _first_step(path)
        except OSError as error:
            run.find("DR002", path, why=error.strerror or str(error))
    allowed = min(1.0, run.limits.size / max(1, sum(size for size, _ in begun.values())))
    for place, (path, (size, _)) in enumerate(begun.items(), 1):
        # As in TensorBoard: who goes on from a checkpoint writes those steps again.
        replaced_from = min((step for _, step in islice(begun.values(), place, None)), default=math.inf)
        kept = True
        for row in _rows(run, path, int(allowed * size)):
            kept = float(row[STEPS]) < replaced_from
            if kept:
                yield row
        if not kept:
            run.find("DR012", path, from_step=int(replaced_from))
        if int(allowed * size) < size:
            run.left_out(f"{mebibytes(size - int(allowed * size))} of {mebibytes(size)}", path)


def _first_step(path: Path) -> float:
    """Of what SB3 logs; infinity where there is nothing of that."""
    with path.open("rb") as file:
        try:
            for record in islice(_records(file, 0, min(WINDOW, path.stat().st_size)), BEGINNING):
                for step, values in _scalars(record):
                    if next(iter(values)).startswith(SB3_TAGS):
                        return step
        except (EOFError, DecodeError):
            pass
    return math.inf


def _rows(run: Run, path: Path, allowed: int) -> Iterator[Row]:
    row: Row = {}
    for step, values in _steps(run, path, allowed):
        # A tag that comes again at the same step is the next row: an evaluation and a rollout may share it.
        if row and (row[STEPS] != step or values.keys() & row.keys()):
            yield row
            row = {}
        if len(row) < MAX_COLUMNS:
            row.update(values)
            row[STEPS] = float(step)
    if row:
        yield row


def _steps(run: Run, path: Path, allowed: int) -> Iterator[tuple[int, Row]]:
    size = path.stat().st_size
    read, damaged = 0, 0
    with path.open("rb") as file:
        for start, end in [(0, size)] if allowed >= size else stretches(size, allowed):
            try:
                for record in _records(file, start, end):
                    good = record is not None
                    try:
                        yield from _scalars(record)
                    except DecodeError:
                        good = False
                    read, damaged = read + good, damaged + (not good)
            except EOFError:
                run.find("DR004", path)
    if damaged:
        run.find("DR003" if read else "DR002", path, damaged_places=damaged, records_read=read)


def _records(file: BinaryIO, start: int, end: int) -> Iterator[bytes | None]:
    """Records that begin in a stretch of a file; None for a damaged one, behind which the next is looked for."""
    at = _next_record(file, start, end) if start else start
    while at < end:
        file.seek(at)
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise EOFError
        length, checksum = HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            yield None
            at = _next_record(file, at + 1, end)
            continue
        at += HEADER.size + length + CHECKSUM
        if length > MAX_RECORD:
            if at > file.seek(0, 2):
                raise EOFError
            continue
        record = file.read(length)
        tail = file.read(CHECKSUM)
        if len(tail) < CHECKSUM:
            raise EOFError
        yield record if masked_crc32c(record) == int.from_bytes(tail, "little") else None


def _next_record(file: BinaryIO, start: int, end: int) -> int:
    """Where the next record begins; the end of the stretch, if there is none."""
    while start < end:
        file.seek(start)
        data = file.read(min(WINDOW, end - start) + HEADER.size)
        for found in islice(FRAME.finditer(data), MAX_TRIES):
            at = found.start()
            length, checksum = HEADER.unpack_from(data, at)
            if length <= MAX_RECORD and masked_crc32c(data[at : at + 8]) == checksum:
                return start + at
        start += WINDOW
    return end


def _scalars(record: bytes | None) -> Iterator[tuple[int, Row]]:
    if record is None:
        return
    event = Event.FromString(record)
    for value in event.summary.value:
        number = _number(value)
        if number is not None and "/" in value.tag:
            yield max(0, event.step), {value.tag: number}


def _number(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind == "tensor" and len(value.tensor.float_val) == 1:
        return float(value.tensor.float_val[0])
    return None
