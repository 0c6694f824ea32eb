"""The lines of a text file that nobody need trust, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sb3_trpo_ext.doctor.bounds import MAX_LINE, stretches

HEAD = 2
"""Lines at the beginning of a file that are read in any case: they name its columns (Monitor's second one does)."""


class Lines:
    """
    The lines of a text file; of a long one the ends of evenly spaced stretches.

    :param path: the file
    :param size: bytes that are read
    :param rows: lines that are read
    :param longest: bytes of a line; longer ones are passed over
    """

    def __init__(self, path: Path, size: int, rows: int, longest: int = MAX_LINE):
        self.path, self.rows, self.longest = path, rows, longest
        self.size = path.stat().st_size
        self.cut_off = False
        """Whether the last line has no end: it is being written, or was when the run was killed."""
        self.too_long = 0
        self.skipped_bytes = max(0, self.size - size)
        self.skipped_lines = 0
        self.read = 0
        self._stretches = stretches(self.size, size)

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            counts = [self._count(file, start, end) for start, end in self._stretches]
            total = sum(counts)
            for (start, end), count in zip(self._stretches, counts, strict=True):
                # The newest of each stretch, in proportion: together they are as many as may be read.
                share = count if total <= self.rows else max(1, self.rows * count // total)
                for line in self._lines(self._block(file, start, end), share, start == 0):
                    text = line.decode("utf-8", errors="replace").strip("\r\n")
                    if text.strip():
                        self.read += 1
                        yield text

    @property
    def share(self) -> float:
        """How much of the file was read, after reading."""
        rows = self.read / max(1, self.read + self.skipped_lines)
        return rows * (1.0 - self.skipped_bytes / max(1, self.size))

    def _count(self, file: BinaryIO, start: int, end: int) -> int:
        file.seek(start)
        return file.read(end - start).count(b"\n") + 1

    def _block(self, file: BinaryIO, start: int, end: int) -> bytes:
        """The lines that begin in a stretch."""
        file.seek(max(0, start - 1))
        while start and file.tell() < end:
            # The rest of a line of the stretch before; of none, if that has ended just here.
            rest = file.readline(self.longest)
            if rest.endswith(b"\n") or not rest:
                break
        block = file.read(max(0, end - file.tell()))
        return block if block.endswith(b"\n") or not block else block + file.readline(self.longest)

    def _lines(self, block: bytes, most: int, first: bool) -> Iterator[bytes]:
        """The last so many lines of a block; and before them the file's first ones, if it begins here."""
        splits = most + block.endswith(b"\n")
        lines = block.rsplit(b"\n", splits)
        if block.count(b"\n") > splits:
            *head, left = lines[0].split(b"\n", HEAD if first else 0)
            lines[:1] = head
            self.skipped_lines += left.count(b"\n") + 1
        end = lines.pop()
        for line in lines:
            if len(line) <= self.longest:
                self.cut_off = False
                yield line
            else:
                self.too_long += 1
        if len(end) > self.longest:
            self.too_long += 1
        elif end:
            self.cut_off = True
            yield end
