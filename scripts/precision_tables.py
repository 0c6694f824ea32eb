"""What scripts/compare_precision.py and compare_preconditioners.py have measured, as tables."""

from __future__ import annotations

import csv
import math
import statistics
import sys
from pathlib import Path
from typing import Any

try:
    from evidence import tables
except ImportError as error:
    sys.exit(f"precision_tables: {error}: pip install -e '.[bench]' brings what reports need")

from sb3_trpo_ext.core.status import CGStatus

Row = dict[str, Any]
Solver = tuple[str, str]
VALUES, TIMINGS = "precision.csv", "precision_timings.csv"
COUNTS, STEP_TIMINGS = "precision_preconditioners.csv", "precision_step_timings.csv"
RE_ORTHOGONALISED, PRECISIONS = "re-orthogonalised", ("float64", "mixed", "float32")
SOLVERS: list[Solver] = [(precision, recurrence) for recurrence in (RE_ORTHOGONALISED, "plain") for precision in PRECISIONS]
REFERENCE, CANDIDATE = SOLVERS[0], SOLVERS[1]
NUMBERS = ("gain_lost", "residual", "cosine", "kl_share", "last_iteration_added", "median_ms", "std", "ratio", "gain_share")


def read(path: Path) -> list[Row]:
    """
    Read a CSV.

    :param path: the file
    :return: its rows; numbers that were not measured are None
    """
    with path.open(newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        row.update({name: _number(row[name]) for name in NUMBERS if name in row})
        row["solver"] = (row.get("precision"), row.get("recurrence"))
    return rows


def _number(text: str) -> float | None:
    """What is not finite compares as the worst."""
    return (float(text) if math.isfinite(float(text)) else math.inf) if text else None


def system(row: Row) -> tuple[str, ...]:
    """
    Name the linear system of a row.

    :param row: of ``precision.csv``
    :return: what all solvers of it share
    """
    return tuple(row[name] for name in ("task", "policy", "seed", "less_damping", "iterations"))


def place(row: Row) -> str:
    """
    Say which system it is.

    :param row: of ``precision.csv``
    :return: text
    """
    return f"{row['task']} {row['policy']}, {row['iterations']} iterations, damping / {row['less_damping']}"


def shift(row: Row, reference: dict[tuple[str, ...], Row]) -> float | None:
    """
    Compare the KL of a step with the reference's.

    :param row: of ``precision.csv``
    :param reference: the reference's row of each system
    :return: difference as a share of the reference's; None without a step
    """
    other = reference[system(row)]["kl_share"]
    return None if row["kl_share"] is None or other is None else abs(row["kl_share"] / other - 1.0)


def reference_of(rows: list[Row]) -> dict[tuple[str, ...], Row]:
    """
    Find what others are compared with.

    :param rows: of ``precision.csv``
    :return: the reference's row of each system
    """
    return {system(row): row for row in rows if row["solver"] == REFERENCE}


def solver_table(rows: list[Row]) -> str:
    """
    Sum up each solver over all systems.

    :param rows: of ``precision.csv``
    :return: Markdown
    """
    titles = ["products, recurrence", "iterations", "gain lost: median", "largest", "KL of the step: largest deviation"]
    titles += ["lowest cosine", "residual: median", "solves failed"]
    reference, cells = reference_of(rows), []
    for solver in SOLVERS:
        for iterations in sorted({row["iterations"] for row in rows}, key=int):
            some = [row for row in rows if row["solver"] == solver and row["iterations"] == iterations]
            losses = [row["gain_lost"] for row in some]
            shifts = [value for value in (shift(row, reference) for row in some) if value is not None]
            failed = sum(CGStatus(row["status"]).failed for row in some)
            numbers = [f"{statistics.median(losses):.1e}", f"{max(losses):.1e}", f"{max(shifts, default=0.0):.1e}"]
            numbers += [
                f"{min(row['cosine'] for row in some):.6f}",
                f"{statistics.median(row['residual'] for row in some):.2f}",
            ]
            cells.append([", ".join(solver), iterations, *numbers, f"{failed} of {len(some)}"])
    return tables.table(titles, cells)


def policy_table(rows: list[Row]) -> str:
    """
    Give the largest loss on each policy.

    :param rows: of ``precision.csv``
    :return: Markdown
    """
    last = [row for row in rows if row["iterations"] == max((row["iterations"] for row in rows), key=int)]
    cells = []
    for task, policy in dict.fromkeys((row["task"], row["policy"]) for row in last):
        some = [row for row in last if (row["task"], row["policy"]) == (task, policy)]
        best = [row for row in some if row["solver"] == REFERENCE]
        losses = [f"{max(row['gain_lost'] for row in some if row['solver'] == solver):.1e}" for solver in SOLVERS[1:]]
        kl = [row["kl_share"] for row in best if row["kl_share"] is not None]
        context = [tables.number(best[0]["std"]), tables.number(statistics.median(row["residual"] for row in best), 2)]
        context.append(f"{min(kl):.2f} to {max(kl):.2f}" if kl else "-")
        cells.append([f"{task} {policy}", *context, *losses])
    titles = ["policy", "mean std", "residual", "KL / bound", *(", ".join(solver) for solver in SOLVERS[1:])]
    return tables.table(titles, cells)


def time_table(rows: list[Row]) -> str:
    """
    Give the time of a solve.

    :param rows: of ``precision_timings.csv``
    :return: Markdown
    """
    columns = list(dict.fromkeys((row["task"], row["iterations"]) for row in rows))
    taken = {(row["task"], row["iterations"], row["solver"]): row["median_ms"] for row in rows}
    cells = []
    for solver in SOLVERS:
        values = [(taken[(*column, solver)], taken[(*column, REFERENCE)]) for column in columns]
        cells.append([", ".join(solver), *(f"{own:.0f} ms ({own / base:.2f})" for own, base in values)])
    return tables.table(["products, recurrence", *(f"{task}, {iterations}" for task, iterations in columns)], cells)


def count_table(rows: list[Row]) -> str:
    """
    Give iterations to a gain, without and with K-FAC.

    :param rows: of ``precision_preconditioners.csv``
    :return: Markdown
    """
    dampings = sorted({row["less_damping"] for row in rows}, key=int)
    cells = []
    for group in dict.fromkeys((row["task"], row["policy"], row["target"]) for row in rows):
        line = [f"{group[0]} {group[1]}", group[2]]
        for less in dampings:
            some = [r for r in rows if (r["task"], r["policy"], r["target"]) == group and r["less_damping"] == less]
            plain, kfac = ([float(r[name] or math.inf) for r in some] for name in ("none_iterations", "kfac_iterations"))
            line.append(f"{statistics.median(plain):.0f} → {statistics.median(kfac):.0f} (at most {max(kfac):.0f})")
        cells.append(line)
    return tables.table(["policy", "as good as", *(f"damping / {less}" for less in dampings)], cells)


def _step_time(row: Row | None) -> str:
    if row is None:
        return "-"
    gain = f", gain {row['gain_share']:.0%}" if row.get("gain_share") is not None else ""
    return f"{row['median_ms']:.0f} ms, {row['iterations']} ({row['ratio']:.2f}){gain}"


def step_time_table(rows: list[Row]) -> str:
    """
    Give the time of a policy step to a gain.

    :param rows: of ``precision_step_timings.csv``
    :return: Markdown
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = []
    for group in dict.fromkeys((row["task"], row["policy"], row["target"]) for row in rows):
        some = {row["model"]: row for row in rows if (row["task"], row["policy"], row["target"]) == group}
        cells.append([f"{group[0]} {group[1]}", group[2], *(_step_time(some.get(name)) for name in models)])
    return tables.table(["policy", "as good as", *models], cells)
