"""Whether the networks' units still do something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring.alarm import Evidence
from sb3_trpo_ext.monitoring.monitor import WARN, Finding, Monitor

INACTIVE = 0.1
"""The issue's share, above which a person is told."""

UPDATES = 3
"""Updates that it has to last: a unit that works again in the next one was not dead. (What is measured on a sub-sample
of the batch comes and goes near the limit.)"""

WHOLE_LAYER = 0.9
"""A layer of 64 units of which 6 are left: less than most observation spaces have dimensions."""


class DeadNeuronMonitor(Monitor):
    """
    Watches the activity of every layer of actor and critic.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param inactive: TR301, TR302: share of a layer's units that are dead or saturated, in three updates
    :param whole_layer: TR303: the same share, of which next to nothing is left
    :param verbose: as in SB3
    """

    diagnostics = (Diagnostic.ACTIVITY,)

    def __init__(self, on_trouble: str = WARN, inactive: float = INACTIVE, whole_layer: float = WHOLE_LAYER, verbose: int = 0):
        super().__init__(on_trouble, verbose)
        self.inactive = inactive
        self.whole_layer = whole_layer

    def figures(self) -> dict[str, float | None]:
        """
        Inactive units of every activation, which the report's ``layer_names`` name.

        :return: by network and number, from 1
        """
        report = self.reports[-1]
        numbers: Counter[str] = Counter()
        shares: dict[str, float | None] = {}
        for name, dead, saturated in zip(report.layer_names, report.layer_dead, report.layer_saturated, strict=True):
            # Short: SB3's tables cut names off, and raise where two of them are then the same.
            network = name.split()[0]
            numbers[network] += 1
            shares[f"{network}_inactive_{numbers[network]}"] = dead + saturated
        return shares

    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now.

        :param report: the newest update
        :yields: code and evidence
        """
        latest = [r for r in self.recent(UPDATES) if r.layer_names == report.layer_names]
        if len(latest) < UPDATES:
            return
        kinds = (
            ("TR301", [r.layer_dead for r in latest], self.inactive),
            ("TR302", [r.layer_saturated for r in latest], self.inactive),
            ("TR303", [_inactive(r) for r in latest], self.whole_layer),
        )
        for code, shares, limit in kinds:
            # Of each layer, what it has never been below.
            lasting = [min(of_layer) for of_layer in zip(*shares, strict=True)]
            worst = max(range(len(lasting)), key=lasting.__getitem__, default=None)
            if worst is not None and lasting[worst] > limit:
                evidence: Evidence = {"layer": report.layer_names[worst], "share": lasting[worst], "updates": UPDATES}
                yield code, {**evidence, "units": report.layer_units[worst], "samples": report.activity_samples or 0}


def _inactive(report: UpdateReport) -> tuple[float, ...]:
    return tuple(dead + saturated for dead, saturated in zip(report.layer_dead, report.layer_saturated, strict=True))
