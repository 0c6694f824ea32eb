"""Mutated log files, in-process: no crash, no hang, bounded memory; what is in them stays text."""

import io
import json
import random
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sb3_trpo_ext.doctor.page import page
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.text import as_json, show
from tests.doctor.mutations import mutated

ZOO = """!!python/object/apply:collections.OrderedDict
- - - env
    - CartPole-v1
  - - target_kl
    - 0.02
"""


def folder_with_everything(ours: Callable[[str], Path], contrib: Path) -> Path:
    """Every file that the doctor reads, none of them long."""
    folder = Path(shutil.copytree(ours("TR104"), "everything"))
    for file in contrib.iterdir():
        if file.is_file():
            shutil.copy(file, folder / {"progress.csv": "updates.csv"}.get(file.name, file.name))
    (folder / "0.monitor.csv").write_text('#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n' + "14.0,14,2.4\n" * 30)
    (folder / "args.yml").write_text(ZOO)
    shutil.copy(ours("TR303") / "alarms.jsonl", folder)
    for file in folder.glob("dumps/*.npz"):
        file.unlink()
    return folder


def look_at_mutations(folder: Path, n: int, with_page: int) -> tuple[float, int]:
    """Longest time of one, and the peak of all."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    originals = {file: file.read_bytes() for file in files}
    rng = random.Random(0)
    longest = 0.0
    tracemalloc.start()
    for number in range(n):
        file = files[number % len(files)]
        file.write_bytes(mutated(originals[file], rng))
        if number % 3 == 0 and file.name != "updates.jsonl":
            (folder / "updates.jsonl").unlink()  # so that the other files are the record
        began = time.monotonic()
        run = read_run(folder)
        text = io.StringIO()
        show(run, Console(file=text, width=80))
        json.dumps(as_json([run]), allow_nan=False)
        if number % with_page == 0:
            made = page([run])
            assert "<script>alert" not in made
        longest = max(longest, time.monotonic() - began)
        assert "\x1b" not in text.getvalue()
        for spoilt in (file, folder / "updates.jsonl"):
            spoilt.write_bytes(originals[spoilt])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return longest, peak


def test_mutated_logs(ours: Callable[[str], Path], contrib: Path) -> None:
    longest, peak = look_at_mutations(folder_with_everything(ours, contrib), 150, with_page=30)
    assert longest < 20.0
    assert peak < 200 * 2**20


@pytest.mark.slow
def test_ten_thousand_mutated_logs(ours: Callable[[str], Path], contrib: Path) -> None:
    longest, peak = look_at_mutations(folder_with_everything(ours, contrib), 10_000, with_page=200)
    assert longest < 20.0
    assert peak < 200 * 2**20
