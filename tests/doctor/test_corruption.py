"""Files that are cut off, damaged, not what they say, or made by somebody who means ill: a finding each, never a traceback."""

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.lines import Lines
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.zoo_files import read_settings
from tests.doctor.runs import write_events

Copy = Callable[[str], Path]
GARBAGE = bytes(range(256)) * 40


def codes(run: Run) -> dict[str, str | None]:
    """Findings about files."""
    return {finding.file: finding.code for finding in run.findings if finding.file is not None}  # type: ignore[misc]


def cut(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def events_in(folder: Path) -> Path:
    (file,) = folder.glob(f"{EVENTS}*")
    return file


# ---------------------------------------------------------------- cut off


def test_a_record_that_is_cut_off_is_one_that_is_being_written(copy_of: Copy) -> None:
    folder = copy_of("TR104")
    whole = read_run(folder).points.seen
    file = folder / "updates.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    run = read_run(folder)
    assert codes(run) == {"updates.jsonl": "DR004"}
    assert run.points.seen == whole - 1
    assert run.findings[0].code == "TR104"


def test_csv_files_that_are_cut_off(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    events_in(folder).unlink()
    whole = read_run(folder).points.seen
    cut(folder / "progress.csv")
    run = read_run(folder)
    assert codes(run)["progress.csv"] == "DR004"
    assert 0 < run.points.seen < whole


def test_a_number_that_is_cut_off_is_none(copy_of: Copy) -> None:
    """All columns are there, but the last one may have had more digits."""
    folder = copy_of("healthy")
    (folder / "updates.jsonl").unlink()
    file = folder / "progress.csv"
    file.write_bytes(file.read_bytes().rstrip())
    (folder / "0.monitor.csv").write_text('#{"env_id": "Small"}\nr,l,t\n1.0,10,2.0\n1.5,10,3')
    run = read_run(folder)
    assert codes(run) == {"progress.csv": "DR004", "0.monitor.csv": "DR004"}
    assert run.points.seen == 21
    assert run.returns.values() == [(10.0, 1.0)]


def test_events_that_are_cut_off(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    (folder / "progress.csv").unlink()
    whole = read_run(folder).points.seen
    name = events_in(folder).name
    cut(events_in(folder))
    run = read_run(folder)
    assert codes(run)[name] == "DR004"
    assert 0 < run.points.seen < whole


@pytest.mark.parametrize("name", ["kl.npy", "advantages.npy", "evaluations.npz"])
def test_arrays_that_are_cut_off(name: str, copy_of: Copy) -> None:
    folder = copy_of("contrib" if name.endswith("z") else "healthy")
    cut(folder / name)
    run = read_run(folder)
    assert codes(run)[name] == "DR002"
    assert run.exit_code == 1
    assert run.points.seen


def test_a_dump_that_is_cut_off(copy_of: Copy) -> None:
    folder = copy_of("TR104")
    for file in folder.glob("dumps/*.json"):
        cut(file)
    run = read_run(folder)
    assert set(codes(run).values()) == {"DR002"}
    assert run.findings[0].code == "TR104"
    assert run.findings[0].replay is None


# ---------------------------------------------------------------- something else than what they say


@pytest.mark.parametrize("kind", ["TR104", "contrib"])
def test_garbage_in_every_file(kind: str, copy_of: Copy) -> None:
    folder = copy_of(kind)
    spoilt = [file for file in folder.rglob("*") if file.is_file() and (file.suffix != ".npz" or file.parent == folder)]
    for file in spoilt:
        file.write_bytes(GARBAGE)
    run = read_run(folder)
    assert set(codes(run).values()) <= {"DR002", "DR003", "DR004"}
    assert {str(file.relative_to(folder)) for file in spoilt} <= codes(run).keys() | {"monitor.csv"}
    assert run.exit_code == 1


@pytest.mark.parametrize("kind", ["TR104", "contrib"])
def test_files_that_are_empty_yet(kind: str, copy_of: Copy) -> None:
    folder = copy_of(kind)
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert read_run(folder).exit_code <= 1


def test_lines_in_the_middle_are_left_out(copy_of: Copy) -> None:
    folder = copy_of("TR104")
    lines = (folder / "updates.jsonl").read_text().splitlines()
    report = json.loads(lines[0])
    lies = [
        {**report, "kl": "a lot"},
        {**report, "kl": None},
        {**report, "n_updates": 2**60},
        {**report, "layer_dead": [1e400]},
    ]
    lies += [
        {**report, "target_kl": 0.0},
        {**report, "accepted": True},
        {**report, "cg_damping": [[1]]},
        {**report, "kl": True},
    ]
    deep = "[" * 100_000
    bad = [*map(json.dumps, lies), "{}", "null", deep, '{"kl": 1e5', "x" * 2**20]
    (folder / "updates.jsonl").write_text("\n".join([*lines[:5], *bad, *lines[5:]]) + "\n")
    run = read_run(folder)
    (damaged,) = [finding for finding in run.findings if finding.code == "DR003"]
    assert damaged.evidence["rows"] == len(bad)
    assert run.findings[0].code == "TR104"
    assert run.points.seen == len(lines)


def test_figures_that_no_update_has(copy_of: Copy) -> None:
    """A KL of zero in steps that were taken: the monitors would divide by it."""
    folder = copy_of("healthy")
    reports = [json.loads(line) for line in (folder / "updates.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**report, "kl": 0.0, "kl_max": 0.0, "kl_joint": 0.0}) + "\n" for report in reports)
    (folder / "updates.jsonl").write_text(text)
    found = read_run(folder).findings
    assert [finding.code for finding in found] == ["DR003", "TR105"]
    assert found[0].evidence["judgements_left_out"] == 22 - 10


def test_a_row_of_another_length_and_a_checksum(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    lines = (folder / "progress.csv").read_text().splitlines()
    lines[5:5] = ["1,2,3", "," * 2000, 'a"b,"', '"' + "x" * 300_000]
    (folder / "progress.csv").write_text("\n".join(lines) + "\n")
    data = bytearray(events_in(folder).read_bytes())
    data[len(data) // 2] ^= 0xFF
    events_in(folder).write_bytes(bytes(data))
    run = read_run(folder)
    assert codes(run)["progress.csv"] == "DR003"
    assert codes(run)[events_in(folder).name] == "DR003"
    assert run.points.seen


# ---------------------------------------------------------------- made by somebody who means ill


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def test_pickles_are_not_loaded(copy_of: Copy) -> None:
    folder = copy_of("contrib")
    np.save(folder / "kl.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(folder / "evaluations.npz", timesteps=np.array([Evil()], dtype=object), results=np.ones((1, 1)))
    run = read_run(folder)
    assert codes(run) == {"kl.npy": "DR002", "evaluations.npz": "DR002"}
    assert not Path("pwned").exists()


ZOO = """!!python/object/apply:collections.OrderedDict
- - - env
    - CartPole-v1
  - - n_timesteps
    - 1000.0
  - - target_kl
    - 0.02
"""


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        (ZOO, True),
        (ZOO.replace("CartPole-v1", "!!python/object/apply:os.mkdir [pwned]"), False),
        ("!!python/object/apply:os.mkdir [pwned]", False),
        ("!!python/object/apply:collections.OrderedDict 3", False),
        ("!!python/object/apply:collections.OrderedDict [[[[1], 2]]]", False),
        ("!!python/name:os.system", False),
        ("a: &a [*a, *a]\nb: [*a, *a]", False),
        ("[" * 3000, False),
        ("- 1", False),
        (ZOO[:60], False),
        ("x" * 2**20, False),
        ("env: [1]\ntarget_kl: .nan\nn_timesteps: -1", True),
    ],
)
def test_yaml_has_one_tag(text: str, understood: bool) -> None:
    Path("config.yml").write_text(text)
    run = Run(Path())
    read_settings(run, Path())
    assert (run.findings == []) is understood
    assert not Path("pwned").exists()
    assert run.settings == ({"env": "CartPole-v1", "n_timesteps": 1000.0, "target_kl": 0.02} if text == ZOO else {})


def npy(shape: tuple[int, ...], dtype: str = "<f8", data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def test_arrays_that_claim_to_be_huge() -> None:
    Path("kl.npy").write_bytes(npy((10**12,), "<f4"))
    Path("entropy.npy").write_bytes(npy((-1,), "<f4", b"1234"))
    Path("vf_loss.npy").write_bytes(npy((2**33, 2**33, 2), "<f4"))
    with zipfile.ZipFile("evaluations.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("timesteps.npy", npy((2**29,)) + bytes(2**27))
    assert set(codes(read_run(Path())).values()) == {"DR002"}


def test_many_arrays_that_are_large_together() -> None:
    part = npy((2**22,)) + bytes(2**25)
    with zipfile.ZipFile("evaluations.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("timesteps", "results", "more"):
            archive.writestr(f"{name}.npy", part)
    (finding,) = read_run(Path()).findings
    assert "MiB unpacked" in str(finding.evidence["why"])


def test_records_that_claim_to_be_huge() -> None:
    header = struct.pack("<Q", 2**62)
    Path(f"{EVENTS}1").write_bytes(header + struct.pack("<I", masked_crc32c(header)) + GARBAGE)
    assert codes(read_run(Path())) == {f"{EVENTS}1": "DR004"}


def test_pipes_and_links_are_not_followed(copy_of: Copy) -> None:
    folder = copy_of("healthy")
    shutil.move(folder / "updates.jsonl", "elsewhere")
    os.mkfifo(folder / "updates.jsonl")
    os.mkfifo(folder / "alarms.jsonl")
    (folder / "loop").symlink_to(folder)
    run = read_run(folder)
    assert run.points.seen == 22  # of progress.csv


def test_a_file_that_may_not_be_read_leaves_the_others(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of("healthy")
    really = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "updates.jsonl":
            raise PermissionError(13, "Permission denied")
        return really(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    run = read_run(folder)
    assert codes(run)["updates.jsonl"] == "DR002"
    assert run.points.seen == 22  # of progress.csv


@pytest.mark.parametrize("kind", ["TR104", "contrib"])
def test_files_that_may_not_be_read_at_all(kind: str, copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(kind)
    (folder / "monitor.csv").write_text("#{}\nr,l,t\n1.0,10,1.0\n")

    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    run = read_run(folder)
    assert {code for file, code in codes(run).items() if file != "evaluations.npz"} == {"DR002"}
    assert run.exit_code == 1


def test_what_follows_a_damaged_place_in_events_is_found_again() -> None:
    path = Path(f"{EVENTS}1")
    write_events(path, range(100))
    data = path.read_bytes()
    at = len(data) // 3
    path.write_bytes(data[:at] + b"\x01\x02" + bytes(300) + data[at + 100 :])
    run = read_run(Path(), target_kl=0.01)
    assert codes(run) == {path.name: "DR003"}
    assert run.num_timesteps == 256 * 100
    assert run.points.seen > 95


def test_a_file_that_is_cut_off_while_it_is_read_ends() -> None:
    path = Path("lines.txt")
    path.write_text("line\n" * 50_000)
    lines = iter(Lines(path, 10**6, 10**6))
    assert next(lines) == "line"
    os.truncate(path, 10)
    assert len(list(lines)) < 50_000


@pytest.mark.parametrize("text", ["a: &a {k: v}\nb: *a\n", "x: " + "1:" * 250 + "1.5\n"])
def test_a_configuration_that_multiplies_itself_is_refused(text: str) -> None:
    folder = Path("CartPole-v1")
    folder.mkdir()
    (folder / "config.yml").write_text(text)
    run = Run(Path())
    read_settings(run, folder)
    assert [finding.code for finding in run.findings] == ["DR002"]
