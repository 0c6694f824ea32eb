"""Which runs lie below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sb3_trpo_ext.doctor.read import DUMPS, EVENTS, is_record, listing, read_run
from sb3_trpo_ext.doctor.run import Run

MAX_DEPTH = 6
"""Folders below the one that was named: logs/trpo/TASK_1 are three."""

MAX_FOLDERS = 5000
MAX_RUNS = 200
"""So many are read; a page with more can't be looked at either."""

ASIDE = "previous_"
"""What a run that goes on has put aside."""


def runs_below(folder: Path, target_kl: float | None = None) -> Iterator[Run]:
    """
    Read every run below a folder; without any, the folder itself, with that finding.

    :param folder: a run's folder, the Zoo's logs, a folder of TensorBoard files
    :param target_kl: of runs whose files don't say
    :yields: runs, by name
    """
    places = _places(folder)
    for place, events in list(places.items())[:MAX_RUNS]:
        yield read_run(place, events, target_kl)
    if not places:
        yield read_run(folder, target_kl=target_kl)


def _is_no_place(name: str) -> bool:
    return name == DUMPS or name.startswith((ASIDE, "."))


def _places(folder: Path) -> dict[Path, list[Path]]:
    """Folders of runs, and event files that lie below such a one, which are its."""
    found: dict[Path, list[Path]] = {}
    waiting: list[tuple[Path, int, Path | None]] = [(folder, 0, None)]
    seen = 0
    while waiting and seen < MAX_FOLDERS:
        place, depth, owner = waiting.pop(0)
        seen += 1
        files, folders = listing(place)
        records = [path for path in files if is_record(path)]
        only_events = all(path.name.startswith(EVENTS) for path in records)
        if records and owner is not None and only_events:
            found[owner] += records
        elif records:
            found[place] = []
            owner = place
        if depth < MAX_DEPTH:
            waiting += [(below, depth + 1, owner) for below in folders if not _is_no_place(below.name)]
    return dict(sorted(found.items()))
