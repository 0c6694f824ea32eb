"""
Train the same in two checkouts, one after the other, and tell every bit that differs: for a change that must change nothing.

Each of the short trainings runs in a process of its own, on one thread, with the package of one tree: first of the old, then
of this one. Compared are each weight and buffer, the optimiser, VecNormalize's statistics, the random streams, the number of
steps, every field of every report and, with monitors, the run folder. Fields of the report that are new, gone or renamed
are listed, and are no difference. The report has no field that depends on the time.

    python scripts/compare_trees.py --old ../main                       # all cases; exit code 1 if anything differs
    python scripts/compare_trees.py --old ../main --cases Box gSDE
    python scripts/compare_trees.py --old ../main --write               # results/compare_trees.csv, too
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evidence.provenance import REPO, provenance
from evidence.store import write_whole
from rich.console import Console
from rich.table import Table
from rich.text import Text
from trees.cases import CASES
from trees.comparison import Comparison, compare
from trees.runs import TrainingFailed, train

CSV = REPO / "results" / "compare_trees.csv"
SHOWN = 20
"""Differences of one case that are printed: one cause changes almost everything that follows."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, metavar="PATH", help="another checkout of this repository")
    parser.add_argument("--new", type=Path, default=REPO, metavar="PATH", help="(default: this one)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--write", action="store_true", help=f"write {CSV.name}, too")
    return parser.parse_args(argv)


def row(name: str, found: Comparison) -> dict[str, object]:
    """
    Put together a row of the CSV.

    :param name: of the case
    :param found: how the trees differ
    :return: columns
    """
    return {
        "case": name,
        "compared": found.compared,
        "differences": len(found.differences),
        "new_fields": " ".join(found.new),
        "gone_fields": " ".join(found.gone),
        "renamed_fields": " ".join(f"{old}={new}" for old, new in found.renamed),
    }


def show(rows: list[dict[str, object]], console: Console) -> None:
    """
    Print the table.

    :param rows: from ``row``
    :param console: where
    """
    shown = Table()
    for title in rows[0]:
        shown.add_column(title.replace("_", " "), overflow="fold", no_wrap=title == "case")
    for each in rows:
        shown.add_row(*(Text(str(value)) for value in each.values()))
    console.print(shown)


def write(rows: list[dict[str, object]], old: Path, command: str) -> None:
    """
    Write the CSV.

    :param rows: from ``row``
    :param old: the old tree
    :param command: what was run
    """
    git = ["git", "-C", str(old), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    origin = {"old_commit": commit, **provenance(), "command": command}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], *origin], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**each, **origin} for each in rows)
    write_whole(CSV, text.getvalue())


def main(argv: list[str] | None = None) -> int:
    """
    Train and compare.

    :param argv: arguments; None for the process's own
    :return: exit code: 0 if not one bit differs, 1 if something does, 2 if a training failed
    """
    args, console, rows = parse_arguments(argv), Console(highlight=False), []
    for name in args.cases:
        begun = time.perf_counter()
        try:
            old, new = (train(name, CASES[name].ranks, tree.resolve()) for tree in (args.old, args.new))
        except TrainingFailed as error:
            print(f"compare_trees: {error}", file=sys.stderr)
            return 2
        found = compare(old, new)
        rows.append(row(name, found))
        verdict = f"{len(found.differences)} differ" if found.differences else "equal"
        console.print(f"{name}: {found.compared} values, {verdict} ({time.perf_counter() - begun:.0f} s)", markup=False)
        for line in found.differences[:SHOWN]:
            console.print(f"  {line}", markup=False)
    show(rows, console)
    if args.write:
        write(rows, args.old, shlex.join(["python", "scripts/compare_trees.py", *(sys.argv[1:] if argv is None else argv)]))
    return 1 if any(each["differences"] for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
