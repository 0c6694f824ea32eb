"""
The framing of a ``.wandb`` file, without wandb: from bytes to records (wandb's protobuf message ``Record`` each).

It is LevelDB's log format: a header of 7 bytes, then blocks of 32 KiB; in them, chunks of a 7-byte header (checksum, length,
kind) and a payload. A record is one chunk ("full"), or several ("first", "middle", "last"). At the end of a file that was not
finished a cut-off record is normal; anywhere else a checksum that is wrong is an error.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

BLOCK = 32 * 1024
CHUNK = struct.Struct("<IHB")
HEADER = struct.Struct("<4sHB")
IDENT, MAGIC, VERSION = b":W&B", 0xBEE1, 0
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

MAX_FILE = 1 << 30
"""Bytes of a file that is read: nobody's run of ours comes near it."""

MAX_RECORD = 64 << 20
"""Bytes of one record."""


class WandbLogError(ValueError):
    """The file is not what W&B writes, or larger than what is read."""


def read_records(path: Path) -> Iterator[bytes]:
    """
    Read a file's records.

    :param path: a ``.wandb`` file; one that is being written is read as far as it goes
    :yields: one record each
    :raises WandbLogError: no such file format, a wrong checksum, or more bytes than the bounds
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise WandbLogError(f"{path} is no file")
    if path.stat().st_size > MAX_FILE:
        raise WandbLogError(f"{path} has more than {MAX_FILE} bytes")
    data = path.read_bytes()
    if len(data) < HEADER.size or HEADER.unpack_from(data) != (IDENT, MAGIC, VERSION):
        raise WandbLogError(f"{path} does not begin as a .wandb file does")
    record = bytearray()
    for kind, payload in _chunks(data, path):
        if kind in (FULL, FIRST):
            record.clear()
        record += payload
        if len(record) > MAX_RECORD:
            raise WandbLogError(f"{path} holds a record of more than {MAX_RECORD} bytes")
        if kind in (FULL, LAST):
            yield bytes(record)
            record.clear()


def _chunks(data: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    at = HEADER.size
    while at + CHUNK.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < CHUNK.size:  # too little for a header: padding
            at += left
            continue
        checksum, length, kind = CHUNK.unpack_from(data, at)
        end = at + CHUNK.size + length
        if (checksum, length, kind) == (0, 0, 0):  # the rest of a block that was never written
            at += left
            continue
        if end > len(data):  # cut off
            return
        payload = data[at + CHUNK.size : end]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or checksum != zlib.crc32(payload, zlib.crc32(bytes([kind]))):
            raise WandbLogError(f"{path}: the chunk at byte {at} is damaged")
        yield kind, payload
        at = end
