"""Every bound of the doctor: files that nobody need trust are read within them, and what is left out is said (DR005)."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Kept = TypeVar("Kept")

# ---------------------------------------------------------------- which runs

MAX_DEPTH = 6
"""Folders below the one that was named: logs/trpo/TASK_1 are three."""

MAX_ENTRIES = 100_000
"""Files and folders that are looked at on the way to runs."""

MAX_RUNS = 200
"""A page with more can't be looked at."""

MAX_SETTINGS = 20
"""Folders of a run's folder that may hold its settings: the Zoo's has one."""

# ---------------------------------------------------------------- how much of a run: see Limits

MAX_BYTES = 2**26
"""Of one log (all event files of a run together): some 10,000 updates of ours."""

ALL_BYTES = 2**29
"""Of the logs of one kind of all runs together."""

MAX_ROWS = 100_000
"""Updates of one log that are judged: 0.3 ms each."""

ALL_ROWS = 200_000
"""Updates of the logs of one kind of all runs together."""

MAX_EPISODES = 1_000_000
"""Of all Monitor files of a run; they are drawn, not judged."""

BLOCKS = 8
"""Of a longer file, so many stretches, evenly spaced: monitors judge updates that follow each other."""

MAX_FILES = 100
"""Of one kind in a run's folder: Monitor files (one an environment), event files, W&B's."""

# ---------------------------------------------------------------- parts of a file

MAX_LINE = 2**19
"""Bytes of a line; a report with 1,000 iterations of conjugate gradient has 50,000."""

MAX_COLUMNS = 500
"""Of a CSV file; tags of TensorBoard or keys of W&B in one row."""

MAX_RECORD = 2**14
"""Bytes of TensorBoard's record that is unpacked; SB3's scalars have 60. Longer ones are images and histograms."""

MAX_VALUE = 4096
"""Characters of a value of W&B's; numbers have 20."""

MAX_SMALL = 2**18
"""Bytes of a configuration; the Zoo's have 2,000."""

MAX_MEMBERS = 20
"""Arrays of an evaluations.npz: it has 3 or 4."""

MAX_HEADER = 2**22
"""Bytes of a dump's JSON; 50 reports of 20 KB are 1 MB."""

MAX_DUMPS = 50
"""Files that are looked at; the recorder keeps 10 dumps."""

MAX_EVIDENCE = 12
"""Numbers of an alarm."""

MAX_STARTS = 200
"""Beginnings of troubles that are marked on the page, the newest."""

# ---------------------------------------------------------------- what is shown

MAX_POINTS = 1500
"""Of a curve: more than a screen has columns."""

ALL_POINTS = 6000
"""Of one curve of all runs of a page together."""

FEWEST_POINTS = 60
"""Of a curve, however many runs there are."""

MAX_LAYERS = 40
"""Kept of an update for the page, the worst of them."""

MAX_TEXT = 240
"""Characters of a text from a file that are shown."""

ENOUGH = 10
"""Updates with which the monitors can see more than a single bad one."""


@dataclass(frozen=True)
class Limits:
    """
    How much of each log of a run is read, and how much of it is drawn.

    :param size: bytes of a log
    :param rows: updates of a log
    :param episodes: of all Monitor files
    :param points: of a curve
    """

    size: int = MAX_BYTES
    rows: int = MAX_ROWS
    episodes: int = MAX_EPISODES
    points: int = MAX_POINTS

    @classmethod
    def each_of(cls, n_runs: int) -> Limits:
        """
        Divide what there is among runs: then the time and the page are bounded, however many there are.

        :param n_runs: how many runs are read
        :return: the limits of each
        """
        return cls(
            min(MAX_BYTES, ALL_BYTES // n_runs),
            min(MAX_ROWS, ALL_ROWS // n_runs),
            MAX_EPISODES // n_runs,
            min(MAX_POINTS, max(FEWEST_POINTS, ALL_POINTS // n_runs)),
        )


def stretches(size: int, allowed: int) -> list[tuple[int, int]]:
    """
    Choose which bytes of a file are read.

    :param size: bytes of the file
    :param allowed: bytes that may be read
    :return: beginnings and ends of ``BLOCKS`` stretches, the first at the beginning and the last at the end
    """
    length = min(size, allowed) // BLOCKS
    apart = (size - length) / (BLOCKS - 1)
    found = [(round(number * apart), round(number * apart) + length) for number in range(BLOCKS)]
    if size <= allowed:
        # Side by side: everything.
        return [(number * length, (number + 1) * length if number < BLOCKS - 1 else size) for number in range(BLOCKS)]
    return found


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
