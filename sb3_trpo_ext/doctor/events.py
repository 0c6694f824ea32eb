"""TensorBoard's event files: their records are framed here, within bounds, and unpacked by TensorBoard's own messages."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.doctor.bounds import MAX_BYTES
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import STEPS, Row

HEADER = struct.Struct("<QI")
CHECKSUM = 4

MAX_RECORD = 2**14
"""Bytes of a record that is unpacked; SB3's scalars have 60. Longer ones are images and histograms."""

MAX_TAGS = 500
"""Of one row."""


class DamagedError(ValueError):
    """The file is not what TensorBoard writes."""


def read_events(run: Run, paths: list[Path]) -> Iterator[Row]:
    """
    Read the scalars of event files as rows: what was written at one step belongs together.

    :param run: gets findings
    :param paths: the files, in the order in which they were begun
    :yields: numbers by tag, and the step
    """
    for path in paths:
        row: Row = {}
        for step, values in _steps(run, path):
            # A tag that comes again at the same step is the next row: an evaluation and a rollout may share it.
            if row and (row[STEPS] != step or values.keys() & row.keys()):
                yield row
                row = {}
            if len(row) < MAX_TAGS:
                row = {**row, **values, STEPS: float(step)}
        if row:
            yield row


def _steps(run: Run, path: Path) -> Iterator[tuple[int, Row]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            for record in _records(file, min(size, MAX_BYTES)):
                yield from _scalars(record)
        except EOFError:
            if size <= MAX_BYTES:
                run.find("DR004", path)
        except DamagedError as error:
            run.find("DR002", path, byte=file.tell(), of=size, why=str(error))
    if size > MAX_BYTES:
        run.find("DR005", path, mebibytes=size >> 20, skipped=(size - MAX_BYTES) >> 20)


def _records(file: BinaryIO, end: int) -> Iterator[bytes]:
    while file.tell() < end:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise EOFError
        length, checksum = HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            raise DamagedError("a wrong checksum: what follows can't be found")
        if length > MAX_RECORD:
            if file.tell() + length + CHECKSUM > end:
                raise EOFError
            file.seek(length + CHECKSUM, 1)
            continue
        record = file.read(length)
        tail = file.read(CHECKSUM)
        if len(tail) < CHECKSUM:
            raise EOFError
        if masked_crc32c(record) != int.from_bytes(tail, "little"):
            raise DamagedError("a record with a wrong checksum")
        yield record


def _scalars(record: bytes) -> Iterator[tuple[int, Row]]:
    try:
        event = Event.FromString(record)
    except DecodeError as error:
        raise DamagedError("a record that is no event") from error
    for value in event.summary.value:
        number = _number(value)
        if number is not None and "/" in value.tag:
            yield max(0, event.step), {value.tag: number}


def _number(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind == "tensor" and len(value.tensor.float_val) == 1:
        number = float(value.tensor.float_val[0])
        return number if math.isfinite(number) else None
    return None
