"""Whether the trust region holds, on this batch and on the next, and how hard it is to find a step within it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, median

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import Diagnostic, UpdateStatus
from sb3_trpo_ext.monitoring.monitor import SHARE, WARN, Finding, Monitor

# Where a figure's range in ordinary runs is told, it is that of results/monitor_figures.csv (scripts/calibrate_monitors.py).

SPIKE, SPIKE_SHARE = 15.0, 50.0
"""Ordinary: up to 8.6 times the median, and up to 620 delta (with gSDE); a spike is both."""

DRIFT_SHARE = 10.0
"""Ordinary: up to 5.2 delta; twice that. (17 in a run of LunarLander whose critic was saturated: TR304.)"""

BACKTRACKS = 3.0
"""Ordinary: up to 1.4; three of them at the default factor halve the step."""

REJECTED = 0.5
"""Ordinary: none."""

UNUSED = 0.1
"""Ordinary: 0.36 and more in every single update."""

UPDATES = 10
"""Updates that the last three of them are judged by, and that a median takes."""


class KLMonitor(Monitor):
    """
    Watches the KL divergence and the line search.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param spike: TR101: the worst state's KL is so many times its recent median
    :param spike_share: TR101: and so many times target_kl
    :param drift_share: TR102: the KL of the last two policies on the next batch is so many times target_kl
    :param backtracks: TR103: mean number of rejected candidates of the last updates
    :param rejected: TR104: share of the last updates whose step was rejected
    :param unused: TR105: median of the last updates' KL, as a share of target_kl, is below it
    :param verbose: as in SB3
    :raises ValueError: for thresholds that nothing can be compared with
    """

    diagnostics = (Diagnostic.DRIFT,)

    def __init__(
        self,
        on_trouble: str = WARN,
        spike: float = SPIKE,
        spike_share: float = SPIKE_SHARE,
        drift_share: float = DRIFT_SHARE,
        backtracks: float = BACKTRACKS,
        rejected: float = REJECTED,
        unused: float = UNUSED,
        verbose: int = 0,
    ):
        super().__init__(on_trouble, verbose)
        self._check(*SHARE, rejected=rejected, unused=unused)
        self._check(spike=spike, spike_share=spike_share, drift_share=drift_share, backtracks=backtracks)
        self.spike = spike
        self.spike_share = spike_share
        self.drift_share = drift_share
        self.backtracks = backtracks
        self.rejected = rejected
        self.unused = unused

    def figures(self) -> dict[str, float | None]:
        """
        Shares of target_kl, and how the last searches went.

        :return: by name
        """
        report = self.reports[-1]
        searched = self._searched()
        return {
            "kl_share": report.kl / report.target_kl if report.accepted else None,
            "kl_max_share": report.kl_max / report.target_kl if report.accepted else None,
            "kl_max_spike": self._spike(),
            "drift_share": report.drift_kl / report.target_kl if report.drift_kl is not None else None,
            "backtracks": mean(r.line_search_backtracks or 0 for r in searched) if searched else None,
            "rejected_share": mean(not r.accepted for r in searched) if searched else None,
        }

    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now.

        :param report: the newest update
        :yields: code and evidence
        """
        spike = self._spike()
        if spike is not None and spike > self.spike and report.kl_max > self.spike_share * report.target_kl:
            yield "TR101", {"kl_max": report.kl_max, "times_its_median": spike, "target_kl": report.target_kl}
        if report.drift_kl is not None and report.drift_kl > self.drift_share * report.target_kl:
            yield "TR102", {"drift_kl": report.drift_kl, "target_kl": report.target_kl}
        figures = self.figures()
        searched = self._searched()[-UPDATES:]
        if len(searched) < UPDATES:
            return
        rejected = mean(not r.accepted for r in searched)
        if rejected >= self.rejected:
            yield "TR104", {"rejected_share": float(rejected), "updates": UPDATES, "advice": report.advice}
            return
        backtracks = float(figures["backtracks"] or 0.0)
        if backtracks >= self.backtracks:
            yield "TR103", {"backtracks": backtracks, "target_kl": report.target_kl}
        accepted = [r.kl / r.target_kl for r in searched if r.accepted]
        used = median(accepted) if accepted else self.unused
        if used < self.unused:
            yield "TR105", {"kl_share": used, "cg_damping": report.cg_damping}

    def _searched(self) -> list[UpdateReport]:
        """Updates that came as far as the line search."""
        ends = (str(UpdateStatus.ACCEPTED), str(UpdateStatus.LINE_SEARCH_FAILED))
        return [report for report in self.reports if report.status in ends]

    def _spike(self) -> float | None:
        """The worst state's KL over its own median in the updates before."""
        *earlier, newest = self.reports
        usual = [report.kl_max for report in earlier if report.accepted]
        if len(usual) < UPDATES or not newest.accepted:
            return None
        return newest.kl_max / median(usual)
