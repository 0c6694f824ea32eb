"""Whether the networks' units still do something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring.alarm import Evidence
from sb3_trpo_ext.monitoring.monitor import SHARE, WARN, Finding, Monitor

Shares = dict[str, float]
"""By name of the layer."""

INACTIVE = 0.1
"""The issue's share, from which on a person is told."""

NEVER_ACTIVE = 0.25
"""By chance a second layer of 16 ReLU units begins with an eighth of them dead (tests/monitoring/scenarios.py); observations
of one sign leave a third and more."""

UPDATES = 3
"""Updates that it has to last: a unit that works again in the next one was not dead. (What is measured on a sub-sample
of the batch comes and goes near the limit.)"""

STAYS = 0.75
"""Share of its threshold that a trouble, once begun, must fall below to be over: a layer that keeps about a tenth of its
units dead is one trouble, not many."""

ACTOR, CRITIC = "actor", "critic"
"""First word of a layer's name."""

WHOLE_LAYER = 0.9
"""A layer of 64 units of which 6 are left: less than most observation spaces have dimensions."""


class DeadNeuronMonitor(Monitor):
    """
    Watches the activity of every layer of actor and critic.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param inactive: TR301, TR302: share of a layer's units that have died or are saturated, in three updates
    :param never_active: TR305: share of them that were dead before the first update and are still
    :param whole_layer: TR303, TR304: share of a layer's units that are dead or saturated, so that next to nothing is left
    :param verbose: as in SB3
    :raises ValueError: for thresholds that nothing can be compared with
    """

    diagnostics = (Diagnostic.ACTIVITY,)

    def __init__(
        self,
        on_trouble: str = WARN,
        inactive: float = INACTIVE,
        never_active: float = NEVER_ACTIVE,
        whole_layer: float = WHOLE_LAYER,
        verbose: int = 0,
    ):
        super().__init__(on_trouble, verbose)
        self._check(*SHARE, inactive=inactive, never_active=never_active, whole_layer=whole_layer)
        self.inactive = inactive
        self.never_active = never_active
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
        if report.layer_dead_before:
            named = zip(report.layer_names, report.layer_dead_before, strict=True)
            self.kept |= {f"dead before {name}": share for name, share in named}
        latest = [r for r in self.recent(UPDATES) if r.layer_names == report.layer_names]
        if len(latest) < UPDATES:
            return
        dead = _lasting(latest, lambda r: r.layer_dead)
        # How many they are is known, not which.
        always = {name: min(share, self.kept.get(f"dead before {name}", 0.0)) for name, share in dead.items()}
        died = {name: dead[name] - share for name, share in always.items()}
        inactive = _lasting(latest, lambda r: tuple(map(sum, zip(r.layer_dead, r.layer_saturated, strict=True))))
        explained = "none" if report.explained_variance is None else report.explained_variance
        kinds: tuple[tuple[str, Shares, float, Evidence], ...] = (
            ("TR301", died, self.inactive, {}),
            ("TR302", _lasting(latest, lambda r: r.layer_saturated), self.inactive, {}),
            ("TR305", always, self.never_active, {}),
            ("TR303", _of(ACTOR, inactive), self.whole_layer, {}),
            ("TR304", _of(CRITIC, inactive), self.whole_layer, {"explained_variance": explained}),
        )
        units = dict(zip(report.layer_names, report.layer_units, strict=True))
        for code, shares, limit, more in kinds:
            worst = max(shares, key=shares.__getitem__, default="")
            if worst and shares[worst] >= limit * (STAYS if self.lasts(code) else 1.0):
                evidence: Evidence = {"layer": worst, "share": shares[worst], "updates": UPDATES, "units": units[worst]}
                yield code, {**evidence, "samples": report.activity_samples or 0, **more}


def _lasting(reports: list[UpdateReport], shares: Callable[[UpdateReport], tuple[float, ...]]) -> Shares:
    """Of each layer, what it has never been below."""
    lasting = map(min, zip(*map(shares, reports), strict=True))
    return dict(zip(reports[-1].layer_names, lasting, strict=True))


def _of(network: str, shares: Shares) -> Shares:
    return {name: share for name, share in shares.items() if name.split()[0] == network}
