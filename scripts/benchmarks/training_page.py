"""Whole trainings and their environments: rows in two CSVs, the bars, and the part of the page that is written from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from evidence.provenance import REPO
from evidence.store import write_whole
from evidence.tables import number, table
from rich.table import Table
from rich.text import Text

from benchmarks.page import ORIGIN, VALUES, read
from benchmarks.trainings import COLLECTION, CONTRIB, OURS, SIMULATOR, WHOLE

TRAINING_CSV, ENVIRONMENTS_CSV = "benchmark_training.csv", "benchmark_environments.csv"
CELL = ["task", "n_envs"]
COLUMNS = [*CELL, *VALUES, *ORIGIN]
Cells = dict[str, str]


@dataclass(frozen=True)
class Bar:
    """
    A promise of the issue "Speed of collection".

    :param part: what is timed
    :param task: environment id
    :param n_envs: environments
    :param limit: the ratio to sb3-contrib is at most this
    """

    part: str
    task: str
    n_envs: int
    limit: float


BARS = (
    Bar(COLLECTION, "HalfCheetah-v5", 2, 0.6),
    Bar(WHOLE, "HalfCheetah-v5", 2, 0.55),
    Bar(WHOLE, "HalfCheetah-v5", 8, 0.55),
    *(Bar(WHOLE, task, 2, 0.65) for task in ("Hopper-v5", "Ant-v5", "CartPole-v1")),
)
STRETCH = 0.4
"""Of HalfCheetah's whole training in 2 environments."""


def as_cells(rows: Iterable[dict[str, Any]], source: dict[str, Any]) -> list[Cells]:
    """
    Turn measured rows into rows of a CSV.

    :param rows: what was measured
    :param source: where it comes from
    :return: text
    """

    def text(value: Any) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return [{key: text({**source, **row}.get(key)) for key in COLUMNS} for row in rows]


def add(path: Path, cells: list[Cells]) -> None:
    """
    Put new rows into a CSV in the place of older ones of the same cells and parts.

    :param path: the file
    :param cells: from ``as_cells``
    """
    key = [*CELL, "part"]
    measured = {tuple(row[column] for column in key) for row in cells}
    kept = [row for row in read(path) if tuple(row[column] for column in key) not in measured]
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    # Stable: parts and sides stay in the order in which they were measured.
    writer.writerows(sorted([*kept, *cells], key=_cell))
    write_whole(path, file.getvalue())


def _cell(row: Cells) -> tuple[str, int]:
    return row["task"], int(row["n_envs"])


def ratio_text(row: Cells) -> str:
    """
    Write a ratio to sb3-contrib's (or SB3's) and its quartiles.

    :param row: of a CSV
    :return: text
    """
    if not row["ratio"]:
        return "-"
    ratio, low, high = (f"{float(row[key]):.2f}" for key in ("ratio", "ratio_low", "ratio_high"))
    return "1" if ratio == low == high == "1.00" else f"{ratio} [{low}, {high}]"


def screen_table(rows: list[Cells], reference: str) -> Table:
    """
    Put a cell on the screen.

    :param rows: its rows
    :param reference: whose ratio is 1
    :return: a table
    """
    title = f"{rows[0]['task']}, {rows[0]['n_envs']} environments: microseconds an environment step"
    shown = Table(title=title, title_justify="left")
    for column in ("part", "side", "median", f"ratio to {reference}"):
        shown.add_column(column, justify="left" if column in ("part", "side") else "right", overflow="fold")
    for row in rows:
        # As Text: "[0.3, 0.4]" is no markup.
        shown.add_row(*map(Text, (row["part"], row["side"], row["value"], ratio_text(row))))
    return shown


def verdicts(rows: list[Cells]) -> list[list[str]]:
    """
    Hold rows against the bars.

    :param rows: of the trainings' CSV
    :return: cells of a table: what, limit, ratio, verdict
    """
    found = []
    for bar in BARS:
        wanted = {"part": bar.part, "task": bar.task, "n_envs": str(bar.n_envs), "side": OURS}
        row = next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)
        ratio = None if row is None else float(row["ratio"])
        verdict = "not measured" if ratio is None else "reached" if ratio <= bar.limit else "missed"
        what = f"{bar.part}, {bar.task}, {bar.n_envs} environments"
        found.append([what, f"{bar.limit:g}", "-" if row is None else ratio_text(row), verdict])
    return found


def verdict_lines(rows: list[Cells]) -> list[str]:
    """
    Write the bars that were measured.

    :param rows: of the trainings' CSV
    :return: a line each
    """
    return [
        f"{what}: {ratio}, at most {limit}: {text}" for what, limit, ratio, text in verdicts(rows) if text != "not measured"
    ]


def sections(folder: Path = REPO / "results") -> str:
    """
    Write the page's part on trainings and environments.

    :param folder: where the CSVs are
    :return: Markdown
    """
    trainings, environments = read(folder / TRAINING_CSV), read(folder / ENVIRONMENTS_CSV)
    parts = [
        "# Speed of training",
        f"From `results/{TRAINING_CSV}` and `results/{ENVIRONMENTS_CSV}`, written by `python scripts/benchmark_training.py "
        "--write` and `python scripts/benchmark_environments.py --write`. One process, one thread; the sides take turns; "
        "*ratio*: median over repetitions of the ratio to sb3-contrib (of environments: to SB3's) in the same repetition, "
        "quartiles in brackets. Settings are the RL Zoo's (ours: `zoo_configs/trpo.yml` with monitors; CartPole, Hopper, "
        "HalfCheetah and Ant were measured before their entries were tuned, with the Zoo's settings), the number of "
        "environments is the cell's; ours runs in the wrappers of `python -m sb3_trpo_ext train`. The split comes from "
        "repetitions with a clock on each part, which costs a little; "
        "sb3-contrib's and PPO's bootstraps and last values are part of the rest of the loop. PPO trains the Zoo's network of "
        "the task, which may be far larger. "
        f"*{SIMULATOR}*: the task's own `step`, on random actions.",
        "## Bars of a training\n\n"
        + table(["ratio of", "at most", "measured", "verdict"], verdicts(trainings))
        + f"\n\n(HalfCheetah in 2 environments has a stretch of {STRETCH:g}.)",
        *(_section(list(group), CONTRIB) for _, group in groupby(trainings, key=_cell)),
        *([f"# Environments\n\n{ADVICE}"] if environments else []),
        *(_section(list(group), "SB3") for _, group in groupby(environments, key=_cell)),
        "## Where the trainings' numbers come from\n\n" + _origins([*trainings, *environments]),
    ]
    return "\n\n".join(parts) + "\n"


ADVICE = (
    "How to run them, as measured on two cores (tables *processes*, ratio to SB3's DummyVecEnv): with a light simulator, "
    "up to some 0.2 ms a step (classic control, MuJoCo), keep all environments in one process (`--vec-env dummy`, the Zoo's "
    "default): a message to another process costs more than a step. With a heavy one, milliseconds a step, use "
    "SubprocVecEnv. As many processes as cores, each with a share of the environments, cost less than one for each "
    "environment, but SB3 has no such VecEnv, and it gains little where processes pay at all."
)


def _section(rows: list[Cells], reference: str) -> str:
    title = f"## {rows[0]['task']}, {rows[0]['n_envs']} environments"
    lines = [[row["part"], row["side"], f"{number(float(row['value']))} {row['unit']}", ratio_text(row)] for row in rows]
    return f"{title}\n\n{table(['part', 'side', 'an environment step', f'ratio to {reference}'], lines)}"


def _origins(rows: list[Cells]) -> str:
    seen = {(row["command"], row["commit"], row["machine"], row["finished"]): row for row in rows}
    lines = []
    for (command, commit, machine, finished), row in seen.items():
        changed = " (with uncommitted changes)" if row["dirty"] == "True" else ""
        versions = f"torch {row['torch']}, sb3 {row['sb3']}, sb3_contrib {row['sb3_contrib']}"
        lines.append(f"- `{command}`: commit {commit or 'unknown'}{changed}, {versions}, {machine}, {finished}")
    return "\n".join(lines)
