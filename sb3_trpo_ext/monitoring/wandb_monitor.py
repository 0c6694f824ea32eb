"""
Weights & Biases: one run for one training, whether the RL Zoo, the user or nobody has started it.

Nothing is taken from ``wandb.integration.sb3.WandbCallback``, because

1. it raises without a run; here a run is started, offline where no key is configured;
2. it writes ``str()`` of every attribute into the config, weights and memory addresses too; here the config is a dictionary
   of hyperparameters, environment and versions (``run_config``);
3. its gradients come from hooks of ``backward``, which the policy step does not call, and go through ``run.log``, which
   makes rows of their own beside those synced from TensorBoard;
4. its model file is written each time that ``on_training_end`` is called (in the Zoo: twice); here it is an artifact, once.

With TensorBoard synced (the Zoo's ``--track``) figures go through SB3's logger only. Without, each update is a row of its own,
taken from ``model.last_update``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring.alarm import Alarm
from sb3_trpo_ext.monitoring.bounded import say
from sb3_trpo_ext.monitoring.monitor import Monitor
from sb3_trpo_ext.monitoring.observed import newest_report, observed
from sb3_trpo_ext.monitoring.run_config import run_config
from sb3_trpo_ext.monitoring.tree import alarms_in, callbacks_in
from sb3_trpo_ext.monitoring.wandb import WandbRun
from sb3_trpo_ext.monitoring.wandb_files import publish_dumps, publish_model
from sb3_trpo_ext.monitoring.wandb_rows import OtherFigures, Summaries, alert_of, histograms, update_row
from sb3_trpo_ext.monitoring.wandb_tensorboard import is_read_along
from sb3_trpo_ext.records.signals import BeforeSigterm
from sb3_trpo_ext.records.thinning import is_recorded
from sb3_trpo_ext.records.trials import in_trial

PROJECT = "sb3"
"""The RL Zoo's default of --wandb-project-name."""

HISTOGRAM_EVERY, HISTOGRAM_BINS = 10, 64
"""W&B's own default number of bins (``wandb.Histogram``)."""

MAX_ARTIFACT_MB = 100.0

SIGTERM_EXIT_CODE = 128 + 15
"""As a shell counts."""

DIED_EXIT_CODE = 1
"""As of Python, for an exception that nobody catches."""


class WandbMonitor(BaseCallback):
    """
    Follows a training in Weights & Biases.

    :param project: of a run that is started here, as all up to ``tags``
    :param entity: user or team
    :param group: of several runs
    :param name: of the run; None: W&B makes one up
    :param tags: words to find it by
    :param histogram_every: updates between histograms; 0: none
    :param histogram_bins: bins of each (TensorBoard, where it is synced, chooses its own)
    :param alerts: whether alarms of the monitors beside it become alerts
    :param artifacts: whether model, VecNormalize statistics and dumps become artifacts when training ends
    :param max_artifact_mb: larger files are left out; of the dumps, the newest that fit together are taken
    :param finish: whether a run that was started here ends with the training; False: it goes on with the next ``learn``
    :param finish_on_sigterm: whether SIGTERM finishes the run, also one that was not started here, before anything else
    :param verbose: as in SB3
    """

    def __init__(
        self,
        project: str = PROJECT,
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        histogram_every: int = HISTOGRAM_EVERY,
        histogram_bins: int = HISTOGRAM_BINS,
        alerts: bool = True,
        artifacts: bool = True,
        max_artifact_mb: float = MAX_ARTIFACT_MB,
        finish: bool = True,
        finish_on_sigterm: bool = True,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        self.histogram_every = histogram_every
        self.histogram_bins = histogram_bins
        self.alerts = alerts
        self.artifacts = artifacts
        self.max_artifact_mb = max_artifact_mb
        self.finish = finish
        self.finish_on_sigterm = finish_on_sigterm
        self.summaries = Summaries()
        self._run = WandbRun(project=project, entity=entity, group=group, name=name, tags=tags)
        # Also when it is finished: a checkpoint may be written after that.
        self._own_id: str | None = None
        self._synced = False
        self._others: OtherFigures | None = None
        self._sigterm = BeforeSigterm(self._finish_early)
        self._seen: int | None = None
        self._published: int | None = None
        self._alerted: set[tuple[str, int]] = set()
        self._earlier: list[Alarm] = []
        self._followed: tuple[Any, Any] | None = None
        self._active = False
        self._said = False

    def state_dict(self) -> dict[str, Any]:
        """
        Give what a resumed run needs to go on as if it had not ended.

        :return: plain values
        """
        return {
            "summaries": vars(self.summaries).copy(),
            "seen": self._seen,
            "alerted": sorted(map(list, self._alerted)),
            "run": self._own_id,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on from a state.

        :param state: of ``state_dict``
        """
        self.summaries, self._seen = Summaries(**state["summaries"]), state["seen"]
        self._alerted = {(code, number) for code, number in state["alerted"]}
        self._own_id = state.get("run")
        if self._own_id is not None:
            self._run.go_on_with(self._own_id)

    def _init_callback(self) -> None:
        subscribe = getattr(self.model, "subscribe", None)
        if not callable(subscribe) or not hasattr(self.model, "last_update"):
            raise TypeError(
                f"{type(self).__name__} reads reports of sb3_trpo_ext.TRPO; {type(self.model).__name__} makes none. Use "
                "`from sb3_trpo_ext import TRPO`, or wandb.integration.sb3.WandbCallback."
            )
        if self.histogram_every > 0:
            subscribe(Diagnostic.ACTIVITY)

    def _on_training_start(self) -> None:
        self._active = not in_trial(callbacks_in(self.locals.get("callback")))
        if self._active:
            self._guard("the start", self._observe_failures)
            self._guard("the start", self._start)

    def _observe_failures(self) -> None:
        """After all others: what the flight recorder dumps of a death is there to be published."""
        observers = observed(self).session.failure_observers
        observers[:] = [*(observer for observer in observers if observer != self._on_death), self._on_death]

    def _start(self) -> None:
        self._run.open()
        self._own_id = self._run.id if self._run.own else None
        self._forget_another()
        self._earlier = self._alarms()
        report = newest_report(self)
        if self._seen is None and report is not None:
            self._seen = report.n_updates  # from before this monitor, or this run, was there
        # Still there where a ``learn`` before was broken off.
        self._drop_others()
        if not self._run.is_open:
            return
        if self.finish_on_sigterm:
            self._sigterm.install()
        self._synced = self._run.syncs_tensorboard and is_read_along(self.logger.output_formats, self._run.started)
        if not self._synced:
            self._others = OtherFigures(self._run.log)
            self.logger.output_formats.append(self._others)
        self._run.set_axes()
        self._run.describe(run_config(self.model))

    def _forget_another(self) -> None:
        """What is known is of one model and one run. A state that was loaded is of those that come first."""
        model, run = self._followed or (self.model, self._run.current)
        if model is not self.model or run is not self._run.current:
            self.summaries, self._seen, self._published = Summaries(), None, None
            self._alerted = set()
        self._followed = (self.model, self._run.current)

    def _drop_others(self) -> None:
        self.logger.output_formats = [output for output in self.logger.output_formats if not isinstance(output, OtherFigures)]
        self._others = None

    def _on_rollout_start(self) -> None:
        if self._active:
            self._observe_failures()
            self._guard("an update", self._look)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if not self._active:
            return
        self._guard("an update", self._look)
        self._guard("the end", self._end)
        self._sigterm.remove()
        if self._run.own and self.finish:
            self._run.finish()

    def _end(self) -> None:
        if self._others is not None:
            # What SB3 would have dumped with a next update.
            self._others.write(dict(self.logger.name_to_value), dict(self.logger.name_to_excluded), self.num_timesteps)
            self._drop_others()
        report = newest_report(self)
        if self.artifacts and self._run.is_open and report is not None and report.n_updates != self._published:
            self._published = report.n_updates
            self._guard("the model", lambda: publish_model(self._run, observed(self), self.max_artifact_mb))
            publish_dumps(self._run, observed(self), self.max_artifact_mb)

    def _on_death(self, error: BaseException) -> None:
        """The training raised: its dumps are kept; a run of ours would otherwise be that of whatever comes next."""
        self._sigterm.remove()
        self._guard("an update", self._look)
        self._guard("the end", self._drop_others)
        if self.artifacts and self._run.is_open:
            self._guard("the dumps", lambda: publish_dumps(self._run, observed(self), self.max_artifact_mb))
        if self._run.own:
            self._run.finish(DIED_EXIT_CODE)

    def _guard(self, what: str, act: Callable[[], None]) -> None:
        """Only watch: whatever is wrong with ourselves, or with what we are shown, is said once and ends no training."""
        try:
            act()
        except Exception as error:
            if not self._said:
                say(f"W&B: {what} can't be followed ({error!r}); training goes on", stacklevel=4)
            self._said = True

    def _look(self) -> None:
        report = newest_report(self)
        if not self._run.is_open or report is None or report.n_updates == self._seen:
            return
        self._seen = report.n_updates
        callbacks = list(callbacks_in(self.locals.get("callback")))
        for callback in callbacks:
            if isinstance(callback, Monitor):
                callback.look()  # those whose turn comes after ours: their alarms belong to this update, too
        row, recorded = update_row(observed(self), report), is_recorded(report.n_updates)
        drawn = recorded and self.histogram_every > 0 and report.n_updates % self.histogram_every == 0
        seen = histograms(observed(self), report, self.histogram_bins) if drawn else {}
        if self._synced:
            for name, (values, _) in seen.items():
                self.logger.record(name, values, exclude=("stdout", "log", "json", "csv"))
        elif recorded:
            self._run.log(row, {name: binned for name, (_, binned) in seen.items()})
        self.summaries.add(report, row, callbacks)
        self._run.summarise(self.summaries.shown())
        for alarm in self._new_alarms() if self.alerts else ():
            self._alerted.add((alarm.code, alarm.n_updates))
            self._run.alert(alert_of(alarm))

    def _new_alarms(self) -> list[Alarm]:
        """An alarm from before this training, of this model or another, is not sent again."""
        earlier = {id(alarm) for alarm in self._earlier}
        alarms = (alarm for alarm in self._alarms() if id(alarm) not in earlier)
        return [alarm for alarm in alarms if (alarm.code, alarm.n_updates) not in self._alerted]

    def _finish_early(self) -> None:
        """At SIGTERM: the run as it is, with the newest update, and nothing that could wait on the training itself."""
        self._guard("an update", self._log_newest)
        self._run.finish(SIGTERM_EXIT_CODE)

    def _log_newest(self) -> None:
        report = newest_report(self)
        if report is not None and report.n_updates != self._seen and not self._synced:
            self._run.log(update_row(observed(self), report))

    def _alarms(self) -> list[Alarm]:
        return alarms_in(self.locals.get("callback"))
