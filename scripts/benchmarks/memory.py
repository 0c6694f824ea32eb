"""
Peak memory of one update: how far the process's resident memory rises above where it stood, in a process of its own.

A smaller update first loads the libraries' code; then the heap's free pages are given back and the peak is reset, so that the
rise is what the first full update needs at once: graphs, temporaries, and what is kept for the next one. Linux and glibc.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.cells import Cell
from benchmarks.measure import Row, row, run_once
from benchmarks.peers import make_peer
from benchmarks.sb3_sides import CONTRIB, OURS, PLAIN, ContribSide, OurSide
from benchmarks.watch import Side, Unavailable

MEMORY = "peak memory"
WARM_UP_SAMPLES = 256
SCRIPT = Path(__file__).resolve().parents[1] / "benchmark_update.py"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def make_side(name: str, cell: Cell) -> Side:
    """
    Make a side by its name in the tables.

    :param name: of sb3-contrib, ours or a peer
    :param cell: what is measured
    :return: the side
    """
    if name == CONTRIB:
        return ContribSide(cell)
    family, *chosen = name.split(", ")
    if family != OURS:
        return make_peer(name, cell, ContribSide(cell).batch())
    return OurSide(cell) if chosen == ["default"] else OurSide(cell, *[*chosen, PLAIN][:2])


def peak_mib(name: str, cell: Cell) -> float:
    """
    Measure in this process, which has done nothing else.

    :param name: of the side
    :param cell: what is measured
    :return: MiB
    """
    run_once(make_side(name, replace(cell, samples=WARM_UP_SAMPLES)))
    side = make_side(name, cell)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    _CLEAR.write_text(_RESET_PEAK)
    before = _status("VmRSS")
    run_once(side)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """In KiB."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def memory_rows(names: list[str], cell: Cell, repetitions: int, say: Callable[[str], None]) -> list[Row]:
    """
    Measure each side in processes of its own.

    :param names: sides, sb3-contrib first
    :param cell: what is measured
    :param repetitions: processes for each
    :param say: gets a line for what failed
    :return: a row for each side
    """
    peaks: dict[str, list[float]] = {}
    for name in names:
        try:
            peaks[name] = [_in_a_process(name, cell) for _ in range(repetitions)]
        except Unavailable as error:
            say(f"{name}: memory not measured: {error}")
    return [row(MEMORY, name, values, peaks[CONTRIB], "MiB") for name, values in peaks.items() if CONTRIB in peaks]


def _in_a_process(name: str, cell: Cell) -> float:
    request = json.dumps({"side": name, **vars(cell)})
    done = subprocess.run([sys.executable, str(SCRIPT), "--peak", request], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return float(done.stdout.strip().splitlines()[-1])
