"""A model's run folder: found once a run, written once a recorded update, and never the end of a run. SB3's log alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, Logger
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.files import CSV_NAME, SPARE_CSV_NAME
from sb3_trpo_ext.records.run_folder import RunFolder
from sb3_trpo_ext.records.thinning import is_recorded
from sb3_trpo_ext.sb3.update.run_paths import find_run_folder


class RunLog:
    """Writes a model's updates to its run folder, wherever that is."""

    def __init__(self) -> None:
        self._found_for: tuple[str | None, VecEnv | None, Logger] | None = None
        self._folder: RunFolder | None = None
        self._own: Path | None = None
        self._in_trouble = self._log_in_trouble = False
        self._cut = self._off = False

    def keep_off(self) -> None:
        """Write nothing: another process does."""
        self._off = True

    def go_on_in(self, path: Path) -> None:
        """
        Go on with a run from a checkpoint: what came later there will happen again.

        :param path: its folder, for a run that has no other reason to be there
        """
        self._own, self._cut = path, True

    @property
    def path(self) -> Path | None:
        """The run folder; None before the first update begins, and for a run that has none."""
        return None if self._folder is None else self._folder.path

    def write(self, report: UpdateReport, log_folder: str | None, env: VecEnv | None, logger: Logger) -> None:
        """
        Write an update, if it is one that is recorded. What can't be written is said once, until it can be again.

        :param report: the update
        :param log_folder: the run folder that the user asked for
        :param env: the training environment
        :param logger: SB3's logger
        """
        self.find(report.n_updates, log_folder, env, logger)
        if self._folder is None or not is_recorded(report.n_updates):
            return
        csvs = [output.file.name for output in logger.output_formats if isinstance(output, CSVOutputFormat)]
        taken = (self._folder.path / CSV_NAME).resolve() in [Path(name).resolve() for name in csvs]
        try:
            self._folder.write(report, SPARE_CSV_NAME if taken else CSV_NAME)
            self._in_trouble = False
        except OSError as error:
            if not self._in_trouble:
                warnings.warn(
                    f"TRPO: the run folder {self.path} can't be written ({error}): updates will be missing there "
                    "until it can be; training goes on",
                    stacklevel=4,
                )
            self._in_trouble = True

    def dump(self, logger: Logger, write: Callable[[], None]) -> None:
        """
        Have SB3's logger write. What can't be written is said once, until it can be again.

        :param logger: SB3's
        :param write: has it write
        """
        try:
            try:
                write()
            except BrokenPipeError:
                _write_without_printing(logger, write)
            self._log_in_trouble = False
        except OSError as error:
            for pending in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
                pending.clear()
            if not self._log_in_trouble:
                warnings.warn(
                    f"TRPO: SB3's log can't be written ({error}): rows will be missing until it can be, and TensorBoard's "
                    "until the training is resumed; training goes on",
                    stacklevel=4,
                )
            self._log_in_trouble = True

    def find(self, n_updates: int, log_folder: str | None, env: VecEnv | None, logger: Logger) -> None:
        """
        Find the folder; it stays the same while what it is chosen from does: another logger may lie elsewhere.

        :param n_updates: number of the update that will be written next
        :param log_folder: the run folder that the user asked for
        :param env: the training environment
        :param logger: SB3's logger
        """
        known = self._found_for
        if self._off or (
            known is not None and known[0] == log_folder and (log_folder or (known[1] is env and known[2] is logger))
        ):
            return
        self._found_for = (log_folder, env, logger)
        path = find_run_folder(log_folder, env, logger) or self._last_resort(logger)
        if path is None:
            self._folder = None
        elif path != self.path:
            self._folder = RunFolder(path, resume=n_updates > 1, cut=self._cut)

    def _last_resort(self, logger: Logger) -> Path | None:
        """A run that logs, but not to any folder, gets one of its own, and says so; one that logs nothing leaves nothing."""
        if not logger.output_formats:
            return None
        if self._own is None:
            self._own = Path("trpo_runs", datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")).absolute()
            logger.log(f"TRPO: run folder {self._own}")
        return self._own


def _write_without_printing(logger: Logger, write: Callable[[], None]) -> None:
    """
    Print no more, since nobody reads it, and write to the outputs that come after the printed table.

    :param logger: SB3's; what it prints to is a pipe that was closed
    :param write: has it write
    :raises OSError: if it prints nothing, or if that fails, too
    """
    outputs = logger.output_formats
    printed = [output for output in outputs if isinstance(output, HumanOutputFormat) and not output.own_file]
    if not printed:
        raise BrokenPipeError("the reader of one of its outputs is gone")
    before = outputs[: outputs.index(printed[0])]
    after = [output for output in outputs[len(before) :] if output not in printed]
    warnings.warn(
        "TRPO: nobody reads what this run prints any more, so it prints no more tables; training goes on", stacklevel=5
    )
    try:
        logger.output_formats = after
        write()
    finally:
        logger.output_formats = [*before, *after]
