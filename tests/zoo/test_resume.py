"""``python -m sb3_trpo_ext train … --resume``, as a person uses it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import sb3_trpo_ext
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.checkpoints.files import newest_whole, read_manifest, write_checkpoint
from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.plan import make_plan
from sb3_trpo_ext.zoo.resumed import read_resumed
from tests.sb3.checkpoints.restorable import numbers
from tests.sb3.checkpoints.test_checkpoint_lock import holder

TASK = "Pendulum-v1"
COMMAND = [
    *(
        "train",
        "--env",
        TASK,
        "-n",
        "3072",
        "--eval-freq",
        "1000",
        "--eval-episodes",
        "1",
        "--verbose",
        "0",
        "--checkpoint-every",
        "1",
    ),
    *("-params", "n_steps:128", "n_envs:2", "normalize:True", "learning_rate:'lin_0.001'", "batch_size:64", "use_sde:True"),
]


def cut_back(folder: Path, at: int) -> None:
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("update_")) > at:
            shutil.rmtree(path)


def rows(path: Path) -> list[list[str]]:
    return [line.split(",")[:2] for line in path.read_text().splitlines()[1:]]


def test_goes_on_in_the_same_folder_to_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    keep = ["callback:[{'sb3_trpo_ext.Checkpoints': {'every_updates': 1, 'keep_last': 100}}]"]
    assert run([*COMMAND, *keep, "-f", "whole", "-tb", "whole/tb"]) == 0
    shutil.copytree("whole", "resumed")
    whole, resumed = (Path(name, "trpo", f"{TASK}_1") for name in ("whole", "resumed"))
    cut_back(resumed, 5)
    capsys.readouterr()
    assert run([*COMMAND, *keep, "-f", "resumed", "-tb", "resumed/tb", "--resume"]) == 0
    assert f"{TASK}_1 resumes after update 5 (1280 of 3072 steps)" in capsys.readouterr().out
    assert sorted(path.name for path in resumed.parent.iterdir()) == [f"{TASK}_1"]
    models = [TRPO.load(folder / f"{TASK}.zip") for folder in (whole, resumed)]
    assert torch.equal(*map(numbers, models))
    assert [model.num_timesteps for model in models] == [3072, 3072]
    for name in ("progress.csv", "updates.jsonl", "advantages.npy"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    for index in (0, 1):
        assert rows(whole / f"{index}.monitor.csv") == rows(resumed / f"{index}.monitor.csv")
    first, second = (dict(np.load(folder / "evaluations.npz")) for folder in (whole, resumed))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    seeds = [yaml.unsafe_load((folder / TASK / "args.yml").read_text())["seed"] for folder in (whole, resumed)]
    assert seeds[0] == seeds[1]
    capsys.readouterr()
    assert run([*COMMAND, *keep, "-f", "resumed", "-tb", "resumed/tb", "--resume"]) == 0
    assert f"{TASK}_1 has done all of its steps (3072 of 3072): nothing is trained" in capsys.readouterr().out
    assert (whole / "updates.jsonl").read_bytes() == (resumed / "updates.jsonl").read_bytes()
    assert torch.equal(*map(numbers, [models[0], TRPO.load(resumed / f"{TASK}.zip")]))


def test_what_runs_is_what_the_run_began_with_and_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["train", "--env", TASK, "--eval-freq", "-1", "--checkpoint-every", "1", "--conf-file", "mine.yml"]
    entry = {"n_timesteps": 512, "policy": "MlpPolicy", "n_steps": 128, "target_kl": 0.02, "kl_reduction": "joint"}
    Path("mine.yml").write_text(yaml.dump({TASK: entry}))
    assert run(short) == 0
    folder = Path("logs/trpo", f"{TASK}_1")
    saved = (folder / TASK / "config.yml").read_text()
    cut_back(folder, 2)
    # Since then somebody has edited the file, and what it says is impossible.
    Path("mine.yml").write_text(yaml.dump({TASK: {**entry, "target_kl": -1.0, "n_envs": 3, "n_timesteps": 99}}))
    capsys.readouterr()
    assert run([*short, "--resume", "-params", "gamma:0.5"]) == 0
    said = capsys.readouterr()
    assert f"{TASK}_1 resumes after update 2 (256 of 512 steps), with the hyperparameters that it began with" in said.out
    shown = said.out.partition(f"Hyperparameters of the run, from {folder / TASK / 'config.yml'}:")[2]
    assert "('target_kl', 0.02)" in shown
    assert (
        "not applied: gamma=0.5 (the run has none), n_envs=3 (the run has none), target_kl=-1.0 (the run has 0.02)" in said.err
    )
    model = TRPO.load(folder / f"{TASK}.zip")
    assert (model.num_timesteps, model.target_kl, model.gamma) == (512, 0.02, 0.99)
    assert (folder / TASK / "config.yml").read_text() == saved
    # The total is what is asked for now, and a file that is none is nobody's concern.
    Path("mine.yml").write_text("][")
    assert run([*short, "--resume", "-n", "640"]) == 0
    said = capsys.readouterr()
    assert "resumes after update 4 (512 of 640 steps)" in said.out
    assert "not applied" not in said.err
    assert TRPO.load(folder / f"{TASK}.zip").num_timesteps == 640


@pytest.mark.parametrize("content", [None, "][", "- 1", "a: 1", "!!python/object/apply:os.system ['touch called']"])
def test_settings_that_cannot_be_read(content: str | None) -> None:
    Path("run", TASK).mkdir(parents=True)
    if content is not None:
        Path("run", TASK, "config.yml").write_text(content)
    assert read_resumed(Path("run"), TASK) is None
    assert not Path("called").exists()


def test_nothing_to_resume_begins_a_new_run(capsys: pytest.CaptureFixture[str]) -> None:
    plan, rest = make_plan(["--env", TASK, "--resume", "-f", "nowhere"])
    assert (plan.run, plan.resumed, rest) == (None, None, ["--env", TASK, "-f", "nowhere"])
    assert "the log folder holds no checkpoint of this environment: a new run begins" in capsys.readouterr().err


def test_none_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Path("logs/trpo/Pendulum-v1_3/checkpoints/update_000002").mkdir(parents=True)
    assert run(["train", "--env", TASK, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "no checkpoint of logs/trpo/Pendulum-v1_3 is whole (update_000002: manifest.json is missing)" in error


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--checkpoint-every", "foo"], "argument --checkpoint-every: 'foo' must be a whole number of updates, or 0"),
        (["--checkpoint-every", "-3"], "argument --checkpoint-every: '-3' must be a whole number of updates, or 0"),
        (["--checkpoint-every"], "argument --checkpoint-every: expected one argument"),
        (["--resume", "nosuchfolder"], "--resume nosuchfolder: is not a directory"),
        (["--resume", "logs"], "--resume logs: holds no checkpoint"),
        (["--resume", f"logs/trpo/{TASK}_1"], f"is a run of {TASK}; this is --env CartPole-v1"),
    ],
    ids=["no number", "negative", "nothing", "no folder", "no checkpoints", "another environment's"],
)
def test_what_cannot_be_meant_is_one_line(capsys: pytest.CaptureFixture[str], flags: list[str], error: str) -> None:
    Path(f"logs/trpo/{TASK}_1/checkpoints/update_000002").mkdir(parents=True)
    Path(f"logs/trpo/{TASK}_1/{TASK}").mkdir()
    Path(f"logs/trpo/{TASK}_1/{TASK}/args.yml").touch()
    assert run(["train", *flags]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


def test_a_run_that_is_still_trained(capsys: pytest.CaptureFixture[str]) -> None:
    about = {"num_timesteps": 2, "total_timesteps": 9}
    folder = Path("logs/trpo/Pendulum-v1_1/checkpoints")
    write_checkpoint(folder, 2, {"model.zip": b"-", "state.pkl": b"-"}, about)
    with holder(folder) as other:
        assert run(["train", "--env", TASK, "--resume"]) == 2
        other.kill()
    said = capsys.readouterr()
    assert "another process trains in this run's folder" in said.err
    assert not said.out


def test_only_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--algo", "ppo", "--env", TASK, "--resume"]) == 2
    assert "--resume goes on with trpo only; this is --algo ppo" in capsys.readouterr().err


def test_help_lists_our_flags_and_the_zoos(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["train", "-h"])
    out = capsys.readouterr().out
    assert "--resume [RUN_FOLDER]" in out
    assert "--n-timesteps" in out


def started(*more: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sb3_trpo_ext", *COMMAND, "-n", "1000000", "--seed", "1", *more]
    # In a group of its own, which is sent signals as by a terminal. A shell's background jobs ignore Ctrl-C, and so does what
    # they start: tests that ran in one waited here for ever.
    heeding_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environ, start_new_session=True, preexec_fn=heeding_ctrl_c, **pipes)  # type: ignore[call-overload]


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while newest_whole(folder)[0] is None:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "more"),
    [
        pytest.param(signal.SIGTERM, [], id="SIGTERM"),
        pytest.param(signal.SIGINT, [], id="Ctrl-C", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, ["--vec-env", "subproc"], id="Ctrl-C, workers", marks=pytest.mark.slow),
    ],
)
def test_a_signal_finishes_the_update(number: signal.Signals, more: list[str]) -> None:
    process, folder = started("-f", "logs", *more), Path("logs/trpo", f"{TASK}_1")
    try:
        wait_for_checkpoint(folder, process)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + number, out
    assert "stopping after this update, with a checkpoint (forced after " in out
    assert f"resume this run with `python -m sb3_trpo_ext train --env {TASK} --resume {folder}`" in out
    found, passed_over = newest_whole(folder)
    assert found is not None
    assert not passed_over
    updates = (folder / "updates.jsonl").read_text().count("\n")
    assert (found.n_updates, found.about["num_timesteps"]) == (updates, updates * 256)
    assert (folder / f"{TASK}.zip").exists()
    assert read_manifest(found.path)["build"]["torch"] == version("torch")  # PyPI's CUDA build bears no local tag there
    assert "Traceback" not in out


def test_wandbs_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "")  # so that both are put back
    monkeypatch.setenv("WANDB_RESUME", "")
    about: dict[str, Any] = {"wandb_run": "abc123", "seed": 4, "num_timesteps": 2, "total_timesteps": 9}
    write_checkpoint(Path("logs/trpo/Pendulum-v1_1/checkpoints"), 2, {"model.zip": b"-", "state.pkl": b"-"}, about)
    plan, rest = make_plan(["--env", TASK, "--resume", "--track"])
    assert (plan.run, rest[-4:]) == (Path("logs/trpo/Pendulum-v1_1"), ["--seed", "4", "-n", "9"])
    assert (os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"]) == ("abc123", "allow")
