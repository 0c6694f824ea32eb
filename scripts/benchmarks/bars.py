"""The bars of the issue "Speed of the update": what is at most, what was measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from evidence.provenance import REPO
from precision_tables import STEP_TIMINGS, read

from benchmarks.cells import AS_SHIPPED, EQUAL_WORK
from benchmarks.measure import CRITIC, POLICY, WHOLE
from benchmarks.peers import PEERS
from sb3_trpo_ext import TRPO

Cells = dict[str, str]
DEFAULT = "ours, default"
ON_TRAINED = REPO / "results" / STEP_TIMINGS
"""What scripts/compare_preconditioners.py --timings has measured on trained policies."""

PRECONDITIONED = f"kfac, {inspect.signature(TRPO).parameters['cg_precision'].default}"


@dataclass(frozen=True)
class Measured:
    """
    A ratio, and where it was measured.

    :param ratio: to sb3-contrib, or to the fastest peer
    :param where: shape, size, allocator and side
    """

    ratio: float
    where: str


@dataclass(frozen=True)
class Bar:
    """
    A promise.

    :param text: what
    :param limit: the ratio is at most this
    :param measured: picks its measurements from the rows of the CSV
    """

    text: str
    limit: float
    measured: Callable[[list[Cells]], list[Measured]]


@dataclass(frozen=True)
class Verdict:
    """
    What became of a bar.

    :param bar: the bar
    :param best: the lowest ratio; None: not measured
    :param worst: the highest: what counts
    """

    bar: Bar
    best: Measured | None
    worst: Measured | None

    @property
    def text(self) -> str:
        """Reached, in part, missed, or not measured."""
        if self.best is None or self.worst is None:
            return "not measured"
        if self.worst.ratio <= self.bar.limit:
            return "reached"
        return "reached in part" if self.best.ratio <= self.bar.limit else "missed"


def verdicts(rows: list[Cells]) -> list[Verdict]:
    """
    Hold rows against the bars.

    :param rows: of the CSV
    :return: one for each bar
    """
    found = []
    for bar in BARS:
        measured = sorted(bar.measured(rows), key=lambda each: each.ratio)
        found.append(Verdict(bar, measured[0] if measured else None, measured[-1] if measured else None))
    return found


def _where(row: Cells) -> str:
    return f"{row['shape']}, N = {int(row['samples']):,}, {row['side']}, allocator {row['allocator']}"


def _pick(**wanted: str) -> Callable[[list[Cells]], list[Measured]]:
    def measured(rows: list[Cells]) -> list[Measured]:
        chosen = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
        return [Measured(float(row["ratio"]), _where(row)) for row in chosen]

    return measured


def _of_ours(part: str, **wanted: str) -> Callable[[list[Cells]], list[Measured]]:
    pick = _pick(part=part, **wanted)
    return lambda rows: pick([row for row in rows if row["side"].startswith("ours")])


def _on_trained(_: list[Cells]) -> list[Measured]:
    rows = read(ON_TRAINED) if ON_TRAINED.exists() else []
    chosen = (row for row in rows if row["target"] == "25 plain" and row["model"] == PRECONDITIONED)
    return [Measured(row["ratio"], f"{row['task']} {row['policy']}, {PRECONDITIONED}") for row in chosen]


def _against_fastest_peer(rows: list[Cells]) -> list[Measured]:
    same = ("shape", "samples", "allocator", "mode", "cg_steps")
    steps = [row for row in rows if row["part"] == POLICY and row["mode"] == EQUAL_WORK and row["cg_steps"] == "10"]
    found = []
    for row in steps:
        peers = [r for r in steps if r["side"] in PEERS and all(r[key] == row[key] for key in same)]
        if row["side"] == "ours, mixed" and peers:
            fastest = min(peers, key=lambda r: float(r["ratio"]))
            where = f"{_where(row)}, against {fastest['side']}"
            found.append(Measured(float(row["ratio"]) / float(fastest["ratio"]), where))
    return found


_EQUAL_25 = {"mode": EQUAL_WORK, "cg_steps": "25"}
BARS = (
    Bar("policy step, 25 CG iterations, float64", 1.0, _pick(part=POLICY, side="ours, float64", **_EQUAL_25)),
    Bar("policy step, 25 CG iterations, mixed", 0.45, _pick(part=POLICY, side="ours, mixed", **_EQUAL_25)),
    Bar("policy step, 10 CG iterations, mixed, against the fastest peer of each shape", 0.7, _against_fastest_peer),
    Bar(
        "policy step to the gain of 25 plain iterations, on trained policies, with preconditioner",
        0.4,
        _on_trained,
    ),
    Bar("critic, same number of Adam steps: 20 epochs", 0.55, _of_ours(CRITIC, mode=EQUAL_WORK, critic_epochs="20")),
    Bar(
        "whole update, HalfCheetah, Zoo settings, default configuration",
        0.55,
        _pick(part=WHOLE, side=DEFAULT, mode=AS_SHIPPED, shape="halfcheetah", samples="2048", cg_steps="25"),
    ),
    Bar(
        "Humanoid shapes, N = 16,384, policy step, mixed",
        0.4,
        _pick(part=POLICY, side="ours, mixed", mode=EQUAL_WORK, shape="humanoid", samples="16384"),
    ),
)
