"""What the doctor knows of one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_trpo_ext.doctor.bounds import ENOUGH, Limits, Thinned, clean
from sb3_trpo_ext.doctor.finding import VERDICTS, Evidence, Finding, exit_code
from sb3_trpo_ext.doctor.lines import Lines
from sb3_trpo_ext.monitoring.alarms import Severity

OURS, CONTRIB, UNKNOWN = "sb3_trpo_ext", "sb3-contrib", "unknown"

Point = dict[str, float]
"""Figures of one update by name; what was not computed is missing."""


@dataclass
class Run:
    """
    One run.

    :param path: its folder
    :param algorithm: who trained: ``OURS``, ``CONTRIB`` or ``UNKNOWN``
    :param settings: what is known of its arguments, by name
    :param limits: how much of it is read
    :param points: figures of its updates
    :param layers: of every update by layer: environment steps, share of dead and of saturated units
    :param returns: environment steps and mean return of training episodes
    :param evaluations: environment steps and mean return
    :param findings: what is wrong
    :param starts: code, update and environment steps of every time that a trouble began
    :param judged: updates that the monitors have looked at
    :param n_updates: number of the last update
    :param num_timesteps: environment steps
    """

    path: Path
    algorithm: str = UNKNOWN
    settings: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    points: Thinned[Point] = field(default_factory=Thinned)
    layers: Thinned[dict[str, tuple[float, float, float]]] = field(default_factory=Thinned)
    returns: Thinned[tuple[float, float]] = field(default_factory=Thinned)
    evaluations: Thinned[tuple[float, float]] = field(default_factory=Thinned)
    findings: list[Finding] = field(default_factory=list)
    starts: list[tuple[str, int, int]] = field(default_factory=list)
    judged: int = 0
    n_updates: int = 0
    num_timesteps: int = 0

    def __post_init__(self) -> None:
        for curve in (self.points, self.layers, self.returns, self.evaluations):
            curve.limit = self.limits.points  # type: ignore[attr-defined]

    @property
    def environment(self) -> str:
        """Its environment's id; empty if unknown."""
        return clean(self.settings.get("env") or "")

    @property
    def name(self) -> str:
        """For people: the folder's name, with the one above where that alone says nothing."""
        parts = [part for part in self.path.absolute().parts[-2:] if part not in ("/", "logs", "trpo")]
        return clean("/".join(parts[-1:] if "_" in self.path.name else parts), 60) or "."

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 warnings, 2 critical."""
        return exit_code(self.findings)

    def empty(self) -> Thinned[tuple[float, float]]:
        """A curve of returns that has nothing yet."""
        return Thinned(self.limits.points)

    @property
    def verdict(self) -> str:
        """In a word, or three: nobody is healthy of whom nothing is known."""
        worst = self.exit_code
        return VERDICTS[worst] if worst or self.judged >= ENOUGH else "not judged"

    def lines(self, path: Path, rows: int | None = None, size: int | None = None) -> Lines:
        """
        Open a text file within the limits.

        :param path: the file
        :param rows: lines that may be read; None: as many as updates
        :param size: bytes that may be read; None: as of a log
        :return: its lines
        """
        return Lines(path, self.limits.size if size is None else size, self.limits.rows if rows is None else rows)

    def left_out(self, what: str, file: Path | None = None, drawn_only: bool = False) -> None:
        """
        Say what was not read: every reader says it here.

        :param what: in a few words
        :param file: of which file
        :param drawn_only: whether nothing is judged by it
        """
        where = None if file is None else clean(self.relative(file))
        self.findings.append(Finding("DR005", {"left_out": what}, file=where, milder=Severity.INFO if drawn_only else None))

    def find(self, code: str, file: Path | None = None, **evidence: float | int | str) -> None:
        """
        Add a finding about a file.

        :param code: of ``finding.KINDS``
        :param file: which file
        :param **evidence: numbers, or short texts
        """
        where = None if file is None else clean(self.relative(file))
        shown: Evidence = {name: clean(value) if isinstance(value, str) else value for name, value in evidence.items()}
        self.findings.append(Finding(code, shown, file=where))

    def relative(self, file: Path) -> str:
        """
        Shorten a path.

        :param file: a file of the run
        :return: relative to the run's folder if below it
        """
        return str(file.relative_to(self.path)) if file.is_relative_to(self.path) else str(file)
