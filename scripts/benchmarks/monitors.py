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

NOBODY, AGAIN, ACTIVITY, ALL = "without", "without, once more", "activity", "all monitors"
LIMITS = {NOBODY: None, AGAIN: None, ACTIVITY: 1.02, ALL: 1.05}
"""What the ratio may be."""


@dataclass(frozen=True)
class Cost:
    """
    What one set of diagnostics costs.

    :param name: which
    :param milliseconds: median time of an update with it
    :param low: lower quartile of the ratio to the update without any, in the same repetition
    :param ratio: its median
    :param high: its upper quartile
    :param limit: what the ratio may be; None: it is there for comparison
    """

    name: str
    milliseconds: float
    low: float
    ratio: float
    high: float
    limit: float | None


class WatchedSide(OurSide):
    """
    Ours in its default configuration, with and without diagnostics. One model for all: two of them differ by a per cent or two
    in where their memory happens to lie.

    :param cell: what is measured
    """

    def __init__(self, cell: Cell):
        super().__init__(cell)
        self.monitor = TrustRegionMonitor()
        self.monitor.init_callback(self.model)
        # What a first update leaves behind, so that there is a policy before it to measure drift from.
        run_once(self)
        self._memory = self.model.session.diagnosis._memory

    def timed(self, diagnostics: frozenset[Diagnostic], looks: bool) -> float:
        """
        Time one update from the first state.

        :param diagnostics: what is subscribed
        :param looks: whether the monitors look at its report
        :return: seconds
        """
        self.reset()
        self.model.session.diagnosis.subscribed = set(diagnostics)
        self.model.session.diagnosis._memory = self._memory
        for one in self.monitor.monitors:
            # As if it were another update: they do not look at one twice.
            one._seen = None
        start = time.perf_counter()
        self.model.train()
        if looks:
            self.monitor.on_rollout_start()
        return time.perf_counter() - start


def costs(cell: Cell, repetitions: int) -> list[Cost]:
    """
    Measure, taking turns, each repetition beginning with another one.

    :param cell: what is measured
    :param repetitions: timed updates of each
    :return: the costs
    """
    ways: dict[str, tuple[frozenset[Diagnostic], bool]] = {
        NOBODY: (frozenset(), False),
        AGAIN: (frozenset(), False),
        ACTIVITY: (frozenset({Diagnostic.ACTIVITY}), False),
        ALL: (frozenset(Diagnostic), True),
    }
    side, names = WatchedSide(cell), list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for repetition in range(repetitions):
            first = repetition % len(names)
            for name in [*names[first:], *names[:first]]:
                seconds[name].append(side.timed(*ways[name]))
    return [_cost(name, values, seconds[NOBODY]) for name, values in seconds.items()]


def _cost(name: str, values: list[float], base: list[float]) -> Cost:
    _, median, _ = quartiles(values)
    low, ratio, high = quartiles([value / other for value, other in zip(values, base, strict=True)])
    return Cost(name, 1e3 * median, low, ratio, high, LIMITS[name])
