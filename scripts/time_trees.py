"""
Time the same trainings in two checkouts, in turn: what a rebuilding costs.

Each training runs in a process of its own, on one thread; a pair is one in each tree, and every other pair begins with the
other tree. Counted are CPU seconds: of an update (the median of a training), and of an iteration with its rollout. Stop
background work first.

    python scripts/time_trees.py --old ../main                    # HalfCheetah, CartPole and the monitors, twelve pairs each
    python scripts/time_trees.py --old ../main --write            # results/time_trees.csv, too
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from evidence.metrics import median_interval
from evidence.provenance import REPO, provenance
from evidence.store import write_whole
from trees.cases import CASES
from trees.runs import environment

CSV = REPO / "results" / "time_trees.csv"
UPDATES = {"HalfCheetah-v5": 2, "CartPole-v1": 20, "monitors": 40}
"""Updates of a training: some seconds each. The small ones show what an update costs beside its arithmetic."""

PARTS = ("update", "training")


def seconds(case: str, tree: Path) -> dict[str, float]:
    """
    Train once.

    :param case: a key of ``UPDATES``
    :param tree: root of a checkout
    :return: CPU seconds by part
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        (work := Path(folder) / "work").mkdir()
        command = [sys.executable, "-m", "trees.timed", case, str(tree), str(UPDATES[case]), str(result)]
        subprocess.run(command, cwd=work, env=environment(tree), check=True, capture_output=True)
        found: dict[str, float] = json.loads(result.read_text())
    return found


def pairs_of(case: str, old: Path, new: Path, pairs: int) -> dict[str, np.ndarray]:
    """
    Train in both trees, in turn.

    :param case: a key of ``UPDATES``
    :param old: root of a checkout
    :param new: of another one
    :param pairs: how often
    :return: by part: seconds, shape (pairs, 2): old, new
    """
    rows: dict[str, list[list[float]]] = {part: [] for part in PARTS}
    for index in range(pairs):
        order = [old, new] if index % 2 == 0 else [new, old]
        found = {tree: seconds(case, tree) for tree in order}
        for part in PARTS:
            rows[part].append([found[old][part], found[new][part]])
    return {part: np.array(values) for part, values in rows.items()}


def main(argv: list[str] | None = None) -> int:
    """
    Measure.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, metavar="PATH", help="another checkout of this repository")
    parser.add_argument("--cases", nargs="+", choices=UPDATES, default=list(UPDATES), metavar="CASE", help=", ".join(UPDATES))
    parser.add_argument("--pairs", type=int, default=12, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write {CSV.name}, too")
    args = parser.parse_args(argv)
    assert UPDATES.keys() <= CASES.keys()
    rows: list[dict[str, Any]] = []
    for case in args.cases:
        for part, times in pairs_of(case, args.old.resolve(), REPO, args.pairs).items():
            ratio, low, high = median_interval((times[:, 1] / times[:, 0])[:, None])
            before, after = np.median(times, axis=0)
            numbers = {"old_ms": 1e3 * before, "new_ms": 1e3 * after, "ratio": ratio, "low": low, "high": high}
            rows.append({"case": case, "part": part, "pairs": args.pairs, **{k: f"{v:.4g}" for k, v in numbers.items()}})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if args.write:
        given = sys.argv[1:] if argv is None else argv
        command = shlex.join(["python", "scripts/time_trees.py", *given])
        rows = [{**row, **provenance(), "command": command} for row in rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(CSV, text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
