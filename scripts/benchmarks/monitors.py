"""What the monitors cost: updates of the same model without diagnostics, with activity, and with all of them, in turn."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

from benchmarks.cells import Cell
from benchmarks.measure import quartiles, run_once
from benchmarks.sb3_sides import OurSide
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring import TrustRegionMonitor

NOBODY, ACTIVITY, ALL = "without", "activity", "all monitors"
LIMITS = {NOBODY: 0.0, ACTIVITY: 0.02, ALL: 0.05}
"""Share of an update that they may cost."""


@dataclass(frozen=True)
class Cost:
    """
    What one set of diagnostics costs.

    :param name: which
    :param milliseconds: median time of an update with it
    :param low: lower quartile of the ratio to the update without any, in the same repetition
    :param ratio: its median
    :param high: its upper quartile
    :param limit: what the ratio may be
    """

    name: str
    milliseconds: float
    low: float
    ratio: float
    high: float
    limit: float


class WatchedSide(OurSide):
    """
    Ours in its default configuration, with diagnostics.

    :param cell: what is measured
    :param diagnostics: what is subscribed
    :param monitor: looks at each report, if there is one
    """

    def __init__(self, cell: Cell, diagnostics: tuple[Diagnostic, ...], monitor: TrustRegionMonitor | None = None):
        super().__init__(cell)
        self.monitor = monitor
        if monitor is not None:
            monitor.init_callback(self.model)
        self.model.subscribe(*diagnostics)
        # What a first update leaves behind, so that there is a policy before it to measure drift from.
        run_once(self)
        self._memory = self.model._diagnosis._memory

    def timed(self) -> float:
        """
        Time one update from the first state, and the look at its report.

        :return: seconds
        """
        self.reset()
        self.model._diagnosis._memory = self._memory
        start = time.perf_counter()
        self.model.train()
        if self.monitor is not None:
            # As if it were another update: it would not look at the same one twice.
            for one in self.monitor.monitors:
                one._seen = None
            self.monitor.on_rollout_start()
        return time.perf_counter() - start


def costs(cell: Cell, repetitions: int) -> list[Cost]:
    """
    Measure, the sides taking turns, each repetition beginning with another one.

    :param cell: what is measured
    :param repetitions: timed updates of each
    :return: the costs
    """
    sides = {
        NOBODY: WatchedSide(cell, ()),
        ACTIVITY: WatchedSide(cell, (Diagnostic.ACTIVITY,)),
        ALL: WatchedSide(cell, (), TrustRegionMonitor()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for repetition in range(repetitions):
            first = repetition % len(names)
            for name in [*names[first:], *names[:first]]:
                seconds[name].append(sides[name].timed())
    return [_cost(name, values, seconds[NOBODY]) for name, values in seconds.items()]


def _cost(name: str, values: list[float], base: list[float]) -> Cost:
    _, median, _ = quartiles(values)
    low, ratio, high = quartiles([value / other for value, other in zip(values, base, strict=True)])
    return Cost(name, 1e3 * median, low, ratio, high, 1.0 + LIMITS[name])
