"""Why conjugate gradient stopped. To reach ``cg_max_steps`` with a large residual is normal; a gain that grows yet is not."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import CGStatus, UpdateStatus
from sb3_trpo_ext.monitoring.alarm import Evidence
from sb3_trpo_ext.monitoring.monitor import SHARE, WARN, Finding, Monitor

# Where a figure's range in ordinary runs is told, it is that of results/monitor_figures.csv (scripts/calibrate_monitors.py).

UPDATES, FAILURES = 10, 3
"""Ordinary: no solve fails. One or two may, where rounding has it so."""

GROWTH, LAST_ITERATIONS = 0.1, 0.2
"""Ordinary: up to 0.045 in the last fifth of the iterations; twice that."""

AT_BOUND, AT_BOUND_UPDATES = 0.999, 5
"""Ordinary: never at the upper end of the default range, 1,000 times cg_damping: 18 rises of a half away."""


class ConjugateGradientMonitor(Monitor):
    """
    Watches the linear solver and its damping.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param failures: TR401, TR402: so many of the last ten updates failed, or needed more damping
    :param growth: TR403: share of its gain that the solve made in the last fifth of its iterations (at least one)
    :param verbose: as in SB3
    :raises ValueError: for thresholds that nothing can be compared with
    """

    def __init__(self, on_trouble: str = WARN, failures: int = FAILURES, growth: float = GROWTH, verbose: int = 0):
        super().__init__(on_trouble, verbose)
        self._check(*SHARE, growth=growth)
        self._check(failures=failures)
        self.failures = failures
        self.growth = growth

    def figures(self) -> dict[str, float | None]:
        """
        Growth of the gain, and retries.

        :return: by name
        """
        report = self.reports[-1]
        retries = None if report.cg_retries is None else float(report.cg_retries)
        return {"cg_growth": growth(report), "cg_retries": retries}

    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now.

        :param report: the newest update
        :yields: code and evidence
        """
        latest = list(self.reports)[-UPDATES:]
        failed = [r for r in latest if r.direction == "gradient" or r.status == str(UpdateStatus.NO_DIRECTION)]
        retried = [r for r in latest if r.cg_retries and r not in failed]
        status: Evidence = {"cg_status": report.cg_status or "none", "cg_damping": report.cg_damping}
        if len(failed) >= self.failures:
            yield "TR401", {"failed": len(failed), "updates": len(latest), **status}
        if len(retried) >= self.failures:
            yield "TR402", {"retried": len(retried), "updates": len(latest), **status}
        grown = [value for value in map(growth, latest) if value is not None]
        if len(grown) == UPDATES and median(grown) > self.growth:
            iterations = report.cg_iterations or 0
            yield "TR403", {"growth": median(grown), "cg_iterations": iterations, "cg_residual": report.cg_residual or 0.0}
        bounded = self.recent(AT_BOUND_UPDATES)
        if bounded and all(_at_bound(r) for r in bounded):
            yield "TR404", {"cg_damping": report.next_damping, "high": report.cg_damping_range[1]}


def _at_bound(report: UpdateReport) -> bool:
    low, high = report.cg_damping_range or (0.0, 0.0)
    return high > low and report.next_damping >= AT_BOUND * high


def growth(report: UpdateReport) -> float | None:
    """
    Measure how much a solve that was cut off was still gaining.

    :param report: the update
    :return: share of the quadratic model's fall that came in the last fifth of the iterations; None unless it was cut off
    """
    history = [0.0, *(value for value in report.cg_model_history if value is not None)]
    if report.cg_status != str(CGStatus.MAX_STEPS) or len(history) < 2 or not history[-1] < 0.0:
        return None
    last = max(1, round(LAST_ITERATIONS * (len(history) - 1)))
    return 1.0 - history[-1 - last] / history[-1]
