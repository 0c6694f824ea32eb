"""SIGTERM and Ctrl-C while something other than a training step runs: it ends, and what is said has happened."""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.records import signals
from sb3_trpo_ext.sb3.checkpoints.files import newest_whole
from sb3_trpo_ext.zoo.cli import run
from tests.sb3.integrity.faulty import guarded_model

TASK = "Pendulum-v1"
PATIENCE = 0.3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", PATIENCE)
    monkeypatch.setattr(signals, "LOOKS_EVERY", 0.02)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing may be forced, however busy the machine is."""
    monkeypatch.setattr(signals, "PATIENCE", 60.0)


def made() -> gym.Env[Any, Any]:
    return Monitor(gym.make(TASK))


class Signals(BaseCallback):
    """Sends a signal to itself at a step, then stays there."""

    def __init__(self, at: int = 40, number: int = signal.SIGTERM, stays: bool = True) -> None:
        super().__init__()
        self.at, self.number, self.stays = at, number, stays

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            os.kill(os.getpid(), self.number)
            while self.stays:
                time.sleep(0.05)
        return True


class Slow(gym.Wrapper):
    """An environment with all the time in the world, once somebody evaluates in it."""

    def step(self, action: Any) -> Any:
        time.sleep(0.02)
        return super().step(action)


def train(folder: Path, *callbacks: BaseCallback, **kwargs: Any) -> TRPO:
    model = guarded_model(DummyVecEnv([made]), on_nonfinite="raise", log_folder=str(folder))
    model.learn(160, callback=[Checkpoints(**{"every_updates": 1, **kwargs}), *callbacks])
    return model


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("TRPO: ")]


@pytest.mark.usefixtures("_patient")
def test_in_the_middle_of_a_rollout_it_is_finished_and_what_is_said_is_true(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, Signals(stays=False))
    assert ended.value.code == 143
    first, last = said(capfd)
    assert "stopping after this update, with a checkpoint (forced after " in first
    assert last == "TRPO: training stopped after update 3, at step 48. The newest checkpoint is of update 3 (48 steps)."
    found, _ = newest_whole(tmp_path)
    assert found is not None
    assert found.n_updates == 3


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_in_a_callback(number: int, kind: type[BaseException], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(kind) as ended:
        train(tmp_path, Signals(number=number))
    assert kind is KeyboardInterrupt or ended.value.code == 143  # type: ignore[attr-defined]
    _, forced, last = said(capfd)
    assert forced == "TRPO: no training step was made for 0.3 s: the training is stopped where it is"
    assert last == "TRPO: training stopped after update 2, at step 40. The newest checkpoint is of update 2 (32 steps)."
    assert TRPO.resume(tmp_path).num_timesteps == 32
    assert signal.getsignal(number) == before


def test_before_the_first_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, Signals(at=8))
    assert said(capfd)[-1] == (
        f"TRPO: training stopped after update 0, at step 8. {tmp_path}/checkpoints has no whole checkpoint."
    )


def test_in_an_evaluation(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(Slow(gym.make(TASK)))])
    callback = EvalCallback(env, n_eval_episodes=1000, eval_freq=20, verbose=0)
    with pytest.raises(SystemExit):
        train(tmp_path, Signals(at=20, stays=False), callback)


@pytest.mark.usefixtures("_patient")
def test_a_checkpoint_that_cannot_be_written_is_not_announced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("sb3_trpo_ext.sb3.checkpoints.callback.write_checkpoint", full)
    with pytest.warns(UserWarning, match="no space left.*; training stops$"), pytest.raises(SystemExit):
        train(tmp_path, Signals(stays=False), every_updates=100)
    assert said(capfd)[-1].endswith("has no whole checkpoint.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_the_command_line_the_model_is_saved(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["train", "--env", TASK, "--verbose", "0", "--checkpoint-every", "1", "-n", "1280", "--eval-freq", "-1"]
    callback = f"callback:{{'{Signals.__module__}.Signals': {{'at': 300, 'number': {number:d}}}}}"
    with pytest.raises(SystemExit) as ended:
        run([*flags, "-params", "n_steps:128", "n_envs:1", callback])
    assert ended.value.code == 128 + number
    err = capfd.readouterr().err
    folder = Path("logs/trpo", f"{TASK}_1")
    assert "training stopped after update 2, at step 300. The newest checkpoint is of update 2 (256 steps)." in err
    assert f"resume this run with `python -m sb3_trpo_ext train --env {TASK} --resume {folder}`" in err
    assert TRPO.load(folder / f"{TASK}.zip").num_timesteps == 300
    assert "Traceback" not in err


def test_what_must_be_finished_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stop is forced while values, an update or a checkpoint are computed, however long that takes."""
    seen: dict[str, Any] = {}
    checkpoints = Checkpoints(every_updates=1)

    def noting(module: str, name: str) -> None:
        honest = getattr(importlib.import_module(module), name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            seen[name] = checkpoints._progress()
            return honest(*args, **kwargs)

        monkeypatch.setattr(f"{module}.{name}", noted)

    noting("sb3_trpo_ext.sb3.collect.rollout", "predict_values")
    noting("sb3_trpo_ext.sb3.trpo", "update_policy")
    noting("sb3_trpo_ext.sb3.checkpoints.callback", "write_checkpoint")
    noting("sb3_trpo_ext.sb3.collect.rollout", "refuse_non_finite")
    guarded_model(DummyVecEnv([made]), on_nonfinite="raise", log_folder=str(tmp_path)).learn(32, callback=checkpoints)
    assert seen == {"predict_values": None, "update_policy": None, "write_checkpoint": None, "refuse_non_finite": (31, 1)}
