"""``--resume`` of a run that has done all of its steps leaves every file as it is, or makes good what is missing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import sb3_contrib
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.checkpoints.files import checkpoints_in
from sb3_trpo_ext.sb3.checkpoints.model_files import statistics_in
from sb3_trpo_ext.zoo.cli import run
from tests.sb3.checkpoints.restorable import numbers
from tests.zoo.widening import TASK

RUN = Path("logs/trpo", f"{TASK}_1")
FINAL, BESIDE = RUN / f"{TASK}.zip", RUN / TASK / "vecnormalize.pkl"
TRAIN = [
    *("train", "--env", TASK, "--eval-freq", "256", "--eval-episodes", "1", "--save-freq", "256", "--verbose", "0"),
    *("--seed", "1", "-tb", "logs/tb", "-params", "n_steps:128", "n_envs:1", "normalize:True", "batch_size:64"),
]


def files() -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in Path().rglob("*") if path.is_file()}


def enjoyed(capsys: pytest.CaptureFixture[str], *which: str) -> str:
    capsys.readouterr()
    assert run(["enjoy", "--env", TASK, "--no-render", "-n", "40", "--device", "cpu", *which]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Mean reward"))


def counts(path: Path) -> list[float]:
    statistics = pickle.loads(path.read_bytes())
    return [float(statistics.obs_rms.count), float(statistics.obs_rms.mean[0]), float(statistics.ret_rms.count)]


def test_not_a_byte_changes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "")
    assert run([*TRAIN, "-n", "512"]) == 0
    before, shown = files(), enjoyed(capsys)
    assert counts(BESIDE)[0] > 512
    assert 90 < counts(BESIDE)[1] < 110
    for more in (["-n", "512"], ["-n", "300"], [], ["-n", "512", "-P", "--track"], ["-n", "512", "--vec-env", "subproc"]):
        assert run([*TRAIN, *more, "--resume"]) == 0
        assert "has done all of its steps (512 of" in capsys.readouterr().out
        assert files() == before
    assert run([*TRAIN, "-n", "512", "--resume", str(RUN)]) == 0
    assert files() == before
    assert enjoyed(capsys) == shown
    assert not os.environ["WANDB_RUN_ID"]
    # More steps go on, and from the same statistics.
    assert run([*TRAIN, "-n", "640", "--resume"]) == 0
    assert counts(BESIDE)[0] == pytest.approx(641, abs=0.01)
    assert TRPO.load(FINAL).num_timesteps == 640


def test_what_the_settings_say_is_a_number_of_steps_too(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--env", TASK, "--eval-freq", "-1", "-params", "n_steps:128", "n_timesteps:256", "normalize:True"]
    assert run(command) == 0
    before = files()
    assert run([*command, "-n", "-1", "--resume"]) == 0
    assert "has done all of its steps (256 of 256): nothing is trained; use a larger" in capsys.readouterr().out
    assert files() == before


def _lost(path: Path) -> None:
    path.unlink()


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def _of_an_older_version(path: Path) -> None:
    """Whose ``--resume`` has spoilt the statistics."""
    sb3_contrib.TRPO.save(TRPO.load(path), path)
    VecNormalize(make_vec_env(TASK)).save(str(BESIDE))


@pytest.mark.parametrize(
    ("spoil", "stack"),
    [
        (_of_an_older_version, ["frame_stack:2"]),
        pytest.param(_of_an_older_version, [], marks=pytest.mark.slow),
        pytest.param(_lost, [], marks=pytest.mark.slow),
        pytest.param(_lost, ["frame_stack:2"], marks=pytest.mark.slow),
        pytest.param(_cut_off, [], marks=pytest.mark.slow),
    ],
)
def test_what_a_kill_or_an_older_version_has_left_is_made_good(
    spoil: Any, stack: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, *stack, "-n", "256"]
    assert run(command) == 0
    whole, there, shown = numbers(TRPO.load(FINAL)), counts(BESIDE), enjoyed(capsys)
    spoil(FINAL)
    # The checkpoint before the last one is not needed for it.
    assert len(checkpoints_in(RUN / "checkpoints")) == 1
    assert run([*command, "--resume"]) == 0
    assert "(256 of 256): nothing is trained, its model is saved again" in capsys.readouterr().out
    assert torch.equal(numbers(TRPO.load(FINAL)), whole)
    assert counts(BESIDE) == there
    assert statistics_in(FINAL) == BESIDE.read_bytes()
    assert enjoyed(capsys) == shown
    before = files()
    assert run([*command, "--resume"]) == 0
    assert files() == before
