"""Dumps on disk: whole or not there, read without trust."""

import errno
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_trpo_ext.monitoring.describe import plain
from sb3_trpo_ext.records import dump as module
from sb3_trpo_ext.records.dump import Dump, DumpError, files, read_dump, write_dump

ARRAYS = {
    "before/a.weight": np.array([[1.0, -0.0], [np.nan, np.inf]], np.float32),
    "before/b": np.array(3, np.int64),
    "batch/image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "batch/empty": np.zeros((0, 3)),
}
HEADER = {"reasons": ["rejected"], "text": "πολιτική", "numbers": [1, 0.1, 1e-300], "nothing": None}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "dumps" / "update_000001_rejected"
    write_dump(path, Dump(HEADER, ARRAYS))
    return path


def test_what_is_read_is_what_was_written(written: Path) -> None:
    for name in (written, *files(written)):
        dump = read_dump(name)
        assert {key: dump.header[key] for key in HEADER} == HEADER
        assert dump.arrays.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            assert (dump.arrays[key].dtype, dump.arrays[key].shape) == (array.dtype, array.shape)
            assert dump.arrays[key].tobytes() == array.tobytes()
    assert dump.part("before").keys() == {"a.weight", "b"}
    assert dump.size == sum(array.nbytes for array in ARRAYS.values())
    assert sorted(path.name for path in written.parent.iterdir()) == [f"{written.name}.json", f"{written.name}.npz"]


def test_a_name_with_dots_is_a_name(tmp_path: Path) -> None:
    write_dump(tmp_path / "run.v1.5_update", Dump(HEADER, ARRAYS))
    assert read_dump(tmp_path / "run.v1.5_update.json").arrays.keys() == ARRAYS.keys()


def test_a_kill_while_writing_leaves_no_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        real(path, content)

    real = module.write_atomic
    monkeypatch.setattr(module, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        write_dump(tmp_path / "d", Dump(HEADER, ARRAYS))
    with pytest.raises(DumpError, match=r"d\.json: No such file"):
        read_dump(tmp_path / "d")


def rewritten(path: Path, **changes: Any) -> None:
    header = json.loads(files(path)[0].read_text())
    files(path)[0].write_text(json.dumps({**header, **changes}))


def test_what_is_not_a_dump_is_said(written: Path, tmp_path: Path) -> None:
    header, arrays = files(written)
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-10])
    with pytest.raises(DumpError, match=r"\.npz: is not the file that .* was written with"):
        read_dump(written)
    arrays.unlink()
    with pytest.raises(DumpError, match="is no dump, which is two files side by side"):
        read_dump(written)
    rewritten(written, format=99)
    with pytest.raises(DumpError, match="is no dump of format 1"):
        read_dump(written)
    header.write_text("{")
    with pytest.raises(DumpError, match="is no JSON"):
        read_dump(written)
    header.write_text("[" * 100_000)
    with pytest.raises(DumpError, match="is no JSON"):
        read_dump(written)
    header.write_text("[]")
    with pytest.raises(DumpError, match="is no dump"):
        read_dump(written)
    (tmp_path / "t.bin").touch()
    with pytest.raises(DumpError, match=r"t\.bin: is no dump, .* t\.bin\.json and t\.bin\.npz \(.*t\.bin\.json: No such file"):
        read_dump(tmp_path / "t.bin")


def test_what_is_no_file_is_not_read(written: Path) -> None:
    header, arrays = files(written)
    for path in (arrays, header):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DumpError, match="is no file"):
            read_dump(written)
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(DumpError, match="is no file"):
            read_dump(written)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    written: list[int] = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_dump(tmp_path / "d" / "update", Dump(HEADER, ARRAYS))
    assert list((tmp_path / "d").iterdir()) == []


class Harm:
    """Would leave a file behind if it were unpickled."""

    def __reduce__(self) -> Any:
        return open, ("harmed", "w")


def with_arrays(path: Path, content: bytes) -> Path:
    files(path)[1].write_bytes(content)
    rewritten(path, arrays_sha256=hashlib.sha256(content).hexdigest())
    return path


def test_nothing_is_unpickled(written: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, harm=np.array([Harm()], dtype=object))
    with pytest.raises(DumpError, match="can't be read as arrays"):
        read_dump(with_arrays(written, buffer.getvalue()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("harm.npy", pickle.dumps(Harm()))
    with pytest.raises(DumpError, match=r"harm is no array|can't be read as arrays"):
        read_dump(with_arrays(written, buffer.getvalue()))
    assert not Path("harmed").exists()


def test_what_unpacks_to_more_than_a_machine_holds_is_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_ARRAYS", 2**20)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, zeros=np.zeros(2**18))
    assert len(buffer.getvalue()) < 2**14
    with pytest.raises(DumpError, match="2 MiB unpacked, more than 1 MiB"):
        read_dump(with_arrays(written, buffer.getvalue()))
    monkeypatch.setattr(module, "LARGEST_HEADER", 10)
    with pytest.raises(DumpError, match="no part of a dump"):
        read_dump(written)


def test_arrays_are_numbers_and_not_too_many(written: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, text=np.array(["text"]))
    with pytest.raises(DumpError, match="text is no array of numbers"):
        read_dump(with_arrays(written, buffer.getvalue()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(module.MOST_ARRAYS + 1):
            archive.writestr(str(number), b"")
    with pytest.raises(DumpError, match="more than 10000 arrays"):
        read_dump(with_arrays(written, buffer.getvalue()))
    header = files(written)[0]
    header.write_text(header.read_text().replace("1e-300", "NaN"))
    with pytest.raises(DumpError, match="NaN is no number"):
        read_dump(written)


def test_everything_has_a_plain_form_or_says_that_it_has_none() -> None:
    class Odd:
        pass

    assert plain({"a": (1, np.float32(0.5), np.int64(2)), "b": None, "c": True}) == {"a": [1, 0.5, 2], "b": None, "c": True}
    assert plain([float("inf"), float("nan")]) == [{"$float": "inf"}, {"$float": "nan"}]
    assert plain(np.ndarray) == {"$class": "numpy.ndarray"}
    assert list(plain(Odd())) == ["$unknown"]
    assert list(plain(lambda: 0)) == ["$unknown"]
    json.dumps(plain({"x": [Odd(), float("-inf")]}), allow_nan=False)
