"""
Checkpoints of a training: when they are taken.

A kill loses at most what came after the newest one; SIGTERM and Ctrl-C lose nothing: the update is finished, a checkpoint is
written, and ``learn`` ends with SystemExit(143) or KeyboardInterrupt. If no training step is made for 30 s (in an evaluation,
or a callback), it ends in the same way, but without a checkpoint. A second signal ends the process at once.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext.records.signals import PATIENCE, GracefulStop, say
from sb3_trpo_ext.records.trials import in_trial
from sb3_trpo_ext.sb3.callback_tree import every_callback
from sb3_trpo_ext.sb3.checkpoints.files import FOLDER_NAME, newest_in_words, prune, write_checkpoint
from sb3_trpo_ext.sb3.checkpoints.lock import claim, release
from sb3_trpo_ext.sb3.checkpoints.protocol import Trainee
from sb3_trpo_ext.sb3.checkpoints.state import about, checkpoint_files
from sb3_trpo_ext.sb3.errors import WorkerError
from sb3_trpo_ext.sb3.integrity.guard import Mark

EVERY_UPDATES, EVERY_SECONDS = 10, 60.0
"""Whichever comes first. A checkpoint takes some hundredths of a second (docs/checkpoints.md)."""

PROMISE = f"stopping after this update, with a checkpoint (forced after {PATIENCE:g} s without a training step)"


class Checkpoints(BaseCallback):
    """
    Writes checkpoints that ``TRPO.resume`` goes on from, at ends of updates, and one when training ends.

    :param every_updates: a checkpoint after so many updates at the latest, at least 1
    :param every_seconds: or after so many seconds, at the end of the update; None: don't look at the clock
    :param keep_last: so many of the newest stay, at least 1
    :param keep_best: and that with the highest score: the newest evaluation's mean reward, else the episodes' mean return
    :param folder: where; None: ``checkpoints`` in the run's folder
    :param on_signals: whether SIGTERM and Ctrl-C wait for the end of the update and a checkpoint
    :param verbose: as in SB3
    :raises ValueError: for impossible numbers
    """

    def __init__(
        self,
        every_updates: int = EVERY_UPDATES,
        every_seconds: float | None = EVERY_SECONDS,
        keep_last: int = 3,
        keep_best: bool = True,
        folder: str | None = None,
        on_signals: bool = True,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        for name, value in (("every_updates", every_updates), ("keep_last", keep_last)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Checkpoints: {name}={value!r} is impossible: it must be a whole number of at least 1.")
        if every_seconds is not None and not every_seconds > 0:
            raise ValueError(f"Checkpoints: every_seconds={every_seconds!r} is impossible: it must be above 0, or None.")
        self.every_updates, self.every_seconds = every_updates, every_seconds
        self.keep_last, self.keep_best = keep_last, keep_best
        self.folder, self.on_signals = folder, on_signals
        self._signals = GracefulStop(self._stop, PROMISE, self._progress)
        self._last_update, self._last_time = 0, 0.0
        self._active = self._in_trouble = False
        self._writing = Mark()

    def _init_callback(self) -> None:
        if not hasattr(getattr(self.model, "session", None), "update_start"):
            cls = type(self.model)
            raise TypeError(
                f"Checkpoints are of sb3_trpo_ext.TRPO; this model is {cls.__module__}.{cls.__name__}. Use `from sb3_trpo_ext "
                "import TRPO`, or SB3's CheckpointCallback."
            )

    @property
    def _trainee(self) -> Trainee:
        return self.model  # type: ignore[return-value]

    def _on_training_start(self) -> None:
        model = self._trainee
        # A search is hundreds of short runs that nobody goes on with.
        if in_trial(every_callback(self.locals.get("callback", self))):
            return
        claim(self._folder())
        self._active = True
        self._last_update, self._last_time = model._n_updates, time.monotonic()
        model.session.between_updates.append(self._between_updates)
        model.session.failure_observers.append(self._on_death)
        if self.on_signals:
            self._signals.install()

    def _folder(self) -> Path:
        if self.folder is not None:
            return Path(self.folder).absolute()
        model = self._trainee
        model.session.run_log.find(model._n_updates + 1, model.log_folder, model.env, model.logger)
        if model.run_folder is None:
            raise ValueError(
                "Checkpoints: this run logs nothing, so it has no folder: set folder here, or log_folder of TRPO."
            )
        return model.run_folder / FOLDER_NAME

    def _on_step(self) -> bool:
        return True

    def _between_updates(self) -> bool:
        """Whether training goes on."""
        model = self._trainee
        stops = model.session.stop_signal is not None
        late = self.every_seconds is not None and time.monotonic() - self._last_time >= self.every_seconds
        if stops or late or model._n_updates - self._last_update >= self.every_updates:
            try:
                self._take()
            except WorkerError:
                raise  # a training environment has lost its worker, so training can't continue
            except Exception as error:
                self._tell(error, "training stops" if stops else "training goes on")
        return not stops

    def _on_training_end(self) -> None:
        if not self._active:
            return
        report = self._trainee.last_update
        # Unless a callback ended it in the middle of a rollout.
        if report is not None and report.num_timesteps == self._trainee.num_timesteps:
            try:
                self._take()
            except Exception as error:
                self._tell(error, "training is over")
        self._end()

    def _take(self) -> None:
        model = self._trainee
        if model._n_updates == self._last_update:
            return
        folder, root = self._folder(), self.locals["callback"]
        with self._writing:
            write_checkpoint(folder, model._n_updates, checkpoint_files(model, root, folder.parent), about(model, root))
            self._last_update, self._last_time, self._in_trouble = model._n_updates, time.monotonic(), False
            prune(folder, self.keep_last, self.keep_best)

    def _tell(self, error: Exception, outcome: str) -> None:
        """A checkpoint that can't be written (a full disk, an object that can't be pickled) does not end the training."""
        if not self._in_trouble:
            text = f"a checkpoint can't be written ({error!r}): a resumed run would begin at an earlier one; {outcome}"
            warnings.warn(f"TRPO: {text}", UserWarning, stacklevel=2)
        self._in_trouble = True

    def _stop(self, number: int) -> None:
        self._trainee.session.stop_signal = number

    def _progress(self) -> tuple[int, int] | None:
        """For a stop that was asked for; an update and a checkpoint are finished first, and other ranks are waited for."""
        model = self._trainee
        busy = model.session.computing.on or self._writing.on or model.session.ranks.waiting
        return None if busy else (model.num_timesteps, model._n_updates)

    def _on_death(self, error: BaseException) -> None:
        if isinstance(error, WorkerError):
            folder = self._folder()
            error.remedy = newest_in_words(folder, f"TRPO.resume({str(folder)!r}, env=...) resumes from it")
        self._end()

    def _end(self) -> None:
        """Runs once, because the RL Zoo calls ``on_training_end`` twice."""
        self._signals.remove()
        if not self._active:
            return
        self._active = False
        model, folder = self._trainee, self._folder()
        if model.session.stop_signal is not None:
            say(f"training stopped after update {model._n_updates}, at step {model.num_timesteps}. {newest_in_words(folder)}")
        release(folder)
