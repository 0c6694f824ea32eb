"""
The flight recorder: dumps an update from which ``python -m sb3_trpo_ext replay`` computes it again.

What is dumped: the first update that raises an alarm of a kind; an update whose policy step was rejected, skipped or failed
(the first of several in a row); the last update of a run that dies, also the one that it died in. It observes: the maths
does not know of it.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import deque
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import UpdateStatus
from sb3_trpo_ext.monitoring.describe import describe_update
from sb3_trpo_ext.monitoring.observed import newest_report, observed
from sb3_trpo_ext.monitoring.tree import alarms_in, callbacks_in
from sb3_trpo_ext.records.dump import files, write_dump
from sb3_trpo_ext.records.files import DUMPS_NAME
from sb3_trpo_ext.records.signals import BeforeSigterm
from sb3_trpo_ext.records.trials import in_trial

DIED = "died"


class FlightRecorder(BaseCallback):
    """
    Keeps the last reports, and dumps updates that somebody will want to look into.

    :param ring: reports that are kept and written with a dump, at least 1
    :param max_dumps: dumps in the folder: the last of a run that died and the first of each reason stay longest
    :param max_mib: MiB of arrays in one dump; larger ones are left out, and that is said
    :param folder: where dumps go; None: ``dumps`` in the run's folder
    :param verbose: as in SB3
    :raises ValueError: for impossible sizes
    """

    def __init__(
        self, ring: int = 50, max_dumps: int = 10, max_mib: float = 256.0, folder: str | None = None, verbose: int = 0
    ):
        super().__init__(verbose)
        for name, value in (("ring", ring), ("max_dumps", max_dumps), ("max_mib", max_mib)):
            if not value >= 1:
                raise ValueError(f"FlightRecorder: {name}={value!r} is impossible: it must be at least 1")
        self.reports: deque[UpdateReport] = deque(maxlen=ring)
        self.max_dumps, self.max_mib, self.folder = max_dumps, max_mib, folder
        self._seen_alarms: set[str] = set()
        self._last_trouble: str | None = None
        self._seen: int | None = None
        self._active = False
        self._sigterm = BeforeSigterm(self._on_sigterm)
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        """
        Give what a resumed run needs to go on as if it had not ended.

        :return: plain numbers, strings and lists
        """
        return {
            "reports": [report.to_json() for report in self.reports],
            "seen_alarms": sorted(self._seen_alarms),
            "last_trouble": self._last_trouble,
            "seen": self._seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on from a state.

        :param state: of ``state_dict``
        """
        self.reports = deque(map(UpdateReport.from_json, state["reports"]), maxlen=self.reports.maxlen)
        self._seen_alarms = set(state["seen_alarms"])
        self._last_trouble, self._seen = state["last_trouble"], state["seen"]

    @property
    def dumps(self) -> list[Path]:
        """What is in the folder of dumps, oldest update first; names without an ending."""
        folder = self._dump_folder()
        return [] if folder is None else sorted(file.with_suffix("") for file in folder.glob("update_*.json"))

    def _dump_folder(self) -> Path | None:
        if self.folder is not None:
            return Path(self.folder)
        folder = getattr(getattr(self, "model", None), "run_folder", None)
        return None if folder is None else Path(folder) / DUMPS_NAME

    def _init_callback(self) -> None:
        if not hasattr(getattr(self.model, "session", None), "update_start"):
            cls = type(self.model)
            raise TypeError(
                f"FlightRecorder records updates of sb3_trpo_ext.TRPO; this model is {cls.__module__}.{cls.__name__}. "
                "Use `from sb3_trpo_ext import TRPO`, or leave the recorder out."
            )
        observed(self).session.keep_update_start = True

    def _on_training_start(self) -> None:
        # A search is hundreds of runs that nobody will replay.
        self._active = not in_trial(callbacks_in(self.locals.get("callback")))
        if self._active:
            observed(self).session.failure_observers.append(self._on_death)
            self._sigterm.install()

    def _on_step(self) -> bool:
        # Every monitor has judged the last update by now, wherever it stands in the list.
        self._look()
        return True

    def _on_training_end(self) -> None:
        self._look()
        self._sigterm.remove()

    def _look(self) -> None:
        report = newest_report(self) if self._active else None
        if report is None or report.n_updates == self._seen:
            return
        self._seen = report.n_updates
        self.reports.append(report)
        reasons = [f"alarm {code}" for code in self._new_alarms()]
        trouble = None if report.status == str(UpdateStatus.ACCEPTED) else report.status
        if trouble is not None and trouble != self._last_trouble:
            reasons.append(trouble)
        self._last_trouble = trouble
        # A resumed run has the report of the update before it, and not what that began with.
        if reasons and observed(self).session.update_start is not None:
            self._dump(reasons, report, error=None)

    def _on_sigterm(self) -> None:
        # A handler may not raise; what follows it ends the process.
        with contextlib.suppress(Exception):
            self._dump_last("SIGTERM")

    def _on_death(self, error: BaseException) -> None:
        self._sigterm.remove()
        if not isinstance(error, KeyboardInterrupt):
            self._dump_last(f"{type(error).__name__}: {error}")

    def _dump_last(self, error: str) -> None:
        """Also an update that raised: its start is newer than the last report."""
        start, report = observed(self).session.update_start, newest_report(self)
        if start is not None:
            finished = report is not None and report.n_updates == start.n_updates
            self._dump([DIED], report if finished else None, error)

    def _new_alarms(self) -> list[str]:
        codes = dict.fromkeys(alarm.code for alarm in alarms_in(self.locals.get("callback")))
        new = [code for code in codes if code not in self._seen_alarms]
        self._seen_alarms.update(new)
        return new

    # ------------------------------------------------------------ writing

    def _dump(self, reasons: list[str], report: UpdateReport | None, error: str | None) -> None:
        """An observer: whatever is wrong with it is said, and ends no run."""
        folder = self._dump_folder()
        if folder is None:
            self._say("this run has no folder, so nothing is dumped: set log_folder of the model or folder of the recorder")
            return
        try:
            alarms = [json.loads(alarm.to_json()) for alarm in alarms_in(self.locals.get("callback"))]
            dump = describe_update(observed(self), reasons, report, error, alarms, list(self.reports))
            if dump.size > self.max_mib * 2**20:
                self._say(f"a dump of {dump.size / 2**20:.0f} MiB is left out: max_mib={self.max_mib:g}")
                return
            newest = folder / f"update_{dump.header['n_updates']:06d}_{reasons[0].replace(' ', '_')}"
            write_dump(newest, dump)
            self._drop_oldest(newest)
        except Exception as problem:  # a full disk, or anything that a user's policy or settings raise
            self._say(f"a dump can't be written ({problem!r})")

    def _drop_oldest(self, newest: Path) -> None:
        """Of a reason the first stays, and of all what a run died of: the others go before them."""
        there = self.dumps
        firsts = {_reason(path): path for path in reversed(there)}.values()
        others = [path for path in there if path != newest]
        expendable = sorted(others, key=lambda path: (_reason(path) == DIED, path in firsts, path))
        for path in expendable[: max(0, len(there) - self.max_dumps)]:
            for file in files(path):
                file.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        """Once a recorder: it must not be what fills the screen."""
        if not self._warned:
            warnings.warn(f"TRPO: flight recorder: {text}", UserWarning, stacklevel=2)
        self._warned = True


def _reason(path: Path) -> str:
    """What a dump was made for, by its name."""
    return path.name.split("_", 2)[2]
