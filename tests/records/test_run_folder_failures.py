"""A run folder whose writer is killed, whose disk is full, and whose run is long."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_trpo_ext.records import atomic, files, run_folder, updates_file
from sb3_trpo_ext.records.run_folder import RunFolder
from tests.monitoring.reports import make_report
from tests.mutation import peak_mebibytes
from tests.records.folders import HISTORIES, set_aside, updates_in, write

# ---------------------------------------------------------------- killed


def killed_at_line(number: int, act: Callable[[], None]) -> bool:
    """Do something in another process, which dies before it comes to that line of ours; False if it got to the end."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal count
            if frame.f_code.co_filename not in {module.__file__ for module in (run_folder, files, updates_file, atomic)}:
                return None
            count += event == "line"
            if count == number:
                os._exit(9)
            return trace

        try:
            sys.settrace(trace)
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("resumed_at", [None, 3])
def test_killed_at_any_line(tmp_path: Path, resumed_at: int | None) -> None:
    """While it appends, and while it takes up an older run: histories load, and the next to resume finds all that was."""
    number, cut_short = 0, True
    while cut_short:
        number += 1 if resumed_at is None else 7  # many lines are one loop's
        path = tmp_path / str(number)
        folder = RunFolder(path, resume=False)
        for n in range(1, 5):
            folder.write(make_report(n))
        writer = folder if resumed_at is None else RunFolder(path, resume=True)
        update = make_report(resumed_at or 5)
        cut_short = killed_at_line(number, lambda writer=writer, update=update: writer.write(update))
        for name in HISTORIES:
            assert len(np.load(path / f"{name}.npy")) in (2, 3, 4, 5)
        write(path, update.n_updates, 6, resume=True)
        assert updates_in(path) == [1, 2, 3, 4, 5, 6]
    assert number > 40  # the lines were counted


# ---------------------------------------------------------------- a disk that is full


@pytest.mark.parametrize("failing", range(1, 12))
def test_a_full_disk_leaves_every_file_as_it_was(tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for n in (1, 2):
        folder.write(make_report(n))
    real, count = Path.open, 0

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        if failing <= 10:
            with pytest.raises(OSError, match="No space left"):
                folder.write(make_report(3))
        else:  # six files, of which four have a header that counts
            folder.write(make_report(3))
    assert updates_in(tmp_path) == ([1, 2] if failing <= 10 else [1, 2, 3])
    folder.write(make_report(4))
    assert updates_in(tmp_path) == ([1, 2, 4] if failing <= 10 else [1, 2, 3, 4])


def test_a_disk_that_does_not_even_allow_to_clear_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for n in (1, 2):
        folder.write(make_report(n))

    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_count", fails)
        with pytest.raises(OSError, match="Input/output error"):
            folder.write(make_report(3))
    folder.write(make_report(4))
    assert updates_in(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize("first", [1, 3])
def test_a_disk_that_is_full_from_the_start(tmp_path: Path, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files are put aside once, not once an update."""
    write(tmp_path, 1, 9)
    folder = RunFolder(tmp_path, resume=first > 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        for n in range(first, first + 3):
            with pytest.raises(OSError, match="No space left"):
                folder.write(make_report(n))
    folder.write(make_report(first + 3))
    # The old 3, 4 and 5 are not this run's.
    assert updates_in(tmp_path) == ([4] if first == 1 else [1, 2, 6])
    assert {name.split("/")[0] for name in set_aside(tmp_path)} == {"previous_1"}


# ---------------------------------------------------------------- bounded


def test_an_update_reads_and_writes_the_same_however_long_the_run(tmp_path: Path) -> None:
    """Bytes and system calls, as the kernel counts them for this process."""
    if not Path("/proc/self/io").exists():
        pytest.skip("no /proc")

    def counted(folder: RunFolder, n: int) -> dict[str, int]:
        def now() -> dict[str, int]:
            lines = Path("/proc/self/io").read_text().splitlines()
            return {name: int(value) for name, value in (line.split(": ") for line in lines[:4])}

        before = now()
        folder.write(make_report(n))
        return {name: value - before[name] for name, value in now().items()}

    folder = RunFolder(tmp_path, resume=False)
    folder.write(make_report(100))
    early = counted(folder, 101)
    write(tmp_path / "long", 1000, 1499)
    long = RunFolder(tmp_path / "long", resume=True)
    long.write(make_report(1500))
    late = counted(long, 1501)
    assert late["syscr"] == early["syscr"]
    assert late["syscw"] == early["syscw"]
    assert abs(late["wchar"] - early["wchar"]) < 100
    assert abs(late["rchar"] - early["rchar"]) < 100


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "kl.npy",
            np.lib.format.magic(1, 0)
            + b"\x76\x00"
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,), }".ljust(117)
            + b"\n",
        ),
        (
            "kl.npy",
            np.lib.format.magic(1, 0)
            + b"\x76\x00"
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117)
            + b"\n",
        ),
        ("kl.npy", b"PK\x05\x06" + bytes(18)),
        ("kl.npy", np.lib.format.magic(1, 0) + b"\x02\x00(\n"),
        ("progress.csv", b"a" * 2**20),
        ("updates.jsonl", b"[" * 200_000 + b"\n"),
        ("updates.jsonl", make_report(2).to_json().replace('"text"', '"\\ud800"').encode() + b"\n"),
        ("updates.jsonl", make_report(2).to_json().replace('"n_updates": 2', '"n_updates": "2"').encode() + b"\n"),
        ("updates.jsonl", make_report(2, advantage_quantiles=(0.0,)).to_json().encode() + b"\n"),
    ],
    ids=["no shape", "huge", "zip", "header", "long row", "deep", "surrogate", "type", "quantiles"],
)
def test_a_run_goes_on_beside_a_file_that_is_not_what_it_says(tmp_path: Path, name: str, content: bytes) -> None:
    folder = tmp_path / "run"
    write(folder, 1, 2)
    (folder / name).write_bytes(content)
    write(folder, 3, 3, resume=True)
    assert updates_in(folder) == ([3] if name == "updates.jsonl" else [1, 2, 3])
    assert f"previous_1/{name}" in set_aside(folder)


def test_a_record_is_read_a_line_at_a_time(tmp_path: Path) -> None:
    """What is 64 MB on the disk, in lines or in one of them, takes a few in memory, and is put aside whole."""
    write(tmp_path, 1, 3)
    record = tmp_path / files.RECORD_NAME
    ours = record.read_bytes()
    junk = b'{"n_updates": 1}\n' * 20_000 + b"[" * (64 << 20) + b"\n"
    record.write_bytes(ours + junk + b'{"n_updates": 4, "cut o')
    before = peak_mebibytes(forget=True)
    write(tmp_path, 4, 4, resume=True)
    assert peak_mebibytes() - before < 16
    assert updates_in(tmp_path) == [1, 2, 3, 4]
    assert (tmp_path / "previous_1" / files.RECORD_NAME).read_bytes() == junk


@pytest.mark.parametrize("between", [b"[" * (2**20 - 1), b"[" * 2**20, b"[" * (3 * 2**20 - 1), b"\xff", b" "])
def test_a_report_behind_something_else_in_its_line_is_none(tmp_path: Path, between: bytes) -> None:
    write(tmp_path, 1, 2)
    record = tmp_path / files.RECORD_NAME
    first, second = record.read_bytes().splitlines()
    record.write_bytes(first + b"\n" + between + second + b"\n")
    write(tmp_path, 3, 3, resume=True)
    assert updates_in(tmp_path) == ([1, 2, 3] if between == b" " else [1, 3])


def test_a_whole_record_whose_line_does_not_end_is_one(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    record = tmp_path / files.RECORD_NAME
    record.write_bytes(record.read_bytes().rstrip(b"\n"))
    write(tmp_path, 3, 3, resume=True)
    assert updates_in(tmp_path) == [1, 2, 3]
