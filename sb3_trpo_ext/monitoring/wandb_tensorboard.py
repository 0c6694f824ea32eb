"""Whether W&B, which reads along what TensorBoard is told, reads this writer: only one that was made after the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat

from sb3_trpo_ext.monitoring.bounded import say

OLDER = (
    "W&B: this model's TensorBoard writer is older than the run, which can't read it; figures are sent by the monitor itself. "
    "Start the run before the logger is made."
)

EVENTS = "events.out.tfevents."
"""What the name of TensorBoard's files begins with; the second in which one was made comes next."""


def is_read_along(outputs: list[KVWriter], run_started: float | None) -> bool:
    """
    Look for a writer that W&B reads, where it reads any; of one that it can't read, warn.

    :param outputs: of SB3's logger
    :param run_started: when the run was started, seconds of the epoch; None: not known
    :return: whether there is one
    """
    writers = [output.writer for output in outputs if isinstance(output, TensorBoardOutputFormat)]
    read = [writer for writer in writers if not _is_older(writer, run_started)]
    if writers and not read:
        say(OLDER, stacklevel=5)
    return bool(read)


def _is_older(writer: Any, run_started: float | None) -> bool:
    from torch.utils.tensorboard import writer as module  # SB3 goes without TensorBoard, too

    # W&B reads along by a subclass in the place of the class.
    if not isinstance(writer.file_writer.event_writer, module.EventFileWriter):
        return True
    files = [file.name.removeprefix(EVENTS).partition(".")[0] for file in Path(writer.get_logdir()).glob(f"{EVENTS}*")]
    made = max((int(second) for second in files if second.isdigit()), default=None)
    # The second is rounded down.
    return made is not None and run_started is not None and made + 1 <= run_started
