"""Files that are written whole or not at all."""

import os
import signal
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sb3_trpo_ext.records import atomic as module
from sb3_trpo_ext.records.atomic import UNFINISHED, atomic, flush, remove_unfinished, write_atomic


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"old")
    return tmp_path / "file"


def only(path: Path) -> bool:
    return [each.name for each in path.parent.iterdir()] == [path.name]


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("name", ["file", "new", "n" * 255, ".hidden.tar.gz"])
def test_a_file_is_written_or_replaced(path: Path, name: str) -> None:
    write_atomic(path.with_name(name), b"new")
    assert path.with_name(name).read_bytes() == b"new"
    assert {each.name for each in path.parent.iterdir()} == {"file", name}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_leaves_the_old_file_and_nothing_else(path: Path, error: BaseException) -> None:
    def write() -> None:
        with atomic(path) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert only(path)


@pytest.mark.parametrize("where", ["os.fsync", "shutil.copymode", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(
    path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert only(path)


def killed(act: Callable[[Path], None], path: Path) -> int:
    child = os.fork()
    if child == 0:
        act(path)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_half_way_leaves_the_old_file_and_what_can_be_removed(path: Path) -> None:
    def die(path: Path) -> None:
        with atomic(path) as part:
            part.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(die, path) == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(path.parent.glob(f"{UNFINISHED}*"))) == 1
    write_atomic(path, b"new")
    with atomic(path.with_name("another's")) as part:
        remove_unfinished(path)
        assert part.exists()
    path.with_name("another's").unlink()
    assert path.read_bytes() == b"new"
    assert only(path)


def test_it_is_flushed_before_it_gets_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: order.append("flushed") or real[0](number))
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append("replaced") or real[1](self, target))
    write_atomic(path, b"new")
    assert order == ["flushed", "replaced"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_of_an_earlier_file_stay(path: Path, mode: int) -> None:
    path.chmod(mode)
    write_atomic(path, b"new")
    assert permissions(path) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_usual_permissions(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert permissions(tmp_path / "file") == 0o666 & ~mask


@pytest.mark.parametrize("target", ["target", "nowhere"])
def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path, target: str) -> None:
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "target").chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "link", b"ours")
    finally:
        os.umask(before)
    assert not (tmp_path / "link").is_symlink()
    assert permissions(tmp_path / "link") == 0o644
    assert (tmp_path / "target").read_bytes() == b"theirs"
    assert {each.name for each in tmp_path.iterdir()} == {"target", "link"}


def test_a_link_under_the_temporary_name_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.secrets, "token_hex", lambda _: "foreseen")
    (path.parent / f"{UNFINISHED}{zlib.crc32(path.name.encode()):08x}_foreseen").symlink_to(path.parent / "harmed")
    with pytest.raises(FileExistsError):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert not (path.parent / "harmed").exists()


def test_two_writers_do_not_meet(path: Path) -> None:
    with atomic(path) as first, atomic(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # whose block ended last
    assert only(path)


def test_writers_that_go_by_the_suffix(path: Path) -> None:
    with atomic(path, ".npz") as part:
        np.savez(part, a=np.arange(3))
    with np.load(path) as arrays:
        assert arrays["a"].tolist() == [0, 1, 2]
    assert only(path)


def test_a_folder_that_is_missing_or_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "file", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "folder", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_folders_that_cannot_be_opened_are_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "nowhere")
    monkeypatch.setattr(module.os, "open", lambda *arguments: opened.append(arguments))
    monkeypatch.setattr(module.os, "name", "nt")
    flush(tmp_path)
    assert opened == []
