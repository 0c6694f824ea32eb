"""Files that nobody need trust, read within bounds: so many bytes, so long lines, so many points."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

Kept = TypeVar("Kept")

MAX_BYTES = 2**26
"""Of a log that is read whole: some 10,000 updates of 5 KB."""

BLOCKS = 8
"""Of a longer one, so many stretches, evenly spaced: monitors judge updates that follow each other."""

MAX_LINE = 2**19
"""Bytes of a line; a report with 1,000 iterations of conjugate gradient has 50,000."""

MAX_SMALL = 2**18
"""Bytes of a configuration; the Zoo's have 2,000."""

MAX_POINTS = 1500
"""Of a curve: more than a screen has columns."""

MAX_TEXT = 240
"""Characters of a text from a file that are shown."""


def is_file(path: Path) -> bool:
    """
    Whether this can be read to an end: a pipe or a device can't.

    :param path: anything
    :return: whether it is a regular file
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def clean(text: object, limit: int = MAX_TEXT) -> str:
    """
    Make a text from a file harmless to a terminal: one line, without control characters, not too long.

    :param text: anything
    :param limit: characters
    :return: what is shown
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 4 * limit])
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


class Lines:
    """
    The lines of a text file, within bounds.

    :param path: the file
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = path.stat().st_size
        self.cut_off = False
        """Whether the last line has no end: it is being written, or was when the run was killed."""
        self.too_long = 0

    @property
    def skipped(self) -> int:
        """Bytes that are not read."""
        return max(0, self.size - MAX_BYTES)

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            for start, end in self._stretches():
                file.seek(start)
                if start:
                    self._next(file)
                while file.tell() < end:
                    line = self._next(file)
                    if line is None:
                        continue
                    if not line:
                        break  # it has been cut off since it was opened
                    self.cut_off = not line.endswith(b"\n")
                    text = line.decode("utf-8", errors="replace").strip("\r\n")
                    if text.strip():
                        yield text

    def _stretches(self) -> list[tuple[int, int]]:
        if not self.skipped:
            return [(0, self.size)]
        length = MAX_BYTES // BLOCKS
        apart = (self.size - length) / (BLOCKS - 1)
        return [(round(number * apart), round(number * apart) + length) for number in range(BLOCKS)]

    def _next(self, file: object) -> bytes | None:
        """A line; None for one that is too long, which is passed over."""
        line: bytes = file.readline(MAX_LINE)  # type: ignore[attr-defined]
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            return line
        self.too_long += 1
        while len(rest := file.readline(MAX_LINE)) == MAX_LINE and not rest.endswith(b"\n"):  # type: ignore[attr-defined]
            if file.tell() > self.size:  # type: ignore[attr-defined]
                break
        return None


class Thinned(Generic[Kept]):
    """
    A list that stays short: when it is full, every second one goes, and from then on fewer are kept.

    :param limit: how many there can be
    """

    def __init__(self, limit: int = MAX_POINTS):
        self.limit = limit
        self.seen = 0
        self._every = 1
        self._kept: list[Kept] = []
        self._newest: Kept | None = None

    def append(self, value: Kept) -> None:
        """
        Add one.

        :param value: the newest
        """
        if self.seen % self._every == 0:
            self._kept.append(value)
            if len(self._kept) > self.limit:
                self._kept = self._kept[::2]
                self._every *= 2
        self._newest = value
        self.seen += 1

    def values(self) -> list[Kept]:
        """Those that are kept, evenly spaced, and the newest."""
        if self._newest is not None and (self.seen - 1) % self._every:
            return [*self._kept, self._newest]
        return list(self._kept)
