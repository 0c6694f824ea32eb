"""Whether the critic learns, and whether what it learns is true."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean, median

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import CriticStatus, Diagnostic
from sb3_trpo_ext.monitoring.entropy_monitor import slope
from sb3_trpo_ext.monitoring.monitor import SHARE, WARN, WINDOW, Finding, Monitor

# Where a figure's range in ordinary runs is told, it is that of results/monitor_figures.csv (scripts/calibrate_monitors.py).

UPDATES = 10

UNCONVERGED = 0.5
"""Ordinary: no run came to it. With epochs that are extended until the loss has fallen, chance alone does not."""

LEAST_EXPLAINED, UNEXPLAINED = 0.05, 18
"""A constant explains 0, of which rounding decides the sign; of twenty updates two may be lucky. Ordinary: 0.38 and more in
the third best of any twenty, but 0.0 where LunarLander's rewards of hundreds saturate the critic's tanh units (TR304)."""

RISE, FALL = 3.0, 0.3
"""Ordinary: a rise of up to 22, with more explained; a fall of up to 1.2, where little was left to explain. Never both."""

FLATTERED, LEAST_SAMPLES = 0.8, 200
"""Ordinary: a median of up to 0.42, but 0.9 on Swimmer, whose discount of 0.9999 makes values of mostly bootstrapping. Few
finished steps say nothing."""


class ValueFunctionMonitor(Monitor):
    """
    Watches the critic.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param unconverged: TR501: share of the last ten updates whose epochs did not lower the value loss
    :param least_explained: TR503: the explained variance was below this in eighteen of the last twenty updates
    :param rise: TR504: the value loss is so many times what it was ten updates before
    :param fall: TR504: and the explained variance after the epochs fell by so much
    :param flattered: TR505: explained variance of V + A is by so much above that of finished episodes' returns
    :param verbose: as in SB3
    :raises ValueError: for thresholds that nothing can be compared with
    """

    diagnostics = (Diagnostic.EPISODES,)

    def __init__(
        self,
        on_trouble: str = WARN,
        unconverged: float = UNCONVERGED,
        least_explained: float = LEAST_EXPLAINED,
        rise: float = RISE,
        fall: float = FALL,
        flattered: float = FLATTERED,
        verbose: int = 0,
    ):
        super().__init__(on_trouble, verbose)
        self._check(*SHARE, unconverged=unconverged)
        self._check(rise=rise, fall=fall, flattered=flattered)
        self._check(-math.inf, 1.0, least_explained=least_explained)
        self.unconverged = unconverged
        self.least_explained = least_explained
        self.rise = rise
        self.fall = fall
        self.flattered = flattered

    def figures(self) -> dict[str, float | None]:
        """
        Trend of the value loss, and epochs beyond the enforced ones.

        :return: by name
        """
        losses = [report.value_loss_after for report in self.reports if report.value_loss_after]
        report = self.reports[-1]
        enforced = report.critic_epochs_enforced
        return {
            "value_loss_trend": slope([math.log(loss) for loss in losses]),
            "extra_critic_epochs": None if enforced is None else float(max(0, report.critic_epochs - enforced)),
            "flattery": flattery(report),
            **dict(zip(("value_loss_rise", "explained_variance_fall"), self._changes() or (None, None), strict=True)),
        }

    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now.

        :param report: the newest update
        :yields: code and evidence
        """
        if report.critic_status == str(CriticStatus.NON_FINITE):
            yield "TR502", {"value_loss_before": _number(report.value_loss_before), "advice": report.critic_advice}
        latest = self.recent(UPDATES)
        if not latest:
            return
        failed = mean(r.critic_status == str(CriticStatus.DID_NOT_CONVERGE) for r in latest)
        if failed >= self.unconverged:
            epochs = {"critic_epochs": report.critic_epochs, "enforced": report.critic_epochs_enforced or 0}
            yield "TR501", {"share": float(failed), "updates": UPDATES, **epochs}
        yield from self._explains_nothing()
        rise, fall = self._changes() or (0.0, 0.0)
        if rise > self.rise and fall > self.fall:
            yield "TR504", {"value_loss_rise": rise, "explained_variance_fall": fall, "updates": WINDOW}
        flattered = [value for value in map(flattery, latest) if value is not None]
        if len(flattered) >= UPDATES // 2 and median(flattered) > self.flattered:
            yield (
                "TR505",
                {
                    "explained_variance": _number(report.explained_variance),
                    "explained_variance_mc": _number(report.explained_variance_mc),
                    "mc_samples": report.mc_samples or 0,
                    "median_gap": median(flattered),
                },
            )

    def _explains_nothing(self) -> Iterator[Finding]:
        explained = [r.explained_variance for r in self.recent(WINDOW)]
        known = [value for value in explained if value is not None]
        below = sum(value < self.least_explained for value in known)
        if len(known) == WINDOW and below >= UNEXPLAINED:
            yield "TR503", {"median_explained_variance": median(known), "below": below, "updates": WINDOW}

    def _changes(self) -> tuple[float, float] | None:
        """From the older half of the window to the newer: how many times the value loss, how much less is explained."""
        window = self.recent(WINDOW)
        halves = (window[: WINDOW // 2], window[WINDOW // 2 :])
        losses = [[r.value_loss_after for r in half if r.value_loss_after] for half in halves]
        explained = [[r.explained_variance_after for r in half if r.explained_variance_after is not None] for half in halves]
        if not all(map(bool, (*losses, *explained))):
            return None
        return median(losses[1]) / median(losses[0]), median(explained[0]) - median(explained[1])


def flattery(report: UpdateReport) -> float | None:
    """
    Compare the two explained variances.

    :param report: the update
    :return: of V + A minus of finished episodes' returns, the latter at least -1; None unless both are known
    """
    told, true = report.explained_variance, report.explained_variance_mc
    if told is None or true is None or (report.mc_samples or 0) < LEAST_SAMPLES:
        return None
    return told - max(-1.0, true)


def _number(value: float | None) -> float | str:
    return "none" if value is None else value
