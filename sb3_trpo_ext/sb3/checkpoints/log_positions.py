"""
Where a run's logs were at a checkpoint: a resumed run cuts what came later, since it will happen again, and appends.

The run folder's own files are cut by ``records.run_folder``, from the number of the update; here are the others: SB3's
logger (CSV, JSON, text, TensorBoard), Monitor files and ``alarms.jsonl``.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from stable_baselines3.common import logger as sb3_logger
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.records.files import ALARMS_NAME
from sb3_trpo_ext.sb3.update.run_paths import monitor_folder

EVENTS = "events.out.tfevents*"


class Output(TypedDict):
    """
    One of a logger's outputs, as plain data.

    ``kind`` is the name of SB3's class; ``path`` its file, or folder of TensorBoard (None: the screen); ``n_lines`` are those
    of a CSV file: a later row may have rewritten earlier ones, with more columns.
    """

    kind: str
    path: str | None
    n_lines: int


@dataclass(frozen=True)
class LogPositions:
    """
    Ends of all logs, paths relative to the run's folder where they are inside it.

    :param folder: of SB3's logger
    :param outputs: of SB3's logger
    :param sizes: bytes by path, of files that only grow
    :param pending: what is recorded and not yet written: values, counts and exclusions by key
    :param level: of SB3's logger
    """

    folder: str | None
    outputs: tuple[Output, ...]
    sizes: dict[str, int]
    pending: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
    level: int

    @classmethod
    def of(cls, logger: Logger, env: VecEnv | None, run_folder: Path | None, base: Path) -> LogPositions:
        """
        Look where logs are.

        :param logger: SB3's
        :param env: the training environment, for its Monitor files
        :param run_folder: with ``alarms.jsonl``
        :param base: what paths are relative to
        :return: their ends
        """
        outputs = tuple(output for found in logger.output_formats if (output := _described(found, base)) is not None)
        files = [*_growing(logger), *_monitor_files(env), *([] if run_folder is None else [run_folder / ALARMS_NAME])]
        sizes = {_stored(path, base): path.stat().st_size for path in files if path.is_file()}
        pending = (dict(logger.name_to_value), dict(logger.name_to_count), dict(logger.name_to_excluded))
        folder = None if logger.dir is None else _stored(Path(logger.dir), base)
        return cls(folder, outputs, sizes, pending, logger.level)

    def cut(self, base: Path) -> None:
        """
        Cut off what came later.

        :param base: what paths are relative to now
        """
        for name, size in self.sizes.items():
            path = base / name
            there = path.stat().st_size if path.is_file() else 0
            if there > size:
                os.truncate(path, size)
            elif there < size:
                hint = " (give monitor_kwargs override_existing=False when resuming)" if name.endswith(Monitor.EXT) else ""
                warnings.warn(
                    f"TRPO: {path} has {there} bytes, and had {size} at the checkpoint: earlier rows are lost{hint}",
                    stacklevel=2,
                )

    def reopen(self, base: Path, num_timesteps: int) -> Logger:
        """
        Make a logger that goes on where the other was.

        :param base: what paths are relative to now
        :param num_timesteps: at the checkpoint: what TensorBoard was told of later steps does not count
        :return: the logger
        """
        outputs = [_reopened(output, base, num_timesteps) for output in self.outputs]
        logger = Logger(None if self.folder is None else str(base / self.folder), outputs)
        logger.level = self.level
        return logger

    def restore_pending(self, logger: Logger) -> None:
        """
        Record again what was not yet written.

        :param logger: the resumed run's
        """
        values, counts, excluded = self.pending
        logger.name_to_value.update(values)
        logger.name_to_count.update(counts)
        logger.name_to_excluded.update(excluded)


def _stored(path: Path, base: Path) -> str:
    path, base = path.absolute(), base.absolute()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _described(output: object, base: Path) -> Output | None:
    """None for what SB3 does not make itself: whoever added it will do so again."""
    kind = type(output)
    if kind is TensorBoardOutputFormat:
        folder = Path(output.writer.log_dir)  # type: ignore[attr-defined]
        return {"kind": kind.__name__, "path": _stored(folder, base), "n_lines": 0}
    if kind is HumanOutputFormat and not output.own_file:  # type: ignore[attr-defined]
        return {"kind": kind.__name__, "path": None, "n_lines": 0}
    if kind in (HumanOutputFormat, JSONOutputFormat, CSVOutputFormat):
        output.file.flush()  # type: ignore[attr-defined]
        path = Path(output.file.name)  # type: ignore[attr-defined]
        n_lines = len(path.read_bytes().splitlines()) if kind is CSVOutputFormat else 0
        return {"kind": kind.__name__, "path": _stored(path, base), "n_lines": n_lines}
    return None


def _growing(logger: Logger) -> Iterator[Path]:
    for output in logger.output_formats:
        if type(output) is TensorBoardOutputFormat:
            output.writer.flush()
            yield from Path(output.writer.log_dir).glob(EVENTS)
        elif type(output) is JSONOutputFormat or (type(output) is HumanOutputFormat and output.own_file):
            yield Path(output.file.name)


def _monitor_files(env: VecEnv | None) -> Iterator[Path]:
    folder = monitor_folder(env)
    if folder is not None:
        yield from Path(folder).glob(f"*{Monitor.EXT}")


def _reopened(output: Output, base: Path, num_timesteps: int) -> KVWriter:
    if output["path"] is None:
        return HumanOutputFormat(sys.stdout)
    path = str(base / output["path"])
    if output["kind"] == TensorBoardOutputFormat.__name__:
        if sb3_logger.SummaryWriter is None:
            raise ImportError("this run logs to TensorBoard, which is not installed: pip install tensorboard")
        writer = sb3_logger.SummaryWriter(log_dir=path, purge_step=num_timesteps + 1)
        return _made(TensorBoardOutputFormat, writer=writer, _is_closed=False)
    if output["kind"] == CSVOutputFormat.__name__:
        return _made(CSVOutputFormat, **_cut_csv(path, output["n_lines"]), separator=",", quotechar='"')
    if output["kind"] == JSONOutputFormat.__name__:
        return _made(JSONOutputFormat, file=open(path, "a"))
    text = HumanOutputFormat(open(path, "a"))
    text.own_file = True
    return text


def _made(kind: type[KVWriter], **attributes: Any) -> KVWriter:
    """SB3's own class, but for its constructor, which begins a file anew."""
    output = object.__new__(kind)
    vars(output).update(attributes)
    return output


def _cut_csv(path: str, n_lines: int) -> dict[str, Any]:
    Path(path).touch()
    file = open(path, "r+")
    lines = file.readlines()[:n_lines]
    file.seek(0)
    file.truncate()
    file.writelines(lines)
    file.flush()
    return {"file": file, "keys": lines[0].rstrip("\n").split(",") if lines else []}
