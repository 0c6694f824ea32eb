"""
Peak memory and time of whole updates by batch size, of ours and sb3-contrib's; and of large networks.

Each row is an update in a process of its own (``benchmarks/large.py`` says how it is measured), rows of one size in turn. What
is in the CSV is not measured again, unless ours has got another NUMERICS_VERSION: an interrupted run goes on. The machine is
noisy: compare times of neighbours only.

    python scripts/benchmark_memory.py                        # results/memory.csv, the figure, and the tables on the screen
    python scripts/benchmark_memory.py --networks "mlp 64x64" --samples 2048 131072
    python scripts/benchmark_memory.py --device cuda          # the same on a GPU
    python scripts/benchmark_memory.py --report               # measure nothing: figure and tables again
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks.large import CNN, CONTRIB, LARGE_MLP, MLP, OURS, Update, measure
from evidence.figures import drawn
from evidence.provenance import REPO, provenance
from evidence.store import write_whole
from matplotlib.ticker import LogLocator

from sb3_trpo_ext.core import NUMERICS_VERSION

CSV, FIGURE = REPO / "results" / "memory.csv", REPO / "docs" / "figures" / "memory"
WHAT = [field.name for field in fields(Update)]
MEASURED = ["mib", "seconds", "status", "rung", "iterations", "kept", "trials", "chunks", "parameters"]
SOURCE = ["numerics_version", "commit", "dirty", "python", "torch", "sb3", "sb3_contrib", "machine", "finished"]
COLUMNS = [*WHAT, *MEASURED, *SOURCE]
MLP_CHUNK, CNN_CHUNK = 4096, 512
SIZES = {CNN: (512, 1024, 2048, 8192), MLP: (2048, 8192, 32768, 131072), LARGE_MLP: (1024,)}
LIMIT = {CNN: 2048}
"""sb3-contrib's graph of 8,192 frames would take about 8 GiB: more than a shared machine has to spare. (The smaller
batches say what chunks of 512 do.)"""

Row = dict[str, str]


def plan(networks: Iterable[str], samples: Iterable[int], device: str) -> Iterator[Update]:
    """
    List what is measured, ours and sb3-contrib's in turn.

    :param networks: which
    :param samples: batch sizes; none: ``SIZES``
    :param device: of the policies
    :yields: updates
    """
    for network in networks:
        chunk = CNN_CHUNK if network == CNN else MLP_CHUNK
        for n_samples in tuple(samples) or SIZES[network]:
            one = Update(network, n_samples, cg_steps=2 if network == CNN else 10, device=device)
            if n_samples <= LIMIT.get(network, n_samples):
                yield replace(one, side=CONTRIB)
            yield one
            if network != LARGE_MLP and chunk <= n_samples <= LIMIT.get(network, n_samples):
                yield replace(one, chunk=chunk)
        if network == MLP:
            largest = replace(one, chunk=chunk)
            yield replace(largest, critic_batch=0)
            yield replace(largest, critic_batch=0, side=CONTRIB, chunk=0)
            yield replace(largest, preconditioner="kfac")
            yield replace(largest, precision="float64")


def read() -> list[Row]:
    """
    Read what was measured.

    :return: rows of the CSV; none if there is no file
    """
    if not CSV.exists():
        return []
    with CSV.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def is_current(row: Row) -> bool:
    """
    Tell what counts from what is kept.

    :param row: of the CSV
    :return: whether it is sb3-contrib's, or of our present numerics
    """
    return row["side"] == CONTRIB or row["numerics_version"] == str(NUMERICS_VERSION)


def add(row: Row) -> None:
    """
    Add a row to the CSV, which is written whole.

    :param row: all of ``COLUMNS``
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*read(), row])
    write_whole(CSV, text.getvalue())


def key_of(row: Row) -> tuple[str, ...]:
    """
    Say what a row measured.

    :param row: of the CSV
    :return: its first columns
    """
    return tuple(row[name] for name in WHAT)


def text_of(update: Update) -> Row:
    """
    Write what is measured as the CSV has it.

    :param update: the update
    :return: text by column
    """
    return {name: str(value) for name, value in asdict(update).items()}


def measured_in_a_process(update: Update) -> Row | None:
    """
    Measure.

    :param update: what
    :return: a row of the CSV; None if the process died, of which the last line is printed
    """
    command = [sys.executable, __file__, "--one", json.dumps(asdict(update))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{update}: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.strip().splitlines()[-1])
    source = {"numerics_version": NUMERICS_VERSION, **provenance()}
    values = {**{name: found.get(name) for name in MEASURED}, **{name: source[name] for name in SOURCE}}
    shown = {k: "" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}
    return {**text_of(update), **shown}


def label_of(row: Row) -> str:
    """
    Name a line of the figure.

    :param row: of the CSV
    :return: side and chunk
    """
    if row["side"] == CONTRIB:
        return CONTRIB
    return f"{OURS}, chunks of {int(row['chunk']):,}" if row["chunk"] != "0" else f"{OURS}, default"


def plain(rows: Iterable[Row]) -> list[Row]:
    """
    Leave out what is not a point of the figure.

    :param rows: of the CSV
    :return: those with minibatches of 128, no preconditioner and the default precision
    """
    return [r for r in rows if (r["critic_batch"], r["preconditioner"], r["precision"]) == ("128", "none", "")]


def draw(rows: list[Row]) -> None:
    """
    Draw peak memory by batch size.

    :param rows: of the CSV, one device
    """
    with drawn(FIGURE, {"nrows": 1, "ncols": 2, "figsize": (9.0, 3.6)}) as (_, axes):
        for axis, network in zip(axes, (MLP, CNN), strict=True):
            lines: dict[str, list[tuple[int, float]]] = {}
            for row in plain(rows):
                if row["network"] == network:
                    lines.setdefault(label_of(row), []).append((int(row["samples"]), float(row["mib"])))
            for label in sorted(lines, reverse=True):
                axis.plot(*zip(*sorted(lines[label]), strict=True), marker="o", label=label)
            sizes = SIZES[network]
            axis.set(xscale="log", yscale="log", xlabel="samples in the batch", title=network)
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:,.0f}")
            axis.minorticks_off()
            axis.legend(frameon=False, fontsize=8)
        axes[0].set_ylabel("peak memory of one update, MiB")


def table(rows: list[Row]) -> str:
    """
    Write everything as a table.

    :param rows: of the CSV
    :return: Markdown
    """
    lines = ["| network | samples | side | setting | peak, MiB | seconds | rung, chunks |", "|---|---:|---|---|---:|---:|---|"]
    for row in sorted(rows, key=lambda r: (r["network"], int(r["samples"]), r["side"], r["chunk"])):
        setting = [f"{row['cg_steps']} CG steps"]
        setting += [f"chunks of {row['chunk']}"] * (row["chunk"] != "0") + ["full-batch critic"] * (row["critic_batch"] == "0")
        setting += [row["precision"]] * bool(row["precision"]) + [row["preconditioner"]] * (row["preconditioner"] != "none")
        rung = f"{row['rung']}, {row['chunks']}" if row["rung"] else "-"
        what = f"| {row['network']} | {int(row['samples']):,} | {row['side']} | {', '.join(setting)} "
        lines.append(f"{what}| {float(row['mib']):,.0f} | {float(row['seconds']):.3g} | {rung} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--samples", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        torch.set_num_threads(1)
        print(json.dumps(measure(Update(**json.loads(args.one)))))
        return 0
    for update in () if args.report else plan(args.networks, args.samples, args.device):
        text = text_of(update)
        if key_of(text) in {key_of(row) for row in read() if is_current(row)}:
            continue
        row = measured_in_a_process(update)
        if row is not None:
            add(row)
            print(", ".join(row[name] for name in (*WHAT[:3], "chunk", "mib", "seconds", "rung")), flush=True)
    rows = [row for row in read() if row["device"] == args.device and is_current(row)]
    draw(rows)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
