"""What the doctor finds: alarms of the monitors (their table is ``monitoring.alarms``), and what is wrong with the files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sb3_trpo_ext.doctor.bounds import clean
from sb3_trpo_ext.monitoring.alarms import ALARMS, AlarmKind, Severity

Evidence = dict[str, float | int | str]

_KINDS = (
    AlarmKind(
        "DR001",
        "nothing to read",
        Severity.WARNING,
        "This folder holds no file of a run.",
        "Give a run's folder, the Zoo's logs folder, or a folder of TensorBoard files; check that the run has begun.",
    ),
    AlarmKind(
        "DR002",
        "unreadable file",
        Severity.WARNING,
        "A file is damaged, cut off, or not what its name says; it was left out.",
        "Copy it again, or look at the disk. Of our run folder all but updates.jsonl is written anew when a run goes on.",
    ),
    AlarmKind(
        "DR003",
        "damaged rows",
        Severity.WARNING,
        "Rows of a file can't be read; they were left out, and what is said here rests on the others.",
        "See whether two runs write into the same folder, or whether the disk was full.",
    ),
    AlarmKind(
        "DR004",
        "cut off",
        Severity.INFO,
        "The end of a file is missing: it is being written just now, or was when the run was killed.",
        "Nothing, if the run goes on: look again later.",
    ),
    AlarmKind(
        "DR005",
        "read in part",
        Severity.WARNING,
        "There is more than the doctor reads. What it has left out may hold trouble that is not told here.",
        "Name fewer runs, or the folder of one: then more of each is read. Of a large file it reads stretches.",
    ),
    AlarmKind(
        "DR006",
        "run died",
        Severity.CRITICAL,
        "The run ended with an error.",
        "Replay its last update to see what happened in it; go on from the last checkpoint.",
    ),
    AlarmKind(
        "DR007",
        "no record of updates",
        Severity.INFO,
        "These files tell returns at most, and nothing of TRPO's updates.",
        "Train with sb3_trpo_ext, which keeps a record; or log: the Zoo's --tensorboard-log, or SB3's CSV logger.",
    ),
    AlarmKind(
        "DR008",
        "figures not finite",
        Severity.CRITICAL,
        "The run has logged NaN or infinity: networks or rewards have overflowed, and nothing is learned from then on.",
        "Normalise observations and rewards (VecNormalize), lower learning_rate and target_kl; begin before that update.",
    ),
    AlarmKind(
        "DR009",
        "not finished",
        Severity.INFO,
        "The run has not come as far as it was asked to: it is still running, or was stopped.",
        "Nothing, if it goes on.",
    ),
    AlarmKind(
        "DR010",
        "recorded update",
        Severity.INFO,
        "The flight recorder has kept an update in which something happened.",
        "Replay it, under other settings too.",
    ),
    AlarmKind(
        "DR011",
        "target_kl unknown",
        Severity.INFO,
        "These files don't say what target_kl was, so the KL is judged against nothing.",
        "Say it: --target-kl; or train with sb3_trpo_ext, whose record holds it.",
    ),
    AlarmKind(
        "DR012",
        "rows replaced",
        Severity.INFO,
        "A later event file begins at an earlier step: as in TensorBoard, it replaces what was logged from there on.",
        "Nothing, if the run went on from a checkpoint. For two runs, give each a folder of its own.",
    ),
    AlarmKind(
        "DR013",
        "stopped from outside",
        Severity.INFO,
        "SIGTERM ended the run: a scheduler's time was up, or somebody stopped it.",
        "Go on from the last checkpoint.",
    ),
    AlarmKind(
        "DR014",
        "just begun",
        Severity.INFO,
        "The files of a run are there, and hold nothing yet.",
        "Look again after its first updates.",
    ),
    AlarmKind(
        "DR015",
        "too few updates to judge",
        Severity.INFO,
        "Most monitors compare ten updates or more, so that nothing was found says little.",
        "Look again later, or train for longer.",
    ),
)

KINDS: dict[str, AlarmKind] = {**ALARMS, **{kind.code: kind for kind in _KINDS}}

_ORDER = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)

EXIT_CODES = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}
VERDICTS = {0: "healthy", 1: "warnings", 2: "critical"}


@dataclass(frozen=True)
class Finding:
    """
    One thing that is wrong, or worth knowing.

    :param code: of ``KINDS``
    :param evidence: numbers, or short texts
    :param since_update: number of the update where it began
    :param since_steps: environment steps by then
    :param again_update: where it began anew, if it went away and came back
    :param last_update: the last update where it was so
    :param updates: how many updates it was so
    :param ongoing: whether it was so until the end
    :param file: the file that it is about
    :param replay: the command that computes such an update again
    :param milder: its severity, where it is not the kind's
    """

    code: str
    evidence: Evidence = field(default_factory=dict)
    since_update: int | None = None
    since_steps: int | None = None
    again_update: int | None = None
    last_update: int | None = None
    updates: int | None = None
    ongoing: bool | None = None
    file: str | None = None
    replay: str | None = None
    milder: Severity | None = None

    @property
    def kind(self) -> AlarmKind:
        """Its row of the table."""
        return KINDS[self.code]

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.milder or self.kind.severity

    @property
    def since(self) -> str:
        """When it began and whether it lasts, for people."""
        if self.since_update is None:
            return ""
        steps = "" if self.since_steps is None else f" ({self.since_steps:,} steps)"
        if self.updates is None or self.last_update is None:
            return f"update {self.since_update}{steps}"
        count = f"{self.updates} update" + ("s" if self.updates != 1 else "")
        end = "to the end" if self.ongoing else f"last in update {self.last_update}"
        end = end if self.again_update is None else f"again since update {self.again_update}, {end}"
        return f"update {self.since_update}{steps}, in {count}, {end}"

    @property
    def numbers(self) -> str:
        """The evidence, for people."""
        return ", ".join(f"{clean(name)} {_shown(value)}" for name, value in self.evidence.items())

    def plain(self) -> dict[str, Any]:
        """Everything as plain data."""
        values = {name: value for name, value in asdict(self).items() if name != "milder"}
        values["evidence"] = {clean(name): _strict(value) for name, value in self.evidence.items()}
        kind = self.kind
        return {
            "code": self.code,
            "name": kind.name,
            "severity": str(self.severity),
            "meaning": kind.meaning,
            "remedy": kind.remedy,
            **values,
        }


def _strict(value: float | int | str) -> float | int | str:
    """As JSON has it: text is cleaned, and a number that is not finite becomes text."""
    if isinstance(value, str):
        return clean(value)
    return value if math.isfinite(value) else str(value)


def _shown(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else clean(value)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """
    Put findings in order: by severity; then died and non-finite runs before alarms; then by the part of the algorithm, the
    policy's step before what feeds it (the hundreds of the codes); then the oldest.

    :param findings: any
    :return: the same
    """

    def place(finding: Finding) -> tuple[int, str, float, str]:
        since = float("inf") if finding.since_update is None else finding.since_update
        return _ORDER.index(finding.severity), finding.code[:3], since, finding.code

    return sorted(findings, key=place)


def exit_code(findings: Iterable[Finding]) -> int:
    """
    Judge.

    :param findings: of one run, or of all
    :return: 0 healthy, 1 warnings, 2 critical
    """
    return max((EXIT_CODES[finding.severity] for finding in findings), default=0)
