"""What came out: rows in a CSV, and a page that is written from them alone."""

from __future__ import annotations

import csv
import importlib.metadata
import io
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from evidence.provenance import provenance
from evidence.store import write_whole
from evidence.tables import number, table

from benchmarks.bars import Verdict, verdicts
from benchmarks.cells import BATCH_SIZE, DAMPING, EQUAL_WORK, SHAPES, Cell
from benchmarks.peers import PEERS
from benchmarks.sb3_sides import CONTRIB
from sb3_trpo_ext.core import NUMERICS_VERSION

CELL = ["shape", "samples", "cg_steps", "mode", "critic_epochs", "allocator"]
VALUES = ["part", "side", "value", "unit", "low", "high", "ratio", "ratio_low", "ratio_high", "repetitions"]
CHECKS = ["iterations", "faults", "kl", "cosine", "length"]
ORIGIN = ["numerics_version", *provenance(), *PEERS, "command"]
COLUMNS = [*CELL, *VALUES, *CHECKS, *ORIGIN]
ALLOCATOR_TEXT = {
    "default": "glibc's defaults: large blocks are mapped and given back each time, and every page of them faults anew",
    "tuned": "nothing is mapped or given back (MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_, MALLOC_TOP_PAD_), for all sides",
}


def origin(command: str) -> dict[str, Any]:
    """
    Say where rows come from.

    :param command: how to make them again
    :return: columns
    """
    return {"numerics_version": NUMERICS_VERSION, **provenance(), **{p: _version(p) for p in PEERS}, "command": command}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def as_cells(rows: Iterable[dict[str, Any]], cell: Cell, allocator: str, source: dict[str, Any]) -> list[dict[str, str]]:
    """
    Turn measured rows into rows of the CSV.

    :param rows: what was measured
    :param cell: in which cell
    :param allocator: with which allocator
    :param source: from ``origin``
    :return: text
    """
    where = {**vars(cell), "allocator": allocator, **source}
    return [{key: _text({**where, **row}.get(key)) for key in COLUMNS} for row in rows]


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def read(path: Path) -> list[dict[str, str]]:
    """
    Read a CSV of this script.

    :param path: the file
    :return: its rows; none if there is no file
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def merge(old: list[dict[str, str]], new: list[dict[str, str]]) -> list[dict[str, str]]:
    """
    Put new rows in place of old ones: a part of a cell is measured whole, in one run.

    :param old: rows
    :param new: rows
    :return: all, in order
    """
    key = [*CELL, "part"]
    measured = {tuple(row[column] for column in key) for row in new}
    kept = [row for row in old if tuple(row[column] for column in key) not in measured]
    # Stable: sides stay in the order in which they were measured, parts too.
    return sorted([*kept, *new], key=_order)


def _order(row: dict[str, str]) -> tuple[Any, ...]:
    mode = (row["mode"] != EQUAL_WORK, int(row["critic_epochs"]), row["allocator"])
    return row["shape"], int(row["samples"]), int(row["cg_steps"]), *mode


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    """
    Write rows.

    :param path: the file
    :param rows: from ``as_cells``
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def page(rows: list[dict[str, str]], csv_name: str) -> str:
    """
    Write the page.

    :param rows: of the CSV
    :param csv_name: where they are
    :return: Markdown
    """
    parts = [
        "# Speed of one update",
        f"Written by `python scripts/benchmark_update.py --page` from `{csv_name}`: do not edit.",
        _method(),
        "## Bars\n\n" + bars_table(verdicts(rows)),
        *(_section(list(group)) for _, group in groupby(rows, key=_order)),
        "## Where it comes from\n\n" + _origins(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _method() -> str:
    shapes = "; ".join(f"{n}: {s.observations} -> {s.actions}, target_kl {s.target_kl}" for n, s in SHAPES.items())
    lines = [
        f"Shapes: {shapes}, averaged over action dimensions, as the damping of {DAMPING}; the peers, whose KL is a sum, get "
        "both times the number of actions, which is the same step. Networks: 64x64 tanh, made to look trained (means that "
        "depend on the state, small noise), on a robot-like environment. "
        f"Critic: minibatches of {BATCH_SIZE}. One thread of a CPU.",
        "All sides get the same observations, actions, log-probabilities, advantages, returns and networks, bit for bit. They "
        "take turns in one process and begin each repetition from the same state. *Ratio*: median over repetitions of the "
        "ratio to sb3-contrib in the same repetition, quartiles in brackets.",
        "*Equal work*: early exits of CG, extra critic epochs and gradient clipping are off, and no side backtracks. *As "
        "shipped*: these are as each library has them. *Fisher product*: graphs that are kept are made before. *Peak memory*: "
        "rise of the resident memory in the first update of a process of its own, libraries loaded before. tianshou's critic "
        "takes full-batch steps only and is left out.",
        "*Iterations*: of CG, where a side says. *Faults*: page faults of a policy step. "
        "*KL*: of the first step, as a share of delta; *cosine*, *length*: of it, "
        "against sb3-contrib's. Bars against the fastest peer compare two ratios to sb3-contrib. The bar on trained policies "
        "is read from `results/precision_step_timings.csv` (`python scripts/compare_preconditioners.py --timings`).",
    ]
    return "\n\n".join(lines)


def bars_table(found: list[Verdict]) -> str:
    """
    Write the bars.

    :param found: the verdicts
    :return: a table
    """
    columns = ["ratio of", "at most", "lowest", "highest", "where highest", "verdict"]
    rows = []
    for each in found:
        best, worst = (number(m.ratio, 2) if m else "-" for m in (each.best, each.worst))
        where = each.worst.where if each.worst else "-"
        rows.append([each.bar.text, f"{each.bar.limit:g}", best, worst, where, f"**{each.text}**"])
    return table(columns, rows)


def _section(rows: list[dict[str, str]]) -> str:
    first = rows[0]
    title = f"## {first['shape']}, N = {int(first['samples']):,}, {first['cg_steps']} CG iterations, {first['mode']}"
    allocator = (
        f"Allocator {first['allocator']}: {ALLOCATOR_TEXT[first['allocator']]}. {first['critic_epochs']} critic epochs."
    )
    columns = ["part", "side", "median", "ratio", "iterations", "faults", "KL", "cosine", "length"]
    lines = [
        [
            row["part"],
            row["side"],
            f"{_number(row['value'])} {row['unit']}",
            ratio_text(row),
            *(_number(row[c]) for c in CHECKS),
        ]
        for row in rows
    ]
    return f"{title}, allocator {first['allocator']}\n\n{allocator}\n\n{table(columns, lines)}"


def ratio_text(row: dict[str, str]) -> str:
    """
    Write a ratio and its quartiles.

    :param row: of the CSV
    :return: text
    """
    if row["side"] == CONTRIB:
        return "1"
    ratio, low, high = (f"{float(row[key]):.2f}" for key in ("ratio", "ratio_low", "ratio_high"))
    return f"{ratio} [{low}, {high}]"


def _number(text: str) -> str:
    return number(float(text)) if text else "-"


def _origins(rows: list[dict[str, str]]) -> str:
    sources: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        sources.setdefault(tuple(row[key] for key in ORIGIN if key != "finished"), row)
    return "\n".join(f"- {_origin(row)}" for row in sources.values())


def _origin(row: dict[str, str]) -> str:
    changed = {"True": " (with uncommitted changes)", "False": ""}.get(row["dirty"], "")
    packages = ("torch", "sb3", "sb3_contrib", *PEERS)
    versions = ", ".join(f"{name} {row[name]}" for name in packages if row[name])
    return f"`{row['command']}`: commit {row['commit'] or 'unknown'}{changed}, {versions}, {row['machine']}, {row['finished']}"
