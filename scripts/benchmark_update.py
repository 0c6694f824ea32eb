"""
Time one update of ours, sb3-contrib's and, where installed, tianshou's, skrl's and pfrl's on the same data.

Sides take turns in one run, from the same state each time; the numbers are medians of ratios to sb3-contrib. The machine is
noisy: stop background work first.

    python scripts/benchmark_update.py                              # HalfCheetah's shape, the Zoo's settings
    python scripts/benchmark_update.py --shape humanoid --samples 16384 --cg-steps 10 25 --allocator tuned
    python scripts/benchmark_update.py --mode "as shipped" --write  # results/benchmark_update.csv and docs/benchmarks.md
    python scripts/benchmark_update.py --page                       # the page again, from the CSV
    python scripts/benchmark_update.py --monitors --repetitions 101 # what the monitors add to an update of ours
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from itertools import groupby, product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks import measure, memory, monitors, page, products
from benchmarks.bars import ON_TRAINED, Verdict, verdicts
from benchmarks.cells import AS_SHIPPED, EQUAL_WORK, SHAPES, Cell
from benchmarks.peers import PEERS
from benchmarks.sb3_sides import ContribSide, OurSide
from benchmarks.watch import DifferentWork
from evidence.provenance import REPO
from rich.console import Console
from rich.table import Table
from rich.text import Text

CSV, PAGE = REPO / "results" / "benchmark_update.csv", REPO / "docs" / "benchmarks.md"
UPDATE, PRODUCTS, MEMORY = "update", "products", "memory"
HUGE = str(2**40)
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": HUGE, "MALLOC_TOP_PAD_": str(2**28)}
MEMORY_REPETITIONS = 1


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["halfcheetah"])
    parser.add_argument("--samples", nargs="+", type=int, default=[2048], metavar="N")
    parser.add_argument("--cg-steps", nargs="+", type=int, default=[25], metavar="K")
    parser.add_argument("--mode", nargs="+", choices=[EQUAL_WORK, AS_SHIPPED], default=[EQUAL_WORK])
    parser.add_argument("--critic-epochs", type=int, default=20, metavar="K", help="at least 1 (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=11, metavar="K", help="(default: %(default)s)")
    parser.add_argument("--precisions", nargs="+", default=["float64", "mixed", "float32"])
    parser.add_argument("--preconditioners", nargs="+", default=["none", "kfac"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--parts", nargs="+", choices=[UPDATE, PRODUCTS, MEMORY], default=[UPDATE, PRODUCTS])
    parser.add_argument(
        "--allocator", choices=["default", "tuned"], default="default", help="tuned: no page faults on any side"
    )
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    parser.add_argument("--write", action="store_true", help=f"add the rows to {CSV.name} and write {PAGE.name}")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from the CSV")
    parser.add_argument("--monitors", action="store_true", help="measure what the monitors add to an update, and nothing else")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def with_allocator(name: str) -> None:
    """
    Begin this process anew if glibc has to be told something, which it reads at the start only.

    :param name: "default" or "tuned"
    """
    wanted = TUNED if name == "tuned" else {}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | wanted
    if environment != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def measure_cell(cell: Cell, args: argparse.Namespace, say: Callable[[str], None]) -> list[measure.Row]:
    """
    Measure everything that was asked for of one cell.

    :param cell: the cell
    :param args: the command line
    :param say: gets a line for what is left out
    :return: rows
    """
    rows: list[measure.Row] = []
    batch, sides = measure.make_sides(cell, args.precisions, args.preconditioners, args.peers, say)
    steps = measure.first_steps(batch, cell, sides)
    if UPDATE in args.parts:
        rows += measure.update_rows(measure.alternate(sides, args.repetitions), steps)
    contrib, exact = sides[0], next((side for side in sides if side.name.startswith("ours")), None)
    if PRODUCTS in args.parts and isinstance(contrib, ContribSide) and isinstance(exact, OurSide):
        rows += products.product_rows(contrib, exact, batch, args.repetitions, say)
    if MEMORY in args.parts:
        rows += memory.memory_rows([side.name for side in sides], cell, MEMORY_REPETITIONS, say)
    return rows


def show(rows: list[dict[str, str]], console: Console) -> None:
    """
    Print a cell, a table a part; the CSV has more columns.

    :param rows: its rows
    :param console: where
    """
    first = rows[0]
    title = ", ".join(f"{name} {first[name]}" for name in page.CELL)
    console.print(f"\n{title}, torch {first['torch']}, 1 thread", markup=False)
    for part, some in groupby(rows, key=lambda row: row["part"]):
        shown = Table(title=part, title_justify="left")
        shown.add_column("side", overflow="fold")
        shown.add_column("median", justify="right", overflow="fold")
        shown.add_column("ratio to sb3-contrib", justify="right", overflow="fold")
        for row in some:
            # As Text: "[0.3, 0.4]" is no markup.
            cells = (row["side"], f"{row['value']} {row['unit']}", page.ratio_text(row))
            shown.add_row(*map(Text, cells))
        console.print(shown)


def show_costs(found: list[monitors.Cost], cell: Cell, console: Console) -> None:
    """
    Print what monitors cost.

    :param found: by set of diagnostics
    :param cell: what was measured
    :param console: where
    """
    title = f"{cell.shape}, N = {cell.samples:,}, {cell.cg_steps} CG iterations, default configuration, 1 thread"
    shown = Table(title=title, title_justify="left")
    for column in ("monitors", "median", "ratio to the update without", "at most", "verdict"):
        shown.add_column(column, justify="left" if column == "monitors" else "right")
    for cost in found:
        ratio = f"{cost.ratio:.3f} [{cost.low:.3f}, {cost.high:.3f}]"
        limit, verdict = (
            ("-", "-") if cost.limit is None else (f"{cost.limit:g}", "reached" if cost.ratio <= cost.limit else "missed")
        )
        shown.add_row(*map(Text, (cost.name, f"{cost.milliseconds:.1f} ms", ratio, limit, verdict)))
    console.print(shown)


def show_bars(found: list[Verdict], console: Console) -> None:
    """
    Print what became of the bars.

    :param found: the verdicts
    :param console: where
    """
    shown = Table(title=f"ratios (trained policies: results/{ON_TRAINED.name})", title_justify="left", show_lines=True)
    for column in ("of", "at most", "lowest", "highest", "where highest", "verdict"):
        # The numbers keep their width; what is said folds.
        shown.add_column(column, overflow="fold", no_wrap=column in ("lowest", "highest"))
    for each in found:
        best, worst = (f"{ratio.ratio:.2f}" if ratio else "-" for ratio in (each.best, each.worst))
        where = each.worst.where if each.worst else "-"
        shown.add_row(*map(Text, (each.bar.text, f"{each.bar.limit:g}", best, worst, where, each.text)))
    console.print(shown)


def write_page(path: Path, source: Path) -> None:
    """
    Write the page from the CSV.

    :param path: of the page
    :param source: of the CSV
    """
    page.write_whole(path, page.page(page.read(source), str(source.relative_to(REPO))))


def run(args: argparse.Namespace, argv: list[str], console: Console) -> None:
    """
    Measure, print and write.

    :param args: the command line, read
    :param argv: the same, as it was
    :param console: where to print
    """
    torch.set_num_threads(1)
    if args.monitors:
        for shape, samples, cg_steps in product(args.shape, args.samples, args.cg_steps):
            cell = Cell(shape, samples, cg_steps, AS_SHIPPED, args.critic_epochs)
            show_costs(monitors.costs(cell, args.repetitions), cell, console)
        return
    command = shlex.join(["python", "scripts/benchmark_update.py", *argv])
    console.print(f"allocator {args.allocator}: {page.ALLOCATOR_TEXT[args.allocator]}", markup=False)
    measured: list[dict[str, str]] = []
    for shape, samples, cg_steps, mode in product(args.shape, args.samples, args.cg_steps, args.mode):
        cell = Cell(shape, samples, cg_steps, mode, args.critic_epochs)
        rows = measure_cell(cell, args, lambda line: console.print(line, markup=False))
        cells = page.as_cells(rows, cell, args.allocator, page.origin(command))
        show(cells, console)
        measured += cells
        # After each cell: a run that is stopped has not been for nothing.
        for path in [*([args.csv] if args.csv else []), *([CSV] if args.write else [])]:
            page.write_csv(path, page.merge(page.read(path), cells))
    show_bars(verdicts(measured), console)
    if args.write:
        write_page(PAGE, CSV)


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parse_arguments(argv)
    if args.peak:
        torch.set_num_threads(1)
        request = json.loads(args.peak)
        print(memory.peak_mib(request.pop("side"), Cell(**request)))
        return 0
    if args.page:
        write_page(PAGE, CSV)
        return 0
    try:
        run(args, sys.argv[1:] if argv is None else argv, Console(highlight=False))
    except DifferentWork as error:
        print(f"benchmark_update: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with_allocator(parse_arguments().allocator)
    sys.exit(main())
