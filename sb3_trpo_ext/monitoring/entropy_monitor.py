"""
Whether the policy still explores.

Entropies of different action spaces have no common scale, so that exploration is measured by what is left of it: of a
Gaussian, its standard deviation as a share of the first one; of discrete actions, the entropy as a share of the first one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.monitor import SHARE, WARN, Finding, Monitor

# Where a figure's range in ordinary runs is told, it is that of results/monitor_figures.csv (scripts/calibrate_monitors.py).

DROP, DROP_UPDATES = 0.4, 5
"""Ordinary: up to 0.31 within five updates. A step of KL delta lets a Gaussian's log std fall by about sqrt(delta) for each
dimension, so that at delta 0.01 five steps that do nothing else take 0.40, and Gaussians there are left to TR202."""

HIGH_SHARE, HIGH_KL = 0.5, 0.05
"""A policy moves far that uses half of what target_kl allows (ordinary: 0.46 to 0.93 in the steepest five updates of a run;
below it, a fall is that of a policy which has next to nothing left to change), or, where target_kl allows a lot, 0.05 joint
nats an update: five times what the field calls a normal step."""

FLOOR = 0.05
"""Ordinary: 0.25 and more after 50,000 steps; a twentieth is a policy that does next to the same each time."""

GROWTH = 3.0
"""Ordinary: 1.0; three times the usual first std of 1 is beyond the bounds of most action spaces."""


LEAST_NOISE = 0.8
"""Of a Gaussian's samples with this std a fifth are outside [-1, 1]; growth from less is exploration, and clips nothing."""


class EntropyMonitor(Monitor):
    """
    Watches the entropy.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param drop: TR201: so much of the exploration was lost within five updates, as a share of what there was before them
    :param high_share: TR201: and their mean KL is at least this share of target_kl
    :param high_kl: TR201: or at least so many joint nats
    :param floor: TR202: share of the first exploration that is left
    :param growth: TR203: the standard deviation is so many times the first one, and at least 0.8
    :param verbose: as in SB3
    :raises ValueError: for thresholds that nothing can be compared with
    """

    def __init__(
        self,
        on_trouble: str = WARN,
        drop: float = DROP,
        high_share: float = HIGH_SHARE,
        high_kl: float = HIGH_KL,
        floor: float = FLOOR,
        growth: float = GROWTH,
        verbose: int = 0,
    ):
        super().__init__(on_trouble, verbose)
        self._check(*SHARE, drop=drop, floor=floor)
        self._check(high_share=high_share, high_kl=high_kl, growth=growth)
        self.drop = drop
        self.high_share = high_share
        self.high_kl = high_kl
        self.floor = floor
        self.growth = growth

    def figures(self) -> dict[str, float | None]:
        """
        Slope of the entropy, and what is left of the exploration.

        :return: by name
        """
        entropies = [report.entropy for report in self.reports if report.entropy is not None]
        now = _exploration(self.reports[-1])
        first = self.kept.get("first")
        return {
            "entropy_slope": slope(entropies),
            "exploration_left": now / first if now is not None and first else None,
            "exploration_lost": self._lost(first) if first else None,
        }

    def judge(self, report: UpdateReport) -> Iterator[Finding]:
        """
        Find what is wrong now.

        :param report: the newest update
        :yields: code and evidence
        """
        now = _exploration(report)
        if now is None or not math.isfinite(now) or now < 0.0:
            return
        first = self.kept.setdefault("first", now)
        if first == 0.0:
            return
        evidence = {"entropy": report.entropy if report.entropy is not None else "none", "exploration_left": now / first}
        lost = self._lost(first)
        latest = list(self.reports)[-DROP_UPDATES:]
        share, kl = mean(r.kl / r.target_kl for r in latest), mean(r.kl_joint for r in latest)
        if lost is not None and lost >= self.drop and (share >= self.high_share or kl >= self.high_kl):
            yield "TR201", {**evidence, "lost": lost, "updates": DROP_UPDATES, "kl_share": share, "kl_joint": kl}
        if now < self.floor * first:
            yield "TR202", evidence
        if report.std is not None and now > self.growth * first and now >= LEAST_NOISE:
            yield "TR203", {**evidence, "std": report.std}

    def _lost(self, first: float) -> float | None:
        """Share of the exploration that the last updates took; below the floor, where little is left to lose, none."""
        before, *_, now = [_exploration(r) for r in self.recent(DROP_UPDATES + 1)] or [None, None]
        if before is None or now is None or before <= self.floor * first:
            return None
        return 1.0 - now / before


def _exploration(report: UpdateReport) -> float | None:
    return report.std if report.std is not None else report.entropy


def slope(values: list[float]) -> float | None:
    """
    Fit a line by least squares.

    :param values: one an update
    :return: change an update; None for fewer than 3 values
    """
    if len(values) < 3:
        return None
    middle = (len(values) - 1) / 2.0
    centre = mean(values)
    squares = sum((place - middle) ** 2 for place in range(len(values)))
    return sum((place - middle) * (value - centre) for place, value in enumerate(values)) / squares
