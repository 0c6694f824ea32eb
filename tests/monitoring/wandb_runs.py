"""What a ``.wandb`` file says, by wandb's own protobuf records; and trainings that write one, each a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import sb3_trpo_ext
from sb3_trpo_ext.monitoring.wandb_log import read_records

FAKE_KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Recorded:
    """One run."""

    file: Path
    types: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    alerts: list[Any] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    sweep_id: str = ""

    def column(self, key: str) -> list[tuple[int, float]]:
        """(environment steps, value) of every row that has the key."""
        return [(row["global_step"], row[key]) for row in self.rows if key in row]


def read_run(file: Path) -> Recorded:
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    run = Recorded(file)
    for payload in read_records(file):
        record = internal.Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        run.types.append(kind)
        if kind == "run":
            _put(run.config, record.run.config.update)
            run.sweep_id = record.run.sweep_id
        elif kind == "config":
            _put(run.config, record.config.update)
        elif kind == "history":
            run.rows.append(_put({}, record.history.item))
        elif kind == "summary":
            _put(run.summary, record.summary.update)
        elif kind == "metric":
            run.metrics.append(record.metric)
        elif kind == "alert":
            run.alerts.append(record.alert)
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "exit":
            run.exit_codes.append(record.exit.exit_code)
    return run


def _put(into: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = into
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise TypeError(f"{path} holds a value and other keys")
        place[last] = json.loads(item.value_json)
    return into


def only_run(folder: Path) -> Recorded:
    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    return read_run(file)


def environ(folder: Path, **more: str) -> dict[str, str]:
    """Everything stays in the folder; a key is configured, and may be found nowhere in it."""
    ours = {
        "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": FAKE_KEY,
        "WANDB_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_CONFIG_DIR": str(folder / "config"),
        "HOME": str(folder),
    }
    return {**os.environ, **ours, **more}


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def python(folder: Path, *arguments: str, expect: int = 0, **more: str) -> str:
    process = start(folder, *arguments, **more)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == expect, output
    return output


def training(folder: Path, name: str, *arguments: str, **more: str) -> str:
    return python(folder, "-m", "tests.monitoring.wandb_trainings", name, *arguments, **more)


def files_with(folder: Path, text: str) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]
