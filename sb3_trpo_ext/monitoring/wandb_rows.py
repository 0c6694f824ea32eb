"""What W&B is told of an update: rows, summaries, histograms and alerts, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.utils import safe_mean

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.alarm import Alarm
from sb3_trpo_ext.monitoring.alarms import Severity
from sb3_trpo_ext.monitoring.bounded import without_keys
from sb3_trpo_ext.monitoring.distributions_seen import distributions_seen
from sb3_trpo_ext.monitoring.observed import Observed
from sb3_trpo_ext.records.keys import KEYS, logged_values

AXIS = "global_step"
"""What W&B calls TensorBoard's step; every other metric is drawn over it."""

RETURN = "rollout/ep_rew_mean"

FROM_ROLLOUTS = frozenset({RETURN, "rollout/ep_len_mean", "rollout/success_rate"})

LEVELS = {Severity.INFO: "INFO", Severity.WARNING: "WARN", Severity.CRITICAL: "ERROR"}

TITLE = 63
"""Characters: W&B asks for less than 64."""

APART = 1.0
"""Seconds between alerts of one title that W&B sends; by default 60, in which a fast run has more than one."""

WIDEST_DIGIT = 4.0
"""Distances of neighbouring numbers in a bin at least, so that every bin has a width."""

Binned = tuple[NDArray[np.int64], NDArray[np.float64]]


def update_row(model: Observed, report: UpdateReport) -> dict[str, float]:
    """
    Give the newest update's row: its own keys, and SB3's figures of the rollout that it learnt from.

    :param model: the model
    :param report: of the update
    :return: finite numbers by logger key, and the axis
    """
    row: dict[str, float] = dict(logged_values(report))
    episodes, successes = model.ep_info_buffer, model.ep_success_buffer
    if episodes:
        row[RETURN] = float(safe_mean([episode["r"] for episode in episodes]))
        row["rollout/ep_len_mean"] = float(safe_mean([episode["l"] for episode in episodes]))
    if successes:
        row["rollout/success_rate"] = float(safe_mean(successes))
    return {key: value for key, value in row.items() if math.isfinite(value)} | {AXIS: report.num_timesteps}


class OtherFigures(KVWriter):
    """
    An output of SB3's logger that hands on what ``update_row`` does not hold: evaluations, monitors, a user's own keys.

    :param send: takes a row
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]):
        self.send = send

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Hand on one dump.

        :param key_values: what was recorded
        :param key_excluded: which outputs a key is not for; what is not for TensorBoard is not for W&B
        :param step: environment steps
        """
        row = {
            key: float(value)
            for key, value in key_values.items()
            if key not in KEYS
            and key not in FROM_ROLLOUTS
            and "tensorboard" not in (key_excluded.get(key) or ())
            and isinstance(value, (bool, int, float, np.number))
            and math.isfinite(value)
        }
        if row:
            self.send(row | {AXIS: step})

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Summaries:
    """
    What one looks for in a table of runs.

    :param best_return: largest ``rollout/ep_rew_mean``
    :param best_evaluation: largest mean reward of an ``EvalCallback``
    :param max_kl_share: largest KL of an update over target_kl; above 1 the trust region did not hold
    :param updates_skipped: updates whose policy step was skipped
    :param explained_variance: of the newest update
    """

    best_return: float | None = None
    best_evaluation: float | None = None
    max_kl_share: float | None = None
    updates_skipped: int = 0
    explained_variance: float | None = None

    def add(self, report: UpdateReport, row: dict[str, Any], callbacks: Iterable[Any]) -> None:
        """
        Add an update.

        :param report: the update
        :param row: its row
        :param callbacks: of this training
        """
        self.best_return = _larger(self.best_return, row.get(RETURN))
        for callback in callbacks:
            if isinstance(callback, EvalCallback):
                self.best_evaluation = _larger(self.best_evaluation, float(callback.best_mean_reward))
        if report.accepted:
            self.max_kl_share = _larger(self.max_kl_share, report.kl / report.target_kl)
        self.updates_skipped = report.updates_skipped
        self.explained_variance = report.explained_variance

    def shown(self) -> dict[str, float]:
        """
        Give what is known.

        :return: by name
        """
        return {f"trpo/{name}": value for name, value in vars(self).items() if value is not None}


def _larger(best: float | None, value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return best
    return value if best is None else max(best, value)


def histograms(model: Observed, report: UpdateReport, bins: int) -> dict[str, tuple[torch.Tensor, Binned]]:
    """
    Give the newest update's distributions.

    :param model: the model
    :param report: of the update
    :param bins: how many
    :return: values, and the same counted with the edges of the bins, by name
    """
    seen = distributions_seen(model, report)
    return {name: (torch.as_tensor(values), binned(values, bins)) for name, values in seen.items()}


def binned(values: NDArray[np.float64], bins: int) -> Binned:
    """
    Count values.

    :param values: finite, at least one
    :param bins: how many
    :return: counts and edges; values too near to each other for so many bins get wider ones around them
    """
    low, high = float(values.min()), float(values.max())
    resolved = bins * WIDEST_DIGIT * float(np.spacing(max(abs(low), abs(high))))
    if low < high < low + resolved:
        low, high = low - resolved, high + resolved
    return np.histogram(values, bins=bins, range=(low, high))


def alert_of(alarm: Alarm) -> dict[str, Any]:
    """
    Say an alarm as W&B's alert.

    :param alarm: what was raised
    :return: arguments of ``run.alert``
    """
    title = f"{alarm.code} {alarm.kind.name}"[:TITLE]
    return {"title": title, "text": without_keys(str(alarm)), "level": LEVELS[alarm.severity], "wait_duration": APART}
