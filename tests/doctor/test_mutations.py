"""Mutated log files, in-process: no crash, no hang, bounded memory; what is in them stays text."""

import io
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sb3_trpo_ext.doctor.page import page
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.text import as_json, show
from tests.mutation import mutated

ZOO = """!!python/object/apply:collections.OrderedDict
- - - env
    - CartPole-v1
  - - target_kl
    - 0.02
"""


MONITOR = '#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n' + "14.0,14,2.4\n" * 30


def one_of_each(ours: Callable[[str], Path], contrib: Path) -> dict[str, bytes]:
    """Every kind of file that the doctor reads: a real one's bytes, by the name that it has in a run's folder."""
    run = ours("TR104")
    (dump,) = run.glob("dumps/*TR104.json")
    found = [*run.glob("*.npy"), run / "updates.jsonl", run / "progress.csv", run / "alarms.jsonl", dump]
    found += [contrib / "evaluations.npz", *contrib.glob("events.*")]
    data = {("dumps/" if file == dump else "") + file.name: file.read_bytes() for file in found}
    data["updates.csv"] = (contrib / "progress.csv").read_bytes()
    return {**data, "0.monitor.csv": MONITOR.encode(), "args.yml": ZOO.encode()}


def look_at_mutations(files: dict[str, bytes], n: int, with_page: int) -> float:
    """The longest time of one."""
    rng = random.Random(0)
    longest = 0.0
    for number in range(n):
        name = list(files)[number % len(files)]
        folder = Path(f"run_{number % len(files)}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(mutated(files[name], rng))
        began = time.monotonic()
        run = read_run(folder)
        text = io.StringIO()
        show(run, Console(file=text, width=80))
        json.dumps(as_json([run]), allow_nan=False)
        if number % with_page == 0:
            assert "<script>alert" not in page([run])
        longest = max(longest, time.monotonic() - began)
        assert "\x1b" not in text.getvalue()
    return longest


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_mutated_logs(ours: Callable[[str], Path], contrib: Path) -> None:
    files = one_of_each(ours, contrib)
    look_at_mutations(files, len(files), with_page=5)  # so that everything is loaded
    before = peak_mebibytes()
    assert look_at_mutations(files, 300, with_page=50) < 20.0
    assert peak_mebibytes() - before < 200


@pytest.mark.slow
def test_ten_thousand_mutated_logs(ours: Callable[[str], Path], contrib: Path) -> None:
    files = one_of_each(ours, contrib)
    look_at_mutations(files, len(files), with_page=5)
    before = peak_mebibytes()
    assert look_at_mutations(files, 10_000, with_page=100) < 20.0
    assert peak_mebibytes() - before < 200
