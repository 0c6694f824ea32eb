"""W&B's offline runs: rows of a ``.wandb`` file, unpacked by wandb's messages, which are loaded if there is such a file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from sb3_trpo_ext.doctor.bounds import MAX_COLUMNS, MAX_VALUE
from sb3_trpo_ext.doctor.reports import LARGEST_INTEGER, mebibytes
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import OWN_STEPS, STEPS, UPDATES, Row
from sb3_trpo_ext.doctor.zoo_files import take_settings
from sb3_trpo_ext.monitoring.wandb_log import WandbLogError, read_records

SUFFIX = ".wandb"
AXIS = "global_step"
"""What W&B calls TensorBoard's step."""


def read_wandb(run: Run, path: Path) -> Iterator[Row]:
    """
    Read what an offline run has logged, row by row.

    :param run: gets settings and findings
    :param path: its ``.wandb`` file
    :yields: numbers by key, and the step
    """
    try:
        messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    except ImportError:
        run.find("DR002", path, why="W&B's files are read with wandb: pip install 'sb3-trpo-ext[wandb]'")
        return
    size = path.stat().st_size
    if size > run.limits.size:
        run.left_out(f"all of it: it has {mebibytes(size)}, and {mebibytes(run.limits.size)} are read of such a file", path)
        return
    try:
        for content in read_records(path):
            record = messages.Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                take_settings(run, dict(_values(record.run.config.update)), overwrite=False)
            elif kind == "config":
                take_settings(run, dict(_values(record.config.update)), overwrite=False)
            elif kind == "history":
                yield from _row(record.history.item)
    except (WandbLogError, DecodeError, OSError) as error:
        run.find("DR002", path, why=str(error).replace(str(path), "it"))


def _row(items: Any) -> Iterator[Row]:
    numbers = ((key, value) for key, value in _values(items) if isinstance(value, int | float))
    row: Row = {key: float(value) for key, value in numbers if isinstance(value, float) or abs(value) < LARGEST_INTEGER}
    if AXIS in row:
        # Only rows of ours say which update they are about; W&B's copies of TensorBoard's can't.
        yield {**row, STEPS: row[AXIS], **({OWN_STEPS: 1.0} if UPDATES in row else {})}


def _values(items: Any) -> Iterator[tuple[str, Any]]:
    for item in items[:MAX_COLUMNS]:
        if len(item.value_json) > MAX_VALUE:
            continue
        try:
            value = json.loads(item.value_json)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "value" in value:
            value = value["value"]
        yield "/".join(item.nested_key) or item.key, value
