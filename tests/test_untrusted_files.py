"""
Everything of ours that reads a file, fed with 10,000 spoilt copies of real ones (a few hundred in the fast tier): it is read,
or refused by an error of a known type, in bounded time and memory. (The doctor's readers: ``tests/doctor/test_mutations.py``.)

Planted bugs that ``feed`` catches are below; those that it found in our readers have tests beside the readers' own.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.describe import describe_update
from sb3_trpo_ext.monitoring.wandb_log import WandbLogError, read_records
from sb3_trpo_ext.records.dump import DumpError, files, read_dump, write_dump
from sb3_trpo_ext.records.files import CSV_NAME, RECORD_NAME
from sb3_trpo_ext.records.run_folder import RunFolder
from sb3_trpo_ext.replay.rebuild import rebuild
from sb3_trpo_ext.zoo.convert_config import convert_text
from sb3_trpo_ext.zoo.yaml_files import ConfigError, read_yaml
from tests.monitoring.reports import make_report
from tests.monitoring.test_wandb_log import RECORDS, framed
from tests.mutation import Mutate, feed, mutated, mutated_json, mutated_zip
from tests.sb3.spaces import make_model

Fed = tuple[Callable[[bytes], object], list[bytes], tuple[type[BaseException], ...]]
YAML = b"""# settings
CartPole-v1: &small
  policy: 'MlpPolicy'
  n_timesteps: !!float 1e5
  callback: [sb3_trpo_ext.monitoring.KLMonitor, {sb3_trpo_ext.monitoring.EntropyMonitor: {}}]
  cg_damping_range: [0.1, 100]
Pendulum-v1:
  <<: *small
  target_kl: 0.02
  cg_damping: 0.1
  policy_kwargs: "dict(net_arch=[8])"
"""


def reports() -> Fed:
    return (
        (lambda data: UpdateReport.from_json(data.decode(errors="replace"))),
        [make_report().to_json().encode()],
        (ValueError,),
    )


def run_folder(name: str) -> Fed:
    """A run that goes on in a folder where one file is spoilt: it writes its row, whatever there was."""
    folder = Path("run")
    first = RunFolder(folder, resume=False)
    for number in (1, 2):
        first.write(make_report(number))
    next_one = make_report(3)

    def goes_on(data: bytes) -> None:
        (folder / name).write_bytes(data)
        RunFolder(folder, resume=True).write(next_one)
        for aside in folder.glob("previous_*/*"):
            aside.unlink()
        for aside in folder.glob("previous_*"):
            aside.rmdir()

    return goes_on, [(folder / name).read_bytes()], ()


def yaml_file() -> Fed:
    def read(data: bytes) -> None:
        Path("a.yml").write_bytes(data)
        read_yaml(Path("a.yml"))

    return read, [YAML], (ConfigError,)


def converted() -> Fed:
    return (lambda data: convert_text(data.decode(errors="replace"), "joint")), [YAML], (ConfigError,)


def wandb_log() -> Fed:
    def read(data: bytes) -> None:
        Path("run.wandb").write_bytes(data)
        for _ in read_records(Path("run.wandb")):
            pass

    return read, [framed(RECORDS)], (WandbLogError,)


def dump(part: str) -> Fed:
    """A dump with one of its two files spoilt (the checksum of the arrays made to fit), and the model that it makes."""
    model = make_model(n_steps=16, n_envs=1)
    model.session.keep_update_start = True
    model.learn(32)
    write_dump(Path("d"), describe_update(model, ["test"], model.last_update, None, [], []))
    header, arrays = files(Path("d"))
    original = header.read_text()

    def read(data: bytes) -> None:
        if part == "arrays":
            arrays.write_bytes(data)
            fitting = {**json.loads(original), "arrays_sha256": hashlib.sha256(data).hexdigest()}
            header.write_text(json.dumps(fitting))
        else:
            header.write_bytes(data)
        rebuild(read_dump(Path("d")), {})

    return read, [(arrays if part == "arrays" else header).read_bytes()], (DumpError,)


READERS: dict[str, Callable[[], Fed]] = {
    "report": reports,
    "updates.jsonl": partial(run_folder, RECORD_NAME),
    "progress.csv": partial(run_folder, CSV_NAME),
    "kl.npy": partial(run_folder, "kl.npy"),
    "yaml": yaml_file,
    "convert-config": converted,
    "wandb": wandb_log,
    "dump header": partial(dump, "header"),
    "dump arrays": partial(dump, "arrays"),
}

WITHIN: dict[str, Mutate] = {
    **dict.fromkeys(("report", "updates.jsonl", "dump header"), mutated_json),
    "dump arrays": mutated_zip,
}
"""How copies are spoilt that get past a format's own checks; all others byte by byte."""


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files are written, renamed and removed 200,000 times: not on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder, monkeypatch.context() as patch:
        patch.chdir(folder)
        yield


def fed(name: str, n: int) -> None:
    read, originals, refusals = READERS[name]()
    outcomes = feed(read, originals, n, refusals, mutate=WITHIN.get(name, mutated))
    assert outcomes["read"] > 0
    assert outcomes["refused"] > 0 or not refusals
    assert not Path("harmed").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_few_spoilt_files(name: str) -> None:
    fed(name, 150)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_spoilt_files(name: str) -> None:
    fed(name, 10_000)


# ---------------------------------------------------------------- planted bugs


def crashes(data: bytes) -> None:
    if data != b"{}":
        json.loads(data.decode(errors="replace"))[0]


def hangs(data: bytes) -> None:
    end = time.process_time() + (data != b"{}")
    while time.process_time() < end:
        pass


def hoards(data: bytes) -> None:
    if data != b"{}":
        b"x" * (300 << 20)


@pytest.mark.parametrize(("planted", "said"), [(crashes, "instead of a refusal"), (hangs, "s: b"), (hoards, "MiB more")])
def test_a_planted_bug_is_found(planted: Callable[[bytes], None], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        feed(planted, [b"{}"], 3, (), seconds=0.5)
