"""Files made by somebody who means ill: no pickle, no tag but one, no claim believed, no link or pipe followed."""

import io
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.zoo_files import read_settings
from tests.doctor.spoilt import GARBAGE, codes

Copy = Callable[[str], Path]


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


@pytest.mark.parametrize("text", ["a: &a {k: v}\nb: *a\n", "x: " + "1:" * 250 + "1.5\n"])
def test_a_configuration_that_multiplies_itself_is_refused(text: str) -> None:
    folder = Path("CartPole-v1")
    folder.mkdir()
    (folder / "config.yml").write_text(text)
    run = Run(Path())
    read_settings(run, folder)
    assert [finding.code for finding in run.findings] == ["DR002"]


def test_settings_take_bounded_time() -> None:
    """YAML takes 10 microseconds a byte: of twenty folders full of it one is read, and that is small."""
    for number in range(20):
        Path(f"{number}").mkdir()
        Path(f"{number}/args.yml").write_text("[" + "{a: 1}, " * 30_000 + "]")
    began = time.process_time()
    run = read_run(Path())
    assert time.process_time() - began < 1.0
    assert codes(run) == {"0/args.yml": "DR002"}


def test_an_archive_with_a_long_table_of_contents() -> None:
    with zipfile.ZipFile("evaluations.npz", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.npy", b"")
        archive.comment = b"x" * 60_000
    Path("evaluations.npz").write_bytes(bytes(2**23) + Path("evaluations.npz").read_bytes())
    (finding,) = read_run(Path()).findings
    assert "larger than 8 MiB" in str(finding.evidence["why"])


def test_a_link_to_somebody_elses_dumps_is_not_followed(copy_of: Copy) -> None:
    shutil.copytree(copy_of("TR104") / "dumps", "theirs")
    folder = copy_of("healthy")
    shutil.rmtree(folder / "dumps", ignore_errors=True)
    (folder / "dumps").symlink_to(Path("theirs").absolute())
    assert read_run(folder).findings == []
