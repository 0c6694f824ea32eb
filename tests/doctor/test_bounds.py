"""Huge files: time and memory are bounded."""

import json
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from sb3_trpo_ext.doctor import bounds
from sb3_trpo_ext.doctor.bounds import MAX_POINTS, Lines, Thinned, clean
from sb3_trpo_ext.doctor.read import read_run


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 100, 12345])
def test_thinning_is_even_and_keeps_the_newest(n: int) -> None:
    thinned: Thinned[int] = Thinned(8)
    for value in range(n):
        thinned.append(value)
    kept = thinned.values()
    assert len(kept) <= 9
    assert kept[-1:] == ([n - 1] if n else [])
    steps = {after - before for before, after in pairwise(kept[:-1])}
    assert len(steps) <= 1


def test_a_large_file_is_read_in_evenly_spaced_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_BYTES", 8000)
    Path("log").write_text("".join(f"{number:09d}\n" for number in range(100_000)))
    lines = Lines(Path("log"))
    read = list(map(int, lines))
    assert lines.skipped == 1_000_000 - 8000
    assert 700 < len(read) < 900
    assert read[0] == 0
    assert read[-1] == 99_999
    gaps = [after - before for before, after in pairwise(read) if after != before + 1]
    assert len(gaps) == 7
    assert max(gaps) - min(gaps) < 5


def test_a_line_without_an_end_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_LINE", 100)
    Path("log").write_text("one\n" + "x" * 12_345 + "\ntwo\n" + "y" * 500)
    lines = Lines(Path("log"))
    assert list(lines) == ["one", "two"]
    assert lines.too_long == 2


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert clean("a\x1b[31mb\x07\n\u202ec\x00d") == "a [31mb c d"
    assert len(clean("x" * 10_000)) == bounds.MAX_TEXT


@pytest.mark.slow
def test_a_huge_record_takes_bounded_time_and_memory(ours: Callable[[str], Path]) -> None:
    lines = (ours("healthy") / "updates.jsonl").read_text().splitlines()
    Path("run").mkdir()
    with Path("run/updates.jsonl").open("w") as file:
        number = 0
        while file.tell() < 4 * bounds.MAX_BYTES:
            for line in lines:
                number += 1
                report = {**json.loads(line), "n_updates": number, "num_timesteps": 256 * number}
                file.write(json.dumps(report) + "\n")
    tracemalloc.start()
    began = time.monotonic()
    run = read_run(Path("run"))
    taken, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The same 22 updates again and again may well raise a warning.
    assert "DR005" in [finding.code for finding in run.findings]
    assert run.exit_code <= 1
    assert run.n_updates == number
    assert len(run.points.values()) <= MAX_POINTS + 1
    assert peak < 100 * 2**20
    assert taken < 120  # with tracemalloc, on a slow machine
