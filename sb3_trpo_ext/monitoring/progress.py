"""What the newest update did, beside the steps on SB3's progress bar: ``KL 0.97δ  H 3.1  R 1234``."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.utils import safe_mean

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.observed import newest_report
from sb3_trpo_ext.monitoring.tree import callbacks_in

OTHER_COLUMNS = 32
"""Width of tqdm.rich's columns but the description, the bar, the steps and the rate: `` 65% [ 0:00:06 < 0:00:04 , ]``."""

DELTA, DELTA_IN_ASCII = "δ", "d"
"""The trust region's letter, and what stands for it where the terminal's encoding lacks it."""


def describe(report: UpdateReport, mean_return: float | None, room: int, delta: str = DELTA) -> str:
    """
    Sum up an update in a few characters, because a progress bar that is too wide breaks its line.

    :param report: the update
    :param mean_return: mean return of the newest episodes; None if none has ended
    :param room: number of characters that fit
    :param delta: the letter for the trust region
    :return: KL as a share of the trust region, entropy in nats, return: the first that fits of ``KL 0.97δ  H 3.1  R 1234``,
        ``KL0.97δ H3.1 R1234``, ``.97δ H3.1 R1234``, ``.97δ R1234`` and ``.97δ``, each without what is None
    """
    share = f"{report.kl / report.target_kl:.2f}{delta}"
    entropy = "" if report.entropy is None else f"H {report.entropy:.2g}"
    returned = "" if mean_return is None else f"R {_short(mean_return)}"
    long = [f"KL {share}" if report.accepted else "no step", entropy, returned]
    short = [part if part == "no step" else part.replace(" ", "") for part in long]
    bare = [share.removeprefix("0") if report.accepted else "no step", *short[1:]]
    texts = ["  ".join(filter(None, long)), *(" ".join(filter(None, parts)) for parts in (short, bare, bare[::2]))]
    return next((text for text in texts if len(text) <= room), bare[0])


def _delta() -> str:
    """Whatever can't be encoded would end the training."""
    try:
        DELTA.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return DELTA_IN_ASCII
    return DELTA


def _outlive_readers(bar: Any) -> None:
    """The console of rich ends the process where nobody reads what it prints (``| head``); the bar is all that should end."""
    console = getattr(getattr(bar, "_prog", None), "console", None)
    if console is not None:
        console.on_broken_pipe = partial(setattr, console, "quiet", True)


def _short(value: float) -> str:
    """Three digits, and a longer number without places."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.3g}"


def _room(bar: Any) -> int:
    """
    Characters for the description: rich makes the bar, the steps and the rate narrower alike, until the rate breaks in two.

    The rate that is shown is that of the last moments, between updates: there is room for a fifth more than the mean.
    """
    rate = 1.2 * bar.n / max(bar.format_dict["elapsed"], 1e-3)
    widths = 3 * max(len(f"{rate:,.0f} it/s"), len("1,000 it/s"))
    return shutil.get_terminal_size().columns - OTHER_COLUMNS - widths


class ProgressDescription(BaseCallback):
    """Describes the newest update on every running progress bar; without one it does nothing."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._show()

    def _on_training_end(self) -> None:
        self._show()

    def _show(self) -> None:
        report = newest_report(self)
        for callback in callbacks_in(self.locals.get("callback")):
            # There from the start of training on: the Zoo's -P puts one among the callbacks, progress_bar=True beside them.
            bar = getattr(callback, "pbar", None) if isinstance(callback, ProgressBarCallback) else None
            if bar is None:
                continue
            _outlive_readers(bar)
            if report is not None:
                returns = [episode["r"] for episode in self.model.ep_info_buffer or []]
                mean_return = float(safe_mean(returns)) if returns else None
                bar.set_description_str(describe(report, mean_return, _room(bar), _delta()))
