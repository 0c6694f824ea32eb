"""
Checkpoints on disk: a folder each, whole or not there, whatever kills the process that writes it.

A checkpoint is written under a temporary name, flushed to the disk with its folder, and renamed; last comes a manifest with
the size and SHA-256 of every file, and of itself. The reader checks all of that before anything is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_trpo_ext.records.atomic import flush

FOLDER_NAME = "checkpoints"
"""Of the run folder."""

MANIFEST_NAME = "manifest.json"

NEEDED = ("model.zip", "state.pkl")
"""Without one of these nothing goes on."""

OLDEST, FORMAT = 2, 3
"""Of the files: what can be read, and what is written; rises when a reader of today could not go on from them."""

NAME = re.compile(r"update_(\d{6,})")

TEMPORARY = ".writing_"
"""Beginning of the names of what is not whole, or no longer needed: left by a kill, removed by the next writer."""


@dataclass(frozen=True)
class Checkpoint:
    """
    A checkpoint that was found whole.

    :param path: its folder
    :param about: what its manifest says: plain values
    """

    path: Path
    about: dict[str, Any]

    @property
    def n_updates(self) -> int:
        """Updates that were finished."""
        return int(self.about["n_updates"])

    def read(self, name: str) -> bytes:
        """
        Read one file, and check it again: what is unpickled are the bytes that were checked.

        :param name: of the file
        :return: its content
        :raises ValueError: if it is not what the manifest says
        """
        content = (self.path / name).read_bytes()
        reason = _why_not(name, content, self.about["files"][name])
        if reason is not None:
            raise ValueError(f"{self.path}: {reason}")
        return content


def write_checkpoint(folder: Path, n_updates: int, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Path:
    """
    Write a checkpoint; another of the same update is replaced.

    :param folder: of all checkpoints; made if it is not there
    :param n_updates: updates that are finished
    :param files: contents by name
    :param about: plain values for the manifest
    :return: its folder
    :raises OSError: if that is impossible; whatever was there before is still there
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    path, temporary = folder / f"update_{n_updates:06d}", folder / f"{TEMPORARY}{n_updates:06d}"
    temporary.mkdir()
    described = {name: {"size": len(content), "sha256": _digest(content)} for name, content in files.items()}
    manifest = _sealed({"format": FORMAT, "n_updates": n_updates, **about, "files": described})
    try:
        for name, content in {**files, MANIFEST_NAME: json.dumps(manifest, indent=1).encode()}.items():
            (temporary / name).write_bytes(content)
            flush(temporary / name)
        flush(temporary)
    except OSError:
        _remove(temporary)  # on a full disk the logs need the space
        raise
    if path.exists():
        path.rename(folder / f"{TEMPORARY}{n_updates:06d}_old")
    temporary.rename(path)
    flush(folder)
    _remove_leftovers(folder)
    return path


def newest_whole(folder: Path) -> tuple[Checkpoint | None, dict[str, str]]:
    """
    Find the checkpoint to go on from.

    :param folder: of all checkpoints, or a run's folder, which holds that
    :return: the newest one that is whole, None if there is none; and why newer ones were passed over, by name
    """
    inside = folder / FOLDER_NAME
    passed_over: dict[str, str] = {}
    for path in reversed(checkpoints_in(inside if inside.is_dir() else folder)):
        found = examine(path)
        if isinstance(found, Checkpoint):
            return found, passed_over
        passed_over[path.name] = found
    return None, passed_over


def newest_in_words(folder: Path, how: str = "") -> str:
    """
    Say what is left of a run that has ended before its time.

    :param folder: of all checkpoints, or a run's folder
    :param how: what resumes the run, in words
    :return: a sentence about the newest checkpoint that is whole
    """
    found, _ = newest_whole(folder)
    if found is None:
        return f"{folder} has no whole checkpoint."
    steps = found.about["num_timesteps"]
    return f"The newest checkpoint is of update {found.n_updates} ({steps} steps){how and f': {how}'}."


def checkpoints_in(folder: Path) -> list[Path]:
    """
    List what is there, whole or not.

    :param folder: of all checkpoints
    :return: their folders, oldest update first
    """
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=_number)


def examine(path: Path) -> Checkpoint | str:
    """
    Check a checkpoint: nothing in it is unpickled.

    :param path: its folder
    :return: the checkpoint, or why it is not whole
    """
    try:
        about = read_manifest(path)
        for name, described in about["files"].items():
            reason = _why_not(name, (path / name).read_bytes(), described)
            if reason is not None:
                return reason
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it can't be read ({error})"
    except ValueError as error:
        return str(error)
    return Checkpoint(path, about)


def read_manifest(path: Path) -> dict[str, Any]:
    """
    Read what a checkpoint says about itself.

    :param path: its folder
    :return: plain values
    :raises ValueError: if it says nothing that can be understood, or is of another format
    :raises OSError: if it can't be read
    """
    content = (path / MANIFEST_NAME).read_bytes()
    try:
        about = json.loads(content)
        reason = _why_no_manifest(about, path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST_NAME} is no JSON ({error})") from error
    if reason is not None:
        raise ValueError(reason)
    assert isinstance(about, dict), "it has a format"
    return about


def prune(folder: Path, keep_last: int, keep_best: bool) -> None:
    """
    Remove old checkpoints.

    :param folder: of all checkpoints
    :param keep_last: how many of the newest stay, at least 1
    :param keep_best: whether that with the highest score stays, too
    """
    there = checkpoints_in(folder)
    best = max(_scores(there), default=None) if keep_best else None
    for path in there[:-keep_last]:
        if best is None or path != best[1]:
            # First out of sight: a kill in the middle leaves nothing that looks like a checkpoint.
            _remove(path.rename(folder / f"{TEMPORARY}{path.name}_old"))


def _scores(paths: list[Path]) -> Iterator[tuple[float, Path]]:
    for path in paths:
        try:
            score = read_manifest(path).get("score")
        except (OSError, ValueError):
            continue
        if isinstance(score, float) and math.isfinite(score):
            yield score, path


def _why_no_manifest(about: Any, path: Path) -> str | None:
    found = about.get("format") if isinstance(about, dict) else None
    if not isinstance(found, int) or not OLDEST <= found <= FORMAT:
        return f"its format is {found!r:.20}, and this version reads {OLDEST} to {FORMAT}"
    files = about.get("files")
    plain = isinstance(files, dict) and all(Path(name).name == name and isinstance(files[name], dict) for name in files)
    if not plain or not {*NEEDED} <= {*files} or about.get("n_updates") != _number(path):
        return f"{MANIFEST_NAME} does not describe {path.name}"
    if _sealed(about)["sha256"] != about.get("sha256"):
        return f"{MANIFEST_NAME} is not what was written (its checksum differs)"
    return None


def _sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """With a checksum of all the rest."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return {**rest, "sha256": _digest(json.dumps(rest, sort_keys=True).encode())}


def _number(path: Path) -> int:
    return int(path.name.partition("_")[2])


def _why_not(name: str, content: bytes, described: Mapping[str, Any]) -> str | None:
    if len(content) != described.get("size"):
        return f"{name} has {len(content)} bytes instead of {described.get('size')!r:.20}"
    return None if _digest(content) == described.get("sha256") else f"{name} is not what was written (its checksum differs)"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY}*"):
        _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
