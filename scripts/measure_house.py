"""
Count the code lines of each room, and time the import of the package, here and in another checkout.

A code line is one that is neither blank nor comment nor part of a docstring. Imports take turns in fresh processes; the ratio
(this tree to the other) is a median over pairs, with the 95 % interval of a bootstrap over pairs. Stop background work first.

    python scripts/measure_house.py                                    # lines of this tree
    python scripts/measure_house.py --old ../main                      # beside those of another one
    python scripts/measure_house.py --old ../main --imports 15         # and the time of an import, in 15 pairs
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import numpy as np
from evidence.metrics import median_interval
from evidence.provenance import REPO
from rich.console import Console
from rich.table import Table
from trees.runs import environment

NO_CODE = {
    tokenize.ENCODING,
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
TIMED = "import time; begun = time.perf_counter(); import sb3_trpo_ext; print(time.perf_counter() - begun)"


def code_lines(source: str) -> int:
    """
    Count the lines that hold code.

    :param source: of a module
    :return: lines without blank ones, comments and docstrings (those of constants, too)
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            held -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(held)


def room_of(module: Path) -> str:
    """
    Say which room a module belongs to.

    :param module: its path below the package
    :return: the folder; "sb3/update" and the like inside of ``sb3``, "top" for modules of the package itself
    """
    folders = module.parts[:-1]
    return "/".join(folders[: 2 if folders[:1] == ("sb3",) else 1]) or "top"


def lines_of(tree: Path) -> Counter[str]:
    """
    Count the lines of each room.

    :param tree: root of a checkout
    :return: by room
    """
    package, found = tree / "sb3_trpo_ext", Counter[str]()
    for path in package.rglob("*.py"):
        found[room_of(path.relative_to(package))] += code_lines(path.read_text(encoding="utf-8"))
    return found


def show_lines(new: Counter[str], old: Counter[str] | None, console: Console) -> None:
    """
    Print the lines; rooms inside of ``sb3`` have a total of their own, as an old tree may not have them.

    :param new: of this tree
    :param old: of the other one; None: there is none
    :param console: where
    """
    shown = Table(title="code lines", title_justify="left")
    sides = [new] if old is None else [old, new]
    for title in ("room", *(["lines"] if old is None else ["old", "new", "change"])):
        shown.add_column(title, justify="left" if title == "room" else "right")

    def add(name: str, rooms: list[str]) -> None:
        counts = [sum(side[room] for room in rooms) for side in sides]
        change = [] if old is None else [f"{counts[1] - counts[0]:+,}"]
        shown.add_row(name, *(f"{count:,}" for count in counts), *change)

    rooms = sorted({room for side in sides for room in side})
    for room in rooms:
        add(room, [room])
    add("sb3 in all", [room for room in rooms if room.split("/")[0] == "sb3"])
    add("the package", rooms)
    console.print(shown)


def import_seconds(tree: Path) -> float:
    """
    Time the import of the package in a fresh process.

    :param tree: root of a checkout
    :return: seconds, without those of the interpreter's own start
    """
    # Python imports from the working directory first: it is the tree.
    done = subprocess.run(
        [sys.executable, "-c", TIMED], env=environment(tree), capture_output=True, text=True, check=True, cwd=tree
    )
    return float(done.stdout)


def import_times(old: Path, new: Path, pairs: int) -> np.ndarray:
    """
    Time imports in turn, each pair beginning with the other tree.

    :param old: root of a checkout
    :param new: root of another one
    :param pairs: of imports
    :return: seconds, shape (pairs, 2): old, new
    """
    for tree in (old, new):
        import_seconds(tree)  # writes the bytecode
    rows = []
    for index in range(pairs):
        order = [old, new] if index % 2 == 0 else [new, old]
        seconds = {tree: import_seconds(tree) for tree in order}
        rows.append([seconds[old], seconds[new]])
    return np.array(rows)


def main(argv: list[str] | None = None) -> int:
    """
    Measure.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="PATH", help="another checkout of this repository")
    parser.add_argument(
        "--imports", type=int, default=0, metavar="PAIRS", help="number of pairs of imports to time (default: none)"
    )
    args, console = parser.parse_args(argv), Console(highlight=False)
    if args.imports and args.old is None:
        parser.error("--imports compares with another checkout: name it with --old")
    old = None if args.old is None else args.old.resolve()
    show_lines(lines_of(REPO), None if old is None else lines_of(old), console)
    if args.imports:
        times = import_times(old, REPO, args.imports)
        ratio, low, high = median_interval((times[:, 1] / times[:, 0])[:, None])
        before, after = np.median(times, axis=0)
        console.print(
            f"import: {before:.2f} s -> {after:.2f} s, ratio {ratio:.3f} [{low:.3f}, {high:.3f}] in {args.imports} pairs"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
