"""
What all monitors have in common: when they look, when an alarm is raised, and what becomes of it.

A monitor looks at ``model.last_update`` once an update, where SB3 next calls it: at the start of the next rollout, or at the
end of training (twice, in the RL Zoo). It reads the report and changes nothing; one that fails is switched off, and says so.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring.alarm import Alarm, Evidence, TrustRegionWarning
from sb3_trpo_ext.monitoring.alarms import Severity
from sb3_trpo_ext.monitoring.observed import newest_report
from sb3_trpo_ext.records.files import ALARMS_NAME
from sb3_trpo_ext.records.thinning import is_recorded

WINDOW = 20
"""Updates that a monitor remembers."""

CALM_UPDATES = 5
"""Updates without it after which a trouble is over, so that one that comes and goes is said once."""

EVERY_ALARM_UNTIL = 100
"""Alarms of a kind that are all kept; of more, a choice, as of updates: a run may be in trouble for as long as it likes."""

WARN, STOP = "warn", "stop"

SHARE = (0.0, 1.0)
"""Range of a threshold that is a share; any other is at least 0."""

Finding = tuple[str, Evidence]


class Monitor(BaseCallback):
    """
    Judges every update, and says once when trouble begins.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param verbose: as in SB3
    :raises ValueError: for any other ``on_trouble``
    """

    diagnostics: ClassVar[tuple[Diagnostic, ...]] = ()
    """What has to be computed in the update for it."""

    def __init__(self, on_trouble: str = WARN, verbose: int = 0):
        super().__init__(verbose)
        if on_trouble not in (WARN, STOP):
            raise ValueError(f"{type(self).__name__}: on_trouble={on_trouble!r} is neither {WARN!r} nor {STOP!r}.")
        self.on_trouble = on_trouble
        self.alarms: list[Alarm] = []
        self._raised: Counter[str] = Counter()
        self.reports: deque[UpdateReport] = deque(maxlen=WINDOW)
        # Numbers that a monitor keeps longer than its window.
        self.kept: dict[str, float] = {}
        self._calm: dict[str, int] = {}
        self._seen: int | None = None
        self._stopping = False
        self._judged: BaseAlgorithm | None = None
        self._off = False

    def _check(self, lowest: float = 0.0, highest: float = math.inf, **values: float) -> None:
        """Refuse thresholds that nothing could be compared with."""
        for name, value in values.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not (number and lowest <= value <= highest):
                wanted = f"at least {lowest:g}" if math.isinf(highest) else f"in [{lowest:g}, {highest:g}]"
                raise ValueError(f"{type(self).__name__}: {name}={value!r} is not a number {wanted}.")

    @abstractmethod
    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now. ``self.reports`` ends with this report.

        :param report: the newest update
        :yields: code of an alarm, and its evidence
        """

    def figures(self) -> dict[str, float | None]:
        """
        Give what is logged under ``monitor/``, beside what the update itself has logged.

        :return: by name; None is not logged
        """
        return {}

    def recent(self, n_updates: int) -> list[UpdateReport]:
        """
        Give the newest reports.

        :param n_updates: how many
        :return: so many, the newest last; none if there are not so many yet
        """
        return list(self.reports)[-n_updates:] if len(self.reports) >= n_updates else []

    def lasts(self, code: str) -> bool:
        """
        Tell whether a trouble has begun and is not over yet.

        :param code: of an alarm
        :return: whether finding it now says nothing new
        """
        return code in self._calm

    def settle(self, found: Collection[str]) -> None:
        """
        Count for how long each trouble has been over.

        :param found: codes of what was found in the newest update
        """
        calm = {code: 0 if code in found else updates + 1 for code, updates in self._calm.items()}
        self._calm = {code: n for code, n in calm.items() if n < CALM_UPDATES} | dict.fromkeys(found, 0)

    def state_dict(self) -> dict[str, Any]:
        """
        Give what a resumed run needs to go on as if it had not ended.

        :return: plain numbers, strings, lists and dicts
        """
        return {
            "alarms": [dataclasses.asdict(alarm) for alarm in self.alarms],
            "reports": [report.to_json() for report in self.reports],
            "kept": dict(self.kept),
            "raised": dict(self._raised),
            "calm": dict(self._calm),
            "seen": self._seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on from a state.

        :param state: of ``state_dict``
        :raises ValueError: if there is an alarm in it that is none
        """
        alarms, reports = [Alarm.of(each) for each in state["alarms"]], map(UpdateReport.from_json, state["reports"])
        self.alarms, self.reports = alarms, deque(reports, maxlen=WINDOW)
        # A checkpoint of before they were counted holds all of them.
        self._raised = Counter(state.get("raised", Counter(alarm.code for alarm in alarms)))
        self.kept, self._calm, self._seen = dict(state["kept"]), dict(state["calm"]), state["seen"]

    def _init_callback(self) -> None:
        subscribe = getattr(self.model, "subscribe", None)
        if not callable(subscribe) or not hasattr(self.model, "last_update"):
            cls = type(self.model)
            raise TypeError(
                f"{type(self).__name__} reads reports of sb3_trpo_ext.TRPO; this model is {cls.__module__}.{cls.__name__}, "
                "which makes none. Use `from sb3_trpo_ext import TRPO`, or leave the monitor out."
            )
        subscribe(*self.diagnostics)
        # One that was saved and loaded goes on where this monitor is; any other begins anew.
        if self._judged not in (None, self.model) and getattr(self.model, "_n_updates", None) != (self._seen or 0):
            self._forget()
        self._judged = self.model

    def _forget(self) -> None:
        self.alarms, self.reports, self.kept, self._raised = [], deque(maxlen=WINDOW), {}, Counter()
        self._calm, self._seen, self._off = {}, None, False

    def _on_training_start(self) -> None:
        # Who goes on after a stop means to.
        self._stopping = False
        report = newest_report(self)
        if self._seen is None and report is not None:
            # From before this monitor was there.
            self._seen = report.n_updates

    def _on_rollout_start(self) -> None:
        self.look()

    def _on_training_end(self) -> None:
        self.look()

    def _on_step(self) -> bool:
        # Done already, unless it stands in an EveryNTimesteps, which passes on steps only.
        self.look()
        return not self._stopping

    def look(self) -> None:
        """Judge the newest update, unless that is done."""
        report = newest_report(self)
        if self._off or report is None or report.n_updates == self._seen:
            return
        self._seen = report.n_updates
        self.reports.append(report)
        try:
            found = {code: self._alarm(report, code, evidence) for code, evidence in self.judge(report)}
            figures = {name: value for name, value in self.figures().items() if value is not None}
        except Exception as error:  # in a threshold or a monitor of somebody's own there may be anything
            self._off = True
            text = f"{type(self).__name__} is switched off: it can't judge update {report.n_updates} ({error!r})"
            warnings.warn(f"TRPO: {text}", UserWarning, stacklevel=2)
            return
        for name, value in figures.items():
            # SB3 prints a table an update, which may not hold names as long as these.
            self.logger.record(f"monitor/{name}", value, exclude="stdout")
        for code, alarm in found.items():
            if code not in self._calm:
                self._raise(alarm)
        self.settle(found)

    def _alarm(self, report: UpdateReport, code: str, evidence: Evidence) -> Alarm:
        """One that can be said and written."""
        alarm = Alarm(code, report.n_updates, report.num_timesteps, evidence)
        str(alarm)
        alarm.to_json()
        return alarm

    def _raise(self, alarm: Alarm) -> None:
        self._raised[alarm.code] += 1
        if is_recorded(self._raised[alarm.code], EVERY_ALARM_UNTIL):
            self.alarms.append(alarm)
            self._write(alarm)
        if alarm.severity is Severity.INFO:
            return
        stops = alarm.severity is Severity.CRITICAL and self.on_trouble == STOP
        self._stopping = self._stopping or stops
        ending = f" Training stops here: on_trouble={STOP!r}." if stops else ""
        # Explicitly: one line, without the line of code that says it, and said again by the next run of this process.
        warnings.warn_explicit(f"TRPO: {alarm}{ending}", TrustRegionWarning, __package__, 0)

    def _write(self, alarm: Alarm) -> None:
        """Beside the other files of the run, if it has a folder."""
        folder = getattr(self.model, "run_folder", None)
        if folder is None:
            return
        try:
            with (Path(folder) / ALARMS_NAME).open("a", encoding="utf-8") as file:
                file.write(alarm.to_json() + "\n")
        except OSError as error:
            warnings.warn(f"TRPO: {ALARMS_NAME} can't be written ({error})", UserWarning, stacklevel=2)
