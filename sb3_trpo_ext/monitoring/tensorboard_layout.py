"""TensorBoard's "custom scalars" page: the logged keys, grouped as in ``keys.CHARTS``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar
from weakref import WeakSet

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat

from sb3_trpo_ext.records.keys import CHARTS, NOT_IN_TENSORBOARD

Layout = dict[str, dict[str, list[Any]]]


def layout() -> Layout:
    """
    Describe the page as ``SummaryWriter.add_custom_scalars`` takes it.

    :return: ``["Multiline", patterns]`` by chart by group
    """
    return {
        group: {chart: ["Multiline", _patterns(keys)] for chart, keys in charts.items()} for group, charts in CHARTS.items()
    }


def _patterns(keys: Iterable[str]) -> list[str]:
    """TensorBoard shows every tag that *begins* with the pattern: value_loss_before is not value_loss."""
    return [f"{re.escape(key)}$" for key in keys if key not in NOT_IN_TENSORBOARD]


class TensorBoardLayout(BaseCallback):
    """Writes the layout into the event file of SB3's TensorBoard logger, once a file; without one it does nothing."""

    # A logger outlives a call of learn().
    _done: ClassVar[WeakSet[TensorBoardOutputFormat]] = WeakSet()

    def _on_training_start(self) -> None:
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat) and output not in self._done:
                output.writer.add_custom_scalars(layout())
                output.writer.flush()
                self._done.add(output)

    def _on_step(self) -> bool:
        return True
