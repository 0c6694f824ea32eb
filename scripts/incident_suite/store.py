"""Finished runs: a row each in two small CSVs, never made twice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from evidence.provenance import provenance

from incident_suite.scenario import HEALTHY, Incident
from incident_suite.training import Outcome
from incident_suite.verdict import judge
from sb3_trpo_ext.core import NUMERICS_VERSION

Row = dict[str, Any]
RUNS = (
    *("key", "incident", "side", "seed", "updates", "best", "end", "fell_at", "died", "left", "alarms", "entropy", "dead"),
    *("largest_kl", "seconds", "numerics_version", "commit", "dirty", "torch", "sb3", "sb3_contrib", "finished"),
)
CURVES = ("key", "seed", "returns")
LONGEST = 200
"""Characters of an exception."""


class Store:
    """
    A folder with ``incidents.csv`` and ``incident_curves.csv``.

    :param folder: where
    """

    def __init__(self, folder: Path):
        self.runs, self.curves = folder / "incidents.csv", folder / "incident_curves.csv"

    def rows(self) -> list[Row]:
        """
        Read what is finished.

        :return: rows of text, with the curve as a list of numbers
        """
        curves = {(row["key"], row["seed"]): row["returns"] for row in _read(self.curves)}
        return [{**row, "returns": _numbers(curves[row["key"], row["seed"]])} for row in _read(self.runs)]

    def has(self, key: str, seed: int) -> bool:
        """
        Look for a run.

        :param key: what was run
        :param seed: its seed
        :return: whether it is finished
        """
        return any((row["key"], row["seed"]) == (key, str(seed)) for row in _read(self.runs))

    def add(self, incident: Incident, side: str, seed: int, outcome: Outcome) -> None:
        """
        Keep a run; its curve first, so that a row means that both are there.

        :param incident: the incident
        :param side: whose run
        :param seed: its seed
        :param outcome: what became of it
        """
        key, verdict = incident.key(side), judge(outcome.returns)
        known = {
            "key": key,
            "incident": "" if side == HEALTHY else incident.letter,
            "side": side,
            "seed": seed,
            "updates": len(outcome.returns),
            "alarms": " ".join(f"{code}@{update}" for code, update in outcome.alarms),
            "numerics_version": NUMERICS_VERSION,
            **{name: getattr(verdict, name) for name in ("best", "end", "fell_at")},
            **{name: getattr(outcome, name) for name in ("died", "left", "entropy", "dead", "largest_kl", "seconds")},
        }
        returns = " ".join("-" if value is None else f"{value:.1f}" for value in outcome.returns)
        _append(self.curves, CURVES, {"key": key, "seed": seed, "returns": returns})
        _append(self.runs, RUNS, {**provenance(), **known, "died": outcome.died[:LONGEST]})


def _numbers(text: str) -> list[float | None]:
    return [None if word == "-" else float(word) for word in text.split()]


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _append(path: Path, columns: tuple[str, ...], row: Row) -> None:
    begins = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if begins:
            writer.writeheader()
        writer.writerow({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()})
