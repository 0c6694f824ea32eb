"""What monitors and the flight recorder have left: ``alarms.jsonl`` and the headers in ``dumps/``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from sb3_trpo_ext.doctor.bounds import MAX_DUMPS, MAX_ENTRIES, MAX_EVIDENCE, MAX_HEADER, MAX_TEXT, clean, is_file
from sb3_trpo_ext.doctor.finding import Evidence, Finding
from sb3_trpo_ext.doctor.reports import LARGEST_INTEGER, say_lines
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.monitoring.alarms import ALARMS, Severity

DIED = "died"
"""As the flight recorder says it."""

SIGTERM = "SIGTERM"
"""What it says a run died of that was ended from outside."""


@dataclass(frozen=True)
class DumpHeader:
    """
    What a dump is about.

    :param path: its JSON
    :param n_updates: number of the update
    :param num_timesteps: environment steps by then
    :param reasons: why it was made
    :param error: what the run died of
    """

    path: Path
    n_updates: int
    num_timesteps: int
    reasons: tuple[str, ...]
    error: str | None

    @property
    def replay(self) -> str:
        """The command that computes it again."""
        return f"python -m sb3_trpo_ext replay {shlex.quote(clean(self.path, 4 * MAX_TEXT))}"


def read_alarms(run: Run, path: Path) -> list[Finding]:
    """
    Read what monitors have raised.

    :param run: gets findings about the file
    :param path: ``alarms.jsonl``
    :return: one for each kind: the first of it
    """
    lines = run.lines(path)
    first: dict[str, Finding] = {}
    bad, read, last_bad = 0, 0, False
    for line in lines:
        found = _alarm(line)
        last_bad = found is None
        if found is None:
            bad += 1
            continue
        read += 1
        first.setdefault(found.code, found)
    say_lines(run, path, lines, bad + lines.too_long, last_bad, "no alarm", read)
    return list(first.values())


def _alarm(line: str) -> Finding | None:
    row = _json(line)
    if not isinstance(row, dict) or not isinstance(row.get("code"), str) or row["code"] not in ALARMS:
        return None
    update, steps, evidence = row.get("n_updates"), row.get("num_timesteps"), row.get("evidence")
    if not (_is_count(update) and _is_count(steps) and isinstance(evidence, dict)):
        return None
    shown: Evidence = {
        clean(name, 60): clean(value) if isinstance(value, str) else value
        for name, value in islice(evidence.items(), MAX_EVIDENCE)
        if isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value))
    }
    return Finding(row["code"], shown, since_update=update, since_steps=steps)


def read_dumps(run: Run, folder: Path) -> list[DumpHeader]:
    """
    Read the headers of a run's dumps.

    :param run: gets findings about files
    :param folder: ``dumps`` in the run's folder
    :return: oldest update first
    """
    found: list[DumpHeader] = []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in islice(entries, MAX_ENTRIES) if entry.name.endswith(".json"))
    if len(names) > MAX_DUMPS:
        run.left_out(f"{len(names) - MAX_DUMPS} of {len(names)} dumps, the oldest", folder)
    for path in (folder / name for name in names[-MAX_DUMPS:]):
        if not is_file(path):
            continue
        header = None
        try:
            if path.stat().st_size <= MAX_HEADER:
                header = _header(path, _json(path.read_text(encoding="utf-8", errors="replace")))
        except OSError as error:
            run.find("DR002", path, why=error.strerror or str(error))
            continue
        if header is None:
            run.find("DR002", path, why="not the header of a dump")
        else:
            found.append(header)
    return sorted(found, key=lambda header: header.n_updates)


def _header(path: Path, content: Any) -> DumpHeader | None:
    if not isinstance(content, dict):
        return None
    update, steps, reasons, error = (content.get(name) for name in ("n_updates", "num_timesteps", "reasons", "error"))
    if not _is_count(update) or not _is_count(steps) or not isinstance(reasons, list):
        return None
    told = tuple(clean(reason, 60) for reason in reasons[:10] if isinstance(reason, str))
    return DumpHeader(path, update, steps, told, clean(error) if isinstance(error, str) else None)


def dump_findings(dumps: list[DumpHeader], last_update: int) -> Iterator[Finding]:
    """
    Say what dumps tell that alarms don't.

    :param dumps: of the run
    :param last_update: the last one that the run has a record of
    :yields: a run that died; a dump that no alarm has caused
    """
    for dump in dumps:
        told: Evidence = {"reasons": ", ".join(dump.reasons) or "none told"}
        found = Finding("DR010", told, since_update=dump.n_updates, since_steps=dump.num_timesteps, replay=dump.replay)
        if DIED in dump.reasons:
            yield _death(dump, found, last_update)
        elif not any(reason.removeprefix("alarm ") in ALARMS for reason in dump.reasons):
            yield found


def _death(dump: DumpHeader, found: Finding, last_update: int) -> Finding:
    if dump.error == SIGTERM:
        return dataclasses.replace(found, code="DR013")
    evidence: Evidence = {"error": dump.error or "none told"}
    if last_update > dump.n_updates:
        evidence["went_on_to_update"] = last_update
        return dataclasses.replace(found, code="DR006", evidence=evidence, milder=Severity.INFO)
    return dataclasses.replace(found, code="DR006", evidence=evidence)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_INTEGER
