"""The monitors, looking at a run that is over: the same judgements with the same thresholds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.bounds import MAX_STARTS
from sb3_trpo_ext.doctor.finding import KINDS, Evidence, Finding
from sb3_trpo_ext.monitoring.advantage_monitor import AdvantageMonitor
from sb3_trpo_ext.monitoring.alarms import Severity
from sb3_trpo_ext.monitoring.conjugate_gradient_monitor import ConjugateGradientMonitor
from sb3_trpo_ext.monitoring.dead_neuron_monitor import DeadNeuronMonitor
from sb3_trpo_ext.monitoring.entropy_monitor import DROP_UPDATES, EntropyMonitor
from sb3_trpo_ext.monitoring.kl_monitor import KLMonitor
from sb3_trpo_ext.monitoring.monitor import CALM_UPDATES, WINDOW, Monitor
from sb3_trpo_ext.monitoring.value_function_monitor import ValueFunctionMonitor

MONITORS: tuple[type[Monitor], ...] = (
    KLMonitor,
    EntropyMonitor,
    DeadNeuronMonitor,
    ConjugateGradientMonitor,
    ValueFunctionMonitor,
    AdvantageMonitor,
)

AGAINST_TARGET = frozenset({"TR101", "TR102", "TR105"})
"""Alarms that compare with target_kl."""

SUDDEN = frozenset({"TR201"})
"""Alarms at what happens within some updates: not judged where some of those are not recorded."""

LONG = 20
"""Updates without a trouble after which it counts a step less (critical: a warning; warning: an info)."""

MILDER = {Severity.CRITICAL: Severity.WARNING, Severity.WARNING: Severity.INFO, Severity.INFO: Severity.INFO}


@dataclass
class Trouble:
    """
    One kind of alarm in one run.

    :param first: number of the update where it began
    :param first_steps: environment steps by then
    :param evidence: the numbers of that moment
    :param last: the last update where it was so
    :param updates: how many
    :param seen: updates that the doctor had seen by the last one
    :param again: where it began anew, if it went away and came back
    """

    first: int
    first_steps: int
    evidence: Evidence
    last: int
    updates: int
    seen: int
    again: int | None = None

    def is_over(self, seen: int) -> bool:
        """
        Whether it has been over for long: for as many updates as it lasted, and ``LONG`` at least.

        :param seen: updates that the doctor has seen
        :return: whether
        """
        return seen - self.seen >= max(LONG, self.updates)


class Examiner:
    """
    Looks at the updates of one run, oldest first.

    :param target_known: whether target_kl is the run's
    """

    def __init__(self, target_known: bool = True):
        self.monitors = [monitor() for monitor in MONITORS]
        self.target_known = target_known
        self.troubles: dict[str, Trouble] = {}
        self.seen = 0
        self.starts: deque[tuple[str, int, int]] = deque(maxlen=MAX_STARTS)
        """Code, update and steps of every time that a trouble began."""
        self.unjudged = 0
        self._last: int | None = None
        self._apart = 1
        # Reports in a row that each follow the one before.
        self._following = 0

    def look(self, report: UpdateReport) -> None:
        """
        Judge one update.

        :param report: the next one
        """
        self.seen += 1
        self._forget_across_gaps(report.n_updates)
        for monitor in self.monitors:
            monitor.reports.append(report)
            try:
                found = dict(monitor.judge(report))
            except (ArithmeticError, LookupError, TypeError, ValueError):
                # A file may hold figures that no update has: a KL of zero in a step that was taken.
                self.unjudged += 1
                continue
            monitor.settle(found)
            for code, evidence in found.items():
                if self._can_judge(code):
                    self._note(code, report, evidence)

    def _can_judge(self, code: str) -> bool:
        if code in SUDDEN and self._following < DROP_UPDATES:
            return False
        return self.target_known or code not in AGAINST_TARGET

    def _forget_across_gaps(self, n_updates: int) -> None:
        """
        Monitors compare updates that follow each other. Behind what was left out of a long file, and where the count begins
        anew, they begin anew too; what they keep for longer than their window (the first entropy) they keep.
        """
        apart = n_updates - (n_updates if self._last is None else self._last)
        if apart < 0 or apart > WINDOW * self._apart:
            for monitor in self.monitors:
                monitor.reports.clear()
        self._following = self._following + 1 if apart == 1 else 0
        # Where every tenth update is written (a logger's interval, a long run), that is no gap.
        self._last, self._apart = n_updates, max(1, apart)

    def _note(self, code: str, report: UpdateReport, evidence: Evidence) -> None:
        trouble = self.troubles.get(code)
        if trouble is None or self.seen - trouble.seen > CALM_UPDATES:
            self.starts.append((code, report.n_updates, report.num_timesteps))
            if trouble is not None:
                trouble.again = report.n_updates
        if trouble is None:
            steps = report.num_timesteps
            self.troubles[code] = Trouble(report.n_updates, steps, evidence, report.n_updates, 1, self.seen)
            return
        trouble.last, trouble.seen, trouble.updates = report.n_updates, self.seen, trouble.updates + 1

    def findings(self) -> list[Finding]:
        """What was found, in no order."""
        return [
            Finding(
                code,
                trouble.evidence,
                since_update=trouble.first,
                since_steps=trouble.first_steps,
                again_update=trouble.again,
                last_update=trouble.last,
                updates=trouble.updates,
                ongoing=self.seen - trouble.seen < CALM_UPDATES,
                milder=MILDER[KINDS[code].severity] if trouble.is_over(self.seen) else None,
            )
            for code, trouble in self.troubles.items()
        ]
