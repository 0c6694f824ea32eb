"""Checkpoints on disk: whole or passed over, whatever has happened to them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sb3_trpo_ext.sb3.checkpoints import files as checkpoint_files
from sb3_trpo_ext.sb3.checkpoints.files import (
    FORMAT,
    MANIFEST_NAME,
    OLDEST,
    TEMPORARY,
    Checkpoint,
    checkpoints_in,
    examine,
    newest_whole,
    prune,
    read_manifest,
    write_checkpoint,
)
from tests.mutation import feed

FILES = {"model.zip": b"weights" * 100, "state.pkl": b"the rest"}


def write(folder: Path, n_updates: int, score: float | None = None) -> Path:
    return write_checkpoint(folder, n_updates, FILES, {"score": score})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "run/checkpoints", 7, 1.5)
    assert names(path) == ["manifest.json", "model.zip", "state.pkl"]
    found, passed_over = newest_whole(tmp_path / "run")
    assert found is not None
    assert (found.path, found.n_updates, found.about["score"], passed_over) == (path, 7, 1.5, {})
    assert {name: found.read(name) for name in FILES} == FILES
    assert newest_whole(tmp_path / "run/checkpoints")[0] == found


def test_nothing_there(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) == (None, {})
    assert newest_whole(tmp_path / "nowhere") == (None, {})


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads((path / MANIFEST_NAME).read_text())
        (path / MANIFEST_NAME).write_text(json.dumps(checkpoint_files._sealed({**manifest, **changes})))

    return edit


def _flip(path: Path) -> None:
    content = bytearray((path / "model.zip").read_bytes())
    content[300] ^= 1
    (path / "model.zip").write_bytes(content)


def _replace(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(content) and None


def _edit_text(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = (path / MANIFEST_NAME).read_text()
        assert old in text
        (path / MANIFEST_NAME).write_text(text.replace(old, new))

    return edit


_forge = _edit_text('"score": null', '"score": 9.5')
_unseal = _edit_text('"sha256": "', '"sha257": "')


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda path: os.truncate(path / "state.pkl", 3), "state.pkl has 3 bytes instead of 8"),
    "empty": (lambda path: os.truncate(path / "model.zip", 0), "model.zip has 0 bytes instead of 700"),
    "a bit is flipped": (_flip, "model.zip is not what was written"),
    "a file is missing": (lambda path: (path / "model.zip").unlink(), "model.zip is missing"),
    "no manifest": (lambda path: (path / MANIFEST_NAME).unlink(), "manifest.json is missing"),
    "manifest cut off": (lambda path: os.truncate(path / MANIFEST_NAME, 40), "manifest.json is no JSON"),
    "manifest deep": (_replace(MANIFEST_NAME, b"[" * 100_000), "manifest.json is no JSON"),
    "manifest a list": (_replace(MANIFEST_NAME, b"[]"), "its format is None"),
    "another version's": (
        _edit(format=FORMAT + 1),
        f"its format is {FORMAT + 1}, and this version reads {OLDEST} to {FORMAT}",
    ),
    "another update's": (_edit(n_updates=3), "manifest.json does not describe update_000002"),
    "outside its folder": (_edit(files={"../../secret": {"size": 1, "sha256": ""}}), "manifest.json does not describe"),
    "a number of the manifest": (_forge, "manifest.json is not what was written"),
    "no seal": (_unseal, "manifest.json is not what was written"),
    "deep": (_edit_text('"score": null', '"score": ' + "[" * 3000 + "]" * 3000), "manifest.json is"),
    "only one file": (_edit(files={"model.zip": {"size": 700}}), "manifest.json does not describe"),
    "no files": (_edit(files={}), "manifest.json does not describe"),
    "files of another kind": (_edit(files={"model.zip": 3}), "manifest.json does not describe"),
    "no checksum": (_edit(files={"model.zip": {"size": 700}, "state.pkl": {}}), "model.zip is not what was written"),
    "a folder for a file": (lambda path: ((path / "model.zip").unlink(), (path / "model.zip").mkdir()), "it can't be read"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_the_one_before_is_taken(tmp_path: Path, damage: Callable[[Path], Any], reason: str) -> None:
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    found, passed_over = newest_whole(tmp_path)
    assert found is not None
    assert found.n_updates == 1
    assert list(passed_over) == ["update_000002"]
    assert reason in passed_over["update_000002"]


def test_nothing_is_unpickled_before_it_is_checked(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "evil",))

    path = write(tmp_path, 1)
    (path / "state.pkl").write_bytes(pickle.dumps(Evil()))
    assert isinstance(examine(path), str)
    # What is read are the bytes that are checked, also when they change in between.
    found = examine(write(tmp_path, 2))
    assert isinstance(found, Checkpoint)
    (found.path / "state.pkl").write_bytes(b"the rust")
    with pytest.raises(ValueError, match=r"state\.pkl is not what was written"):
        found.read("state.pkl")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("call", range(1, 12))
def test_an_error_at_any_moment_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Also where a checkpoint of the same update is replaced."""
    write(tmp_path, 1)
    write(tmp_path, 2)
    calls = []

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append(original)
            if len(calls) == call:
                raise OSError("no space left on device")
            return original(*args, **kwargs)

        return wrapped

    for name in ("fsync", "open", "mkdir", "rename"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    try:
        write(tmp_path, 2)
    except OSError:
        pass
        # Where only the name is missing, all of it may be there; else it takes no space.
        left = {path.name for path in tmp_path.glob(f"{TEMPORARY}000002/*")}
        assert not left or left == {*FILES, MANIFEST_NAME}
    monkeypatch.undo()
    found, _ = newest_whole(tmp_path)
    assert found is not None
    assert found.n_updates >= 1
    write(tmp_path, 3)
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    flush, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda number: seen.append(Path(os.readlink(f"/proc/self/fd/{number}")).name) or flush(number)
    )
    monkeypatch.setattr(Path, "rename", lambda self, target: seen.append(f"-> {Path(target).name}") or rename(self, target))
    write(tmp_path, 1)
    assert seen == ["model.zip", "state.pkl", "manifest.json", f"{TEMPORARY}000001", "-> update_000001", tmp_path.name]


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    for n_updates, score in enumerate([1.0, 5.0, 2.0, None, 3.0, 1.0], start=1):
        write(tmp_path, n_updates, score)
    prune(tmp_path, keep_last=2, keep_best=True)
    assert names(tmp_path) == ["update_000002", "update_000005", "update_000006"]
    prune(tmp_path, keep_last=1, keep_best=False)
    assert names(tmp_path) == ["update_000006"]


def test_the_best_of_what_can_be_read(tmp_path: Path) -> None:
    for n_updates in (1, 2, 3):
        write(tmp_path, n_updates, float(n_updates))
    (tmp_path / "update_000002" / MANIFEST_NAME).write_text("{")
    prune(tmp_path, keep_last=1, keep_best=True)
    assert names(tmp_path) == ["update_000003"]


def test_order_is_that_of_updates(tmp_path: Path) -> None:
    for n_updates in (999_999, 1_000_000, 5):
        write(tmp_path, n_updates)
    (tmp_path / "update_x").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["update_000005", "update_999999", "update_1000000"]


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "resealed"), [(MANIFEST_NAME, True), *((name, False) for name in (MANIFEST_NAME, *FILES))])
def test_spoilt_ones_are_passed_over(tmp_path: Path, name: str, n: int, resealed: bool) -> None:
    """Nothing is changed and found whole; in one line, in any case. Resealed: as somebody who means it would write it."""
    path = write(tmp_path, 1)
    original, about = (path / name).read_bytes(), read_manifest(path)

    def read(data: bytes) -> None:
        (path / name).write_bytes(_resealed(data) if resealed else data)
        found = examine(path)
        if isinstance(found, str):
            assert "\n" not in found
            raise ValueError(found)
        assert {each: found.read(each) for each in FILES} == FILES
        if not resealed:
            assert (found.n_updates, found.about) == (1, about)

    outcomes = feed(read, [original], n, (ValueError,), seconds=1.0)
    assert outcomes["refused"] > 0.8 * n or resealed


def _resealed(data: bytes) -> bytes:
    try:
        manifest = json.loads(data)
        return json.dumps(checkpoint_files._sealed(manifest)).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data
