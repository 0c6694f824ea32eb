"""Huge files: time and memory are bounded."""

import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sb3_trpo_ext.doctor import bounds, discover, events
from sb3_trpo_ext.doctor.bounds import ALL_BYTES, ALL_ROWS, MAX_POINTS, MAX_RUNS, Limits, Thinned, clean
from sb3_trpo_ext.doctor.discover import runs_below
from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.lines import Lines
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.records.thinning import is_recorded
from tests.doctor.runs import write_events

Runs = Callable[[str], Path]


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


def lines_of(text: str, **limits: int) -> Lines:
    Path("log").write_text(text)
    return Lines(Path("log"), **{"size": 10**6, "rows": 10**6, **limits})


def test_a_large_file_is_read_in_evenly_spaced_stretches() -> None:
    lines = lines_of("".join(f"{number:09d}\n" for number in range(100_000)), size=8000)
    read = list(map(int, lines))
    assert lines.skipped_bytes == 1_000_000 - 8000
    assert 700 < len(read) < 900
    assert read[0] == 0
    assert read[-1] == 99_999
    gaps = [after - before for before, after in pairwise(read) if after != before + 1]
    assert len(gaps) == 7
    assert max(gaps) - min(gaps) < 5
    assert lines.share == pytest.approx(0.008)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("n", [0, 1, 2, 9, 100, 1000])
def test_of_many_short_lines_the_first_and_the_newest_of_each_stretch_are_read(n: int, end: str) -> None:
    texts = ["x" * (number % 7) + str(number) for number in range(n)]
    whole = lines_of("\n".join(texts) + end)
    assert list(whole) == texts
    assert whole.cut_off == (n > 0 and not end)
    lines = lines_of("\n".join(texts) + end, rows=40)
    read = list(lines)
    assert len(read) + lines.skipped_lines == n
    assert len(read) <= max(min(n, 40), 50)
    assert read[:2] == texts[:2]
    assert read[-3:] == texts[-3:]


def test_a_line_without_an_end_is_passed_over() -> None:
    lines = lines_of("one\n" + "x" * 12_345 + "\ntwo\n" + "y" * 500, longest=100)
    assert list(lines) == ["one", "two"]
    assert lines.too_long >= 1


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert clean("a\x1b[31mb\x07\n\u202ec\x00d") == "a [31mb c d"
    assert len(clean("x" * 10_000)) == bounds.MAX_TEXT


@pytest.mark.parametrize("n_runs", [1, 2, 30, MAX_RUNS])
def test_all_runs_together_are_bounded(n_runs: int) -> None:
    each = Limits.each_of(n_runs)
    assert n_runs * each.size <= ALL_BYTES
    assert n_runs * each.rows <= ALL_ROWS
    assert each.rows >= 1000
    assert 60 <= each.points <= MAX_POINTS
    assert Limits.each_of(1) == Limits()


# ---------------------------------------------------------------- what is left out is said


def left_out(run: Run) -> list[str]:
    return [str(finding.evidence["left_out"]) for finding in run.findings if finding.code == "DR005"]


def csv_of(n_rows: int) -> str:
    rows = "".join(f"{n},0.005,{256 * n}\n" for n in range(1, n_rows + 1))
    return "train/n_updates,train/kl_divergence_loss,time/total_timesteps\n" + rows


def test_rows_beyond_the_limit() -> None:
    Path("progress.csv").write_text(csv_of(1000))
    run = read_run(Path(), limits=Limits(rows=200))
    assert left_out(run) == ["803 of 1,001 rows"]
    assert (run.exit_code, run.n_updates) == (0, 1000)
    assert 190 < run.judged < 210
    assert left_out(read_run(Path())) == []


def falling(line: str, n: int) -> str:
    """A healthy update of a run whose entropy falls to a third from update 130 to 170, never by much at once."""
    entropy = 0.4 * 3.0 ** -min(1.0, max(0.0, (n - 130) / 40))
    return json.dumps({**json.loads(line), "n_updates": n, "num_timesteps": 256 * n, "entropy": entropy, "std": None})


@pytest.mark.parametrize("limits", [Limits(), Limits(rows=200), Limits(size=400_000)])
def test_a_healthy_run_that_is_merely_long_is_healthy(limits: Limits, ours: Runs) -> None:
    """What lies between two stretches is no sudden fall of the entropy (TR201, critical)."""
    lines = (ours("healthy") / "updates.jsonl").read_text().splitlines()
    # One in the middle of each, so that what is not asked about varies as in the run.
    Path("updates.jsonl").write_text("".join(falling(lines[4 + n % 14], n) + "\n" for n in range(1, 801)))
    run = read_run(Path(), limits=limits)
    said = [(finding.code, str(finding.severity)) for finding in run.findings]
    assert said == ([] if limits == Limits() else [("DR005", "info")])
    assert (run.exit_code, run.verdict, run.n_updates) == (0, "healthy", 800)


@pytest.mark.parametrize("every_until", [25, 50, 100])
def test_a_run_so_long_that_not_every_update_is_recorded_is_healthy(every_until: int, ours: Runs) -> None:
    """Five recorded updates are many more there: no sudden fall of the entropy, and no gap."""
    lines = (ours("healthy") / "updates.jsonl").read_text().splitlines()
    kept = [falling(lines[4 + n % 14], n) for n in range(1, 801) if is_recorded(n, every_until)]
    Path("updates.jsonl").write_text("\n".join(kept) + "\n")
    run = read_run(Path())
    assert [finding.code for finding in run.findings] == []
    assert (run.exit_code, run.n_updates, run.judged) == (0, 800, len(kept))


def test_a_logger_that_writes_every_thirtieth_update_leaves_no_gaps() -> None:
    header = "train/n_updates,train/kl_divergence_loss,time/total_timesteps,train/is_line_search_success\n"
    Path("progress.csv").write_text(header + "".join(f"{30 * n},0.0,{7680 * n},0\n" for n in range(1, 13)))
    assert read_run(Path(), target_kl=0.01).findings[0].code == "TR104"


def test_dumps_are_bounded_together_and_the_newest_are_read(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("TR104")
    (header, *_) = folder.glob("dumps/*.json")
    for number in range(20, 25):
        died = {**json.loads(header.read_text()), "n_updates": number, "reasons": ["died"], "error": f"{number}"}
        Path(folder, f"dumps/update_{number:06}_died.json").write_text(json.dumps(died))
    run = read_run(folder, limits=Limits(size=2 * header.stat().st_size + 1000))
    errors = [finding.evidence["error"] for finding in run.findings if finding.code == "DR006"]
    assert set(errors) == {"23", "24"}
    assert any("dumps, the oldest" in said for said in left_out(run))


def test_files_of_wandb_are_bounded_together() -> None:
    for name in "abc":
        Path(f"{name}.wandb").write_bytes(bytes(1000))
    run = read_run(Path(), limits=Limits(size=2500))
    assert [(finding.code, finding.file, str(finding.severity)) for finding in run.findings if finding.code == "DR005"] == [
        ("DR005", "c.wandb", "warning")
    ]
    assert [finding.file for finding in run.findings if finding.code == "DR002"] == ["a.wandb", "b.wandb"]


def test_runs_beyond_the_limit(ours: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "MAX_RUNS", 3)
    for name in "abcd":
        Path("logs", name).mkdir(parents=True)
        Path("logs", name, "progress.csv").write_text(csv_of(20))
    Path("logs", "sick").mkdir()
    shutil.copy(ours("TR104") / "updates.jsonl", "logs/sick")
    about, *runs = runs_below([Path("logs")], 0.01)
    assert [run.path.name for run in runs] == ["a", "b", "c"]
    assert left_out(about) == ["2 of 5 runs, from logs/d on"]
    assert about.exit_code == 1
    # Named alone it is read.
    assert [run.exit_code for run in runs_below([Path("logs/sick")])] == [2]


def test_folders_beyond_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a/" * 9).mkdir(parents=True)
    Path("a/" * 9, "progress.csv").write_text(csv_of(20))
    (about,) = runs_below([Path("a")])
    assert left_out(about) == ["1 folders more than 6 below"]
    monkeypatch.setattr(discover, "MAX_ENTRIES", 3)
    (about,) = runs_below([Path("a")])
    assert left_out(about) == ["what lies behind the first 3 files and folders"]


def test_updates_of_events_beyond_the_limit_and_files_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_events(Path(f"{EVENTS}{number}"), range(100 * number, 100 * number + 100))
    run = read_run(Path(), limits=Limits(rows=100))
    # Of each file some, to its end: what is wrong now is more than what once was.
    assert [said.split()[-1] for said in left_out(run)] == ["MiB"] * 3
    assert 60 < run.judged <= 116
    assert (run.num_timesteps, run.exit_code) == (300 * 256, 0)
    monkeypatch.setattr(events, "MAX_FILES", 2)
    run = read_run(Path())
    assert left_out(run) == ["1 of 3 event files, the oldest"]
    assert run.judged == 200


def test_a_large_event_file_is_read_to_its_end() -> None:
    write_events(Path(f"{EVENTS}0"), range(2000))
    size = Path(f"{EVENTS}0").stat().st_size
    run = read_run(Path(), limits=Limits(size=size // 10))
    assert run.num_timesteps == 256 * 2000
    assert 150 < run.judged < 210
    (said,) = left_out(run)
    assert said.endswith("MiB")


def test_episodes_beyond_the_limit_are_thinned_evenly() -> None:
    rows = "".join(f"{n / 1000},10,{n}\n" for n in range(20_000))
    Path("monitor.csv").write_text('#{"env_id": "Small"}\nr,l,t\n' + rows)
    whole = read_run(Path()).returns.values()
    run = read_run(Path(), limits=Limits(episodes=5000))
    returns = run.returns.values()
    assert left_out(run) == ["15,004 of 20,002 rows"]
    assert run.exit_code == 0  # they are drawn, not judged
    assert returns[-1] == (pytest.approx(200_000, rel=0.01), pytest.approx(whole[-1][1]))
    assert whole[-1] == (200_000, pytest.approx(19.9495))
    middle = [value for steps, value in returns if 90_000 < steps < 110_000]
    assert middle
    assert 8.0 < sum(middle) / len(middle) < 12.0


def test_arrays_are_drawn_thin_and_fast() -> None:
    np.save("kl.npy", np.full(10**6, 0.005, np.float32))
    np.savez("evaluations.npz", timesteps=np.arange(10**5), results=np.ones((10**5, 1)))
    began = time.process_time()
    run = read_run(Path())
    assert time.process_time() - began < 1.0
    assert run.n_updates == 10**6
    assert 1000 < len(run.points.values()) <= MAX_POINTS
    assert len(run.evaluations.values()) <= MAX_POINTS


@pytest.mark.slow
def test_a_huge_record_takes_bounded_time_and_memory(ours: Callable[[str], Path]) -> None:
    lines = (ours("healthy") / "updates.jsonl").read_text().splitlines()
    size = 2**22
    Path("run").mkdir()
    with Path("run/updates.jsonl").open("w") as file:
        number = 0
        while file.tell() < 4 * size:
            for line in lines:
                number += 1
                report = {**json.loads(line), "n_updates": number, "num_timesteps": 256 * number}
                file.write(json.dumps(report) + "\n")
    tracemalloc.start()
    began = time.process_time()
    run = read_run(Path("run"), limits=Limits(size=size))
    taken, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The same 22 updates again and again may well raise a warning.
    assert "DR005" in [finding.code for finding in run.findings]
    assert run.exit_code <= 1
    assert run.n_updates == number
    assert len(run.points.values()) <= MAX_POINTS + 1
    assert peak < 20 * 2**20
    assert taken < 30  # with tracemalloc
