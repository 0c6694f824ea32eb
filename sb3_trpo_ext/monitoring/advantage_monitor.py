"""Whether the advantages carry a signal, and an unbiased one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import Diagnostic, UpdateStatus
from sb3_trpo_ext.monitoring.alarm import Evidence
from sb3_trpo_ext.monitoring.monitor import SHARE, WARN, Finding, Monitor

# Where a figure's range in ordinary runs is told, it is that of results/monitor_figures.csv (scripts/calibrate_monitors.py).

LEVEL = 1e-3
"""With a perfect critic one update in a thousand is below it, and never ten in a row. Beside ``BIAS`` it decides for small
batches only: a share of 0.3 is beyond it from 121 residuals on."""

BIAS, BIAS_UPDATES = 0.3, 20
"""While a policy improves, values lag behind. Ordinary: up to 0.34 throughout ten updates, 0.02 throughout twenty."""

TIME_BIAS, TIME_BIAS_UPDATES = 0.3, 10
"""Ordinary: up to 0.11 throughout ten updates."""

OVERALL = 0.5
"""An overall bias of half of what is asked of one phase is no matter of phases."""

TOP_WEIGHT, TOP_UPDATES = 0.7, 5
"""Ordinary: a median of up to 0.52 of five updates; a Gaussian has 0.08."""

SIGNAL_UPDATES = 3
"""Ordinary: none. An episode that happens to give no reward is no alarm."""

DROPPED = 0.01
"""A sample in a hundred. Ordinary: none."""

NO_SIGNAL = (str(UpdateStatus.ZERO_VARIANCE_ADVANTAGES), str(UpdateStatus.ZERO_GRADIENT))


class AdvantageMonitor(Monitor):
    """
    Watches the raw advantages.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param level: TR601, TR602: a bias counts if its p-value, corrected for the number of bins, is below this; that is asked of
        small batches, and of small bins: where there are many residuals, the share decides
    :param bias: TR601: and if it is at least this share of the residuals' root mean square, in each of the last twenty updates
    :param time_bias: TR602: the mean of one bin of time within the episode is off the overall one by this share, throughout
        ten updates in which the overall one is less than half of it
    :param top_weight: TR603: share of the variance that the largest 1 % make
    :param dropped: TR605: share of the samples that were dropped, in one update
    :param verbose: as in SB3
    :raises ValueError: for thresholds that nothing can be compared with
    """

    diagnostics = (Diagnostic.RESIDUALS, Diagnostic.TAILS)

    def __init__(
        self,
        on_trouble: str = WARN,
        level: float = LEVEL,
        bias: float = BIAS,
        time_bias: float = TIME_BIAS,
        top_weight: float = TOP_WEIGHT,
        dropped: float = DROPPED,
        verbose: int = 0,
    ):
        super().__init__(on_trouble, verbose)
        self._check(*SHARE, level=level, bias=bias, time_bias=time_bias, top_weight=top_weight, dropped=dropped)
        self.level = level
        self.bias = bias
        self.time_bias = time_bias
        self.top_weight = top_weight
        self.dropped = dropped

    def figures(self) -> dict[str, float | None]:
        """
        Size of the raw advantages, and bias as a share of the residuals.

        :return: by name
        """
        report = self.reports[-1]
        return {
            "advantage_mean": report.advantage_mean,
            "advantage_std": report.advantage_std,
            "td_bias_share": bias_share(report),
            "td_bias_share_by_time": max((abs(share) for share in time_shares(report).values()), default=None),
        }

    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now.

        :param report: the newest update
        :yields: code and evidence
        """
        shares = [self._significant(r) for r in self.recent(BIAS_UPDATES)]
        if shares and (min(shares) >= self.bias or max(shares) <= -self.bias):
            yield (
                "TR601",
                {
                    "td_mean": report.td_mean or 0.0,
                    "td_rms": report.td_rms or 0.0,
                    "td_z": report.td_z or 0.0,
                    "median_share": median(shares),
                    "updates": BIAS_UPDATES,
                },
            )
        yield from self._by_time(self.recent(TIME_BIAS_UPDATES))
        weights = [r.advantage_top_weight for r in self.recent(TOP_UPDATES) if r.advantage_top_weight is not None]
        if len(weights) == TOP_UPDATES and median(weights) > self.top_weight:
            evidence = {"top_weight": median(weights), "kurtosis": report.advantage_kurtosis or 0.0}
            yield "TR603", {**evidence, "std": report.advantage_std or 0.0}
        silent = self.recent(SIGNAL_UPDATES)
        if silent and all(r.status in NO_SIGNAL for r in silent):
            yield "TR604", {"updates": SIGNAL_UPDATES, "status": report.status, "advantage_std": report.advantage_std or 0.0}
        dropped = report.samples_dropped or 0
        if dropped > self.dropped * (dropped + report.n_samples):
            yield "TR605", {"samples_dropped": dropped, "samples": report.n_samples}

    def _significant(self, report: UpdateReport) -> float:
        share = bias_share(report)
        return 0.0 if share is None or report.td_p is None or report.td_p >= self.level else share

    def _by_time(self, latest: list[UpdateReport]) -> Iterator[Finding]:
        """One bin, the same in each update, on the same side."""
        overall = max((abs(bias_share(r) or 0.0) for r in latest), default=1.0)
        if overall >= OVERALL * self.time_bias:
            return
        by_update = [self._significant_by_time(r) for r in latest]
        for start, share in by_update[-1].items():
            others = [shares.get(start, 0.0) for shares in by_update]
            if min(others) >= self.time_bias or max(others) <= -self.time_bias:
                scores = dict(zip(latest[-1].td_time_starts, latest[-1].td_time_z, strict=True))
                evidence: Evidence = {"from_step": start, "share": share, "z": scores[start], "largest_overall_share": overall}
                yield "TR602", {**evidence, "updates": TIME_BIAS_UPDATES}
                return

    def _significant_by_time(self, report: UpdateReport) -> dict[int, float]:
        """Shares of the bins that differ from the rest, each by its own test."""
        scores = dict(zip(report.td_time_starts, report.td_time_z, strict=True))
        # Two-sided, and by Bonferroni times the number of bins.
        p_values = {start: len(scores) * math.erfc(abs(score) / math.sqrt(2.0)) for start, score in scores.items()}
        return {start: share for start, share in time_shares(report).items() if p_values[start] < self.level}


def bias_share(report: UpdateReport) -> float | None:
    """
    Give the bias as a share of the residuals' size.

    :param report: the update
    :return: mean / root mean square, in [-1, 1]
    """
    if report.td_mean is None or not report.td_rms:
        return None
    return report.td_mean / report.td_rms


def time_shares(report: UpdateReport) -> dict[int, float]:
    """
    Give each bin's bias, beyond the overall one, as a share of the residuals' size.

    :param report: the update
    :return: by first step of the bin
    """
    if report.td_mean is None or not report.td_rms:
        return {}
    pairs = zip(report.td_time_starts, report.td_time_means, strict=True)
    return {start: (value - report.td_mean) / report.td_rms for start, value in pairs}
