"""Files that are cut off, damaged, not what they say, or may not be read: a finding each, never a traceback."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.lines import Lines
from sb3_trpo_ext.doctor.read import read_run
from tests.doctor.runs import write_events
from tests.doctor.spoilt import GARBAGE, codes

Copy = Callable[[str], Path]


def cut(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def events_in(folder: Path) -> Path:
    (file,) = folder.glob(f"{EVENTS}*")
    return file


# ---------------------------------------------------------------- cut off


def test_a_record_that_is_cut_off_is_one_that_is_being_written(copy_of: Copy) -> None:
    folder = copy_of("TR104")
    whole = read_run(folder).points.seen
    file = folder / "updates.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    run = read_run(folder)
    assert codes(run) == {"updates.jsonl": "DR004"}
    assert run.points.seen == whole - 1
    assert run.findings[0].code == "TR104"


def test_csv_files_that_are_cut_off(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    events_in(folder).unlink()
    whole = read_run(folder).points.seen
    cut(folder / "progress.csv")
    run = read_run(folder)
    assert codes(run)["progress.csv"] == "DR004"
    assert 0 < run.points.seen < whole


def test_a_number_that_is_cut_off_is_none(copy_of: Copy) -> None:
    """All columns are there, but the last one may have had more digits."""
    folder = copy_of("healthy")
    (folder / "updates.jsonl").unlink()
    file = folder / "progress.csv"
    file.write_bytes(file.read_bytes().rstrip())
    (folder / "0.monitor.csv").write_text('#{"env_id": "Small"}\nr,l,t\n1.0,10,2.0\n1.5,10,3')
    run = read_run(folder)
    assert codes(run) == {"progress.csv": "DR004", "0.monitor.csv": "DR004"}
    assert run.points.seen == 21
    assert run.returns.values() == [(10.0, 1.0)]


def test_events_that_are_cut_off(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    (folder / "progress.csv").unlink()
    whole = read_run(folder).points.seen
    name = events_in(folder).name
    cut(events_in(folder))
    run = read_run(folder)
    assert codes(run)[name] == "DR004"
    assert 0 < run.points.seen < whole


@pytest.mark.parametrize("name", ["kl.npy", "advantages.npy", "evaluations.npz"])
def test_arrays_that_are_cut_off(name: str, copy_of: Copy) -> None:
    folder = copy_of("contrib" if name.endswith("z") else "healthy")
    cut(folder / name)
    run = read_run(folder)
    assert codes(run)[name] == "DR002"
    assert run.exit_code == 1
    assert run.points.seen


def test_a_dump_that_is_cut_off(copy_of: Copy) -> None:
    folder = copy_of("TR104")
    for file in folder.glob("dumps/*.json"):
        cut(file)
    run = read_run(folder)
    assert set(codes(run).values()) == {"DR002"}
    assert run.findings[0].code == "TR104"
    assert run.findings[0].replay is None


# ---------------------------------------------------------------- something else than what they say


@pytest.mark.parametrize("kind", ["TR104", "contrib"])
def test_garbage_in_every_file(kind: str, copy_of: Copy) -> None:
    folder = copy_of(kind)
    spoilt = [file for file in folder.rglob("*") if file.is_file() and (file.suffix != ".npz" or file.parent == folder)]
    for file in spoilt:
        file.write_bytes(GARBAGE)
    run = read_run(folder)
    assert set(codes(run).values()) <= {"DR002", "DR003", "DR004"}
    assert {str(file.relative_to(folder)) for file in spoilt} <= codes(run).keys() | {"monitor.csv"}
    assert run.exit_code == 1


@pytest.mark.parametrize("kind", ["TR104", "contrib"])
def test_files_that_are_empty_yet(kind: str, copy_of: Copy) -> None:
    folder = copy_of(kind)
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert read_run(folder).exit_code <= 1


def test_lines_in_the_middle_are_left_out(copy_of: Copy) -> None:
    folder = copy_of("TR104")
    lines = (folder / "updates.jsonl").read_text().splitlines()
    report = json.loads(lines[0])
    lies = [
        {**report, "kl": "a lot"},
        {**report, "kl": None},
        {**report, "n_updates": 2**60},
        {**report, "layer_dead": [1e400]},
    ]
    lies += [
        {**report, "target_kl": 0.0},
        {**report, "accepted": True},
        {**report, "cg_damping": [[1]]},
        {**report, "kl": True},
    ]
    deep = "[" * 100_000
    bad = [*map(json.dumps, lies), "{}", "null", deep, '{"kl": 1e5', "x" * 2**20]
    (folder / "updates.jsonl").write_text("\n".join([*lines[:5], *bad, *lines[5:]]) + "\n")
    run = read_run(folder)
    (damaged,) = [finding for finding in run.findings if finding.code == "DR003"]
    assert damaged.evidence["rows"] == len(bad)
    assert run.findings[0].code == "TR104"
    assert run.points.seen == len(lines)


def test_figures_that_no_update_has(copy_of: Copy) -> None:
    """A KL of zero in steps that were taken: the monitors would divide by it."""
    folder = copy_of("healthy")
    reports = [json.loads(line) for line in (folder / "updates.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**report, "kl": 0.0, "kl_max": 0.0, "kl_joint": 0.0}) + "\n" for report in reports)
    (folder / "updates.jsonl").write_text(text)
    found = read_run(folder).findings
    assert [finding.code for finding in found] == ["DR003", "TR105"]
    assert found[0].evidence["judgements_left_out"] == 22 - 10


def test_a_row_of_another_length_and_a_checksum(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    lines = (folder / "progress.csv").read_text().splitlines()
    lines[5:5] = ["1,2,3", "," * 2000, 'a"b,"', '"' + "x" * 300_000]
    (folder / "progress.csv").write_text("\n".join(lines) + "\n")
    data = bytearray(events_in(folder).read_bytes())
    data[len(data) // 2] ^= 0xFF
    events_in(folder).write_bytes(bytes(data))
    run = read_run(folder)
    assert codes(run)["progress.csv"] == "DR003"
    assert codes(run)[events_in(folder).name] == "DR003"
    assert run.points.seen


# ---------------------------------------------------------------- may not be read, or change while they are read


def test_a_file_that_may_not_be_read_leaves_the_others(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of("healthy")
    really = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "updates.jsonl":
            raise PermissionError(13, "Permission denied")
        return really(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    run = read_run(folder)
    assert codes(run)["updates.jsonl"] == "DR002"
    assert run.points.seen == 22  # of progress.csv


@pytest.mark.parametrize("kind", ["TR104", "contrib"])
def test_files_that_may_not_be_read_at_all(kind: str, copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(kind)
    (folder / "monitor.csv").write_text("#{}\nr,l,t\n1.0,10,1.0\n")

    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    run = read_run(folder)
    assert {code for file, code in codes(run).items() if file != "evaluations.npz"} == {"DR002"}
    assert run.exit_code == 1


def test_what_follows_a_damaged_place_in_events_is_found_again() -> None:
    path = Path(f"{EVENTS}1")
    write_events(path, range(100))
    data = path.read_bytes()
    at = len(data) // 3
    path.write_bytes(data[:at] + b"\x01\x02" + bytes(300) + data[at + 100 :])
    run = read_run(Path(), target_kl=0.01)
    assert codes(run) == {path.name: "DR003"}
    assert run.num_timesteps == 256 * 100
    assert run.points.seen > 95


def test_a_file_that_is_cut_off_while_it_is_read_ends() -> None:
    path = Path("lines.txt")
    path.write_text("line\n" * 50_000)
    lines = iter(Lines(path, 10**6, 10**6))
    assert next(lines) == "line"
    os.truncate(path, 10)
    assert len(list(lines)) < 50_000
