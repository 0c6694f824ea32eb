"""Which runs lie below folders."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sb3_trpo_ext.doctor.bounds import MAX_DEPTH, MAX_ENTRIES, MAX_RUNS, Limits, clean
from sb3_trpo_ext.doctor.folders import DUMPS, EVENTS, is_record, listing
from sb3_trpo_ext.doctor.read import read_run, settings_in
from sb3_trpo_ext.doctor.run import Run

ASIDE = "previous_"
"""What a run that goes on has put aside."""


@dataclass
class Place:
    """
    A run's folder.

    :param folder: the folder
    :param only_events: whether it holds event files and nothing else of a run
    :param boards: folders below it that are so
    :param events: event files elsewhere that are its
    """

    folder: Path
    only_events: bool
    boards: list[Place] = field(default_factory=list)
    events: list[Path] = field(default_factory=list)


def runs_below(folders: list[Path], target_kl: float | None = None) -> Iterator[Run]:
    """
    Read every run below folders, each once; a folder in which there is none, or more than is read, has a run of its own that
    says so.

    :param folders: runs' folders, the Zoo's logs, folders of TensorBoard files
    :param target_kl: of runs whose files don't say
    :yields: runs, by folder and name
    """
    places: dict[str, Place] = {}
    about = {os.path.realpath(folder): Run(folder) for folder in folders}
    for run in about.values():
        found = _places(run)
        for place in found:
            places.setdefault(os.path.realpath(place.folder), place)
        if not found and not run.findings:
            places[os.path.realpath(run.path)] = Place(run.path, only_events=False)
    chosen = _joined(list(places.values()))
    if len(chosen) > MAX_RUNS:
        next(iter(about.values())).left_out(
            f"{len(chosen) - MAX_RUNS} of {len(chosen)} runs, from {clean(chosen[MAX_RUNS].folder, 60)} on"
        )
    yield from (run for run in about.values() if run.findings)
    limits = Limits.each_of(max(1, len(chosen[:MAX_RUNS])))
    for place in chosen[:MAX_RUNS]:
        yield read_run(place.folder, place.events, target_kl, limits)


def _places(run: Run) -> list[Place]:
    """Runs' folders, by name."""
    found: list[Place] = []
    waiting: deque[tuple[Path, int, Place | None]] = deque([(run.path, 0, None)])
    left, too_deep = MAX_ENTRIES, 0
    while waiting and left > 0:
        folder, depth, owner = waiting.popleft()
        there = listing(folder, left)
        left -= there.n_entries
        if there.problem:
            run.find("DR002", folder, why=there.problem)
        records = [path for path in there.files if is_record(path)]
        if records:
            place = Place(folder, all(path.name.startswith(EVENTS) for path in records), events=records)
            if owner is not None and place.only_events:
                owner.boards.append(place)
            else:
                found.append(place)
                owner = place
        below = [path for path in there.folders if path.name != DUMPS and not path.name.startswith((ASIDE, "."))]
        if depth < MAX_DEPTH:
            waiting += [(path, depth + 1, owner) for path in below]
        elif owner is None:
            too_deep += len(below)
    if left <= 0:
        run.left_out(f"what lies behind the first {MAX_ENTRIES:,} files and folders")
    if too_deep:
        run.left_out(f"{too_deep} folders more than {MAX_DEPTH} below")
    return sorted(_owned(found), key=lambda place: place.folder)


def _owned(found: list[Place]) -> Iterator[Place]:
    """One folder of event files below a run's is that run's; several are runs of their own, whose steps begin anew each."""
    for place in found:
        files = [path for board in place.boards for path in board.events] if len(place.boards) == 1 else []
        yield Place(place.folder, place.only_events, events=files)
        if len(place.boards) > 1:
            yield from (Place(board.folder, only_events=True) for board in place.boards)


def _joined(places: list[Place]) -> list[Place]:
    """Give a run of the Zoo its event files, if its args.yml names a folder that holds one such run and is nobody else's."""
    boards = [place for place in places if place.only_events]
    named: dict[str, list[Place]] = {}
    for place in places if boards else []:
        told = None if place.only_events else settings_in(place.folder).get("tensorboard_log")
        if told:
            named.setdefault(os.path.abspath(told), []).append(place)
    taken: set[Path] = set()
    for folder, owners in named.items():
        below = [board for board in boards if Path(os.path.abspath(board.folder)).is_relative_to(folder)]
        if len(owners) == len(below) == 1 and not owners[0].events:
            owners[0].events = listing(below[0].folder).files + below[0].events
            taken.add(below[0].folder)
    return [place for place in places if place.folder not in taken]
