"""Workers that leave Ctrl-C to the training; and workers that die: which one, of what, and how the run is resumed."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_trpo_ext import TRPO, Checkpoints, WorkerError
from sb3_trpo_ext.records import signals
from sb3_trpo_ext.sb3.integrity import workers
from sb3_trpo_ext.sb3.integrity.workers import PatientSubprocVecEnv, watch_workers
from sb3_trpo_ext.zoo.cli import run
from tests.sb3.integrity.faulty import guarded_model


class Fragile(gym.Wrapper):
    """An environment that can be told to break."""

    def __init__(self, mood: str = "calm") -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.mood = mood
        if mood == "unmade":
            raise ValueError("no such robot")

    def step(self, action: Any) -> Any:
        if self.mood == "raises":
            raise ValueError("the robot fell apart")
        self.hang()
        return super().step(action)

    def reset(self, **kwargs: Any) -> Any:
        self.hang()
        return super().reset(**kwargs)

    def hang(self) -> None:
        if self.mood == "hangs":
            time.sleep(1000)

    def talk(self) -> bytes:
        """More than fits into a pipe that nobody reads."""
        return b"-" * 10_000_000

    def fork(self) -> int:
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        return child

    def close(self) -> None:
        if self.mood == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.mood in ("does not close", "stubborn"):
            time.sleep(1000)


def make() -> gym.Env[np.ndarray, int]:
    return Monitor(Fragile())


def forked(cls: type = SubprocVecEnv, n_envs: int = 3) -> Any:
    """Of forked workers each holds copies of the others' pipes: the hardest case."""
    return cls([make] * n_envs, start_method="fork")


def kill(env: Any, index: int = 1, number: int = signal.SIGKILL) -> None:
    os.kill(env.unwrapped.processes[index].pid, number)
    env.unwrapped.processes[index].join(5)


class At(BaseCallback):
    """Does something at one step, or when the first rollout is full."""

    def __init__(self, act: Callable[[Any], None], n_calls: int | None = 5) -> None:
        super().__init__()
        self.act, self.at = act, n_calls

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            self.act(self.training_env)
        return True

    def _on_rollout_end(self) -> None:
        if self.at is None:
            self.act(self.training_env)


class KillsWorker(At):
    """For a YAML."""

    def __init__(self) -> None:
        super().__init__(kill, 160)


def test_workers_outlive_ctrl_c_and_end_with_the_training() -> None:
    env = PatientSubprocVecEnv([make, make])
    env.reset()
    for process in env.processes:
        os.kill(process.pid, signal.SIGINT)
    for _ in range(3):
        observations = env.step(np.zeros(2, dtype=np.int64))[0]
        assert observations.shape == (2, 4)
    assert all(process.is_alive() for process in env.processes)
    env.close()
    assert [process.exitcode for process in env.processes] == [0, 0]


CALLS: dict[str, Callable[[Any], Any]] = {
    "step": lambda env: env.step(np.zeros(3, dtype=np.int64)),
    "reset": lambda env: env.reset(),
    "get_attr": lambda env: env.get_attr("spec"),
    "has_attr": lambda env: env.has_attr("spec"),
    "set_attr": lambda env: env.set_attr("mood", "calm"),
    "env_method": lambda env: env.env_method("get_wrapper_attr", "spec"),
    "env_is_wrapped": lambda env: env.env_is_wrapped(Monitor),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_dead_worker_is_named_whatever_is_called_and_nothing_hangs(call: str) -> None:
    env = forked()
    watch_workers(env)
    watch_workers(env)
    env.reset()
    kill(env)
    for _ in range(2):
        with pytest.raises(WorkerError) as raised:
            CALLS[call](env)
        assert str(raised.value) == (
            f"worker 1 (pid {env.processes[1].pid}) was killed by SIGKILL (often the system ran out of memory: use fewer "
            "environments, or smaller ones)."
        )
    env.close()
    env.close()
    assert env.closed
    assert [process.exitcode for process in env.processes] == [0, -signal.SIGKILL, 0]


def test_a_worker_that_dies_while_it_is_waited_for() -> None:
    env = forked()
    watch_workers(env)
    env.reset()
    env.env_method("set_wrapper_attr", "mood", "hangs", indices=[1])
    env.step_async(np.zeros(3, dtype=np.int64))
    os.kill(env.processes[1].pid, signal.SIGUSR1)
    with pytest.raises(WorkerError, match=r"worker 1 \(pid \d+\) was killed by SIGUSR1\.$"):
        env.step_wait()
    env.close()


@pytest.mark.parametrize("cls", [SubprocVecEnv, PatientSubprocVecEnv])
def test_a_training_names_the_worker_and_the_checkpoint(cls: type, tmp_path: Path) -> None:
    env = forked(cls)
    model = guarded_model(env, on_nonfinite="raise", log_folder=str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(WorkerError, match=r"worker 1 \(pid \d+\) was killed by SIGKILL") as raised:
            model.learn(480, callback=[Checkpoints(every_updates=1), At(kill, 40)])
    folder = tmp_path / "checkpoints"
    assert str(raised.value).endswith(
        f"The newest checkpoint is of update 2 (96 steps): TRPO.resume({str(folder)!r}, env=...) resumes from it."
    )
    env.close()
    assert TRPO.resume(folder).num_timesteps == 96


def test_a_worker_that_died_between_two_rollouts_is_the_first_error(tmp_path: Path) -> None:
    """The checkpoint is the first to ask it something."""
    env = forked()
    model = guarded_model(env, on_nonfinite="raise", log_folder=str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(WorkerError, match=r"was killed by SIGKILL.*checkpoints has no whole checkpoint\.$"):
            model.learn(480, callback=[Checkpoints(every_updates=1), At(kill, None)])
    env.close()


def test_a_worker_that_died_after_the_last_step_costs_the_checkpoint_only(tmp_path: Path) -> None:
    env = forked()
    model = guarded_model(env, on_nonfinite="raise", log_folder=str(tmp_path))
    with pytest.warns(UserWarning, match=r"a checkpoint can't be written .*worker 1 .*; training is over"):
        model.learn(48, callback=[Checkpoints(), At(kill, None)])
    assert model.num_timesteps == 48
    env.close()


def test_a_worker_of_the_evaluation() -> None:
    env, evaluated = forked(n_envs=2), forked(n_envs=2)
    callback = EvalCallback(evaluated, n_eval_episodes=2, eval_freq=8, verbose=0, warn=False)
    with pytest.raises(WorkerError, match=r"worker 1 \(pid \d+\) of the evaluation was killed by SIGKILL"):
        guarded_model(env, on_nonfinite="raise").learn(64, callback=[At(lambda _: kill(evaluated)), callback])
    env.close()
    evaluated.close()


def test_an_environment_that_raises_in_its_worker(capfd: pytest.CaptureFixture[str]) -> None:
    env = forked()

    def break_it(env: Any) -> None:
        env.env_method("set_wrapper_attr", "mood", "raises", indices=[2])

    with pytest.raises(WorkerError, match=r"worker 2 \(pid \d+\) ended with exit code 1 \(its environment raised an exc"):
        guarded_model(env, on_nonfinite="raise").learn(64, callback=At(break_it))
    assert "ValueError: the robot fell apart" in capfd.readouterr().err
    env.close()


def test_an_environment_that_cannot_be_made() -> None:
    with pytest.raises(WorkerError, match=r"worker 0 \(pid \d+\) ended with exit code 1"):
        PatientSubprocVecEnv([lambda: Fragile("unmade")] * 2, start_method="fork")


HANGING: dict[str, Callable[[Any], Any]] = {
    "step": lambda env: env.step_async(np.zeros(3, dtype=np.int64)),
    "reset": lambda env: env.remotes[1].send(("reset", (None, {}))),
    "env_method": lambda env: env.remotes[1].send(("env_method", ("hang", (), {}))),
    "a full pipe": lambda env: env.remotes[1].send(("env_method", ("talk", (), {}))),
}


@pytest.mark.parametrize("call", HANGING)
def test_closing_does_not_wait_for_a_worker_that_hangs(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWERS_WITHIN", 0.5)
    env = forked()
    watch_workers(env)
    env.reset()
    env.env_method("set_wrapper_attr", "mood", "hangs", indices=[1])
    HANGING[call](env)
    begun = time.monotonic()
    env.close()
    assert time.monotonic() - begun < 5
    assert [process.exitcode for process in env.processes] == [0, 0 if call == "a full pipe" else -signal.SIGTERM, 0]


@pytest.mark.parametrize("mood", ["does not close", "stubborn"])
def test_an_environment_that_does_not_close_is_ended(mood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOSED_WITHIN", "ENDED_WITHIN"):
        monkeypatch.setattr(workers, name, 0.5)
    env = forked()
    watch_workers(env)
    env.reset()
    env.env_method("set_wrapper_attr", "mood", mood, indices=[1])
    begun = time.monotonic()
    env.close()
    assert time.monotonic() - begun < 5
    code = -signal.SIGKILL if mood == "stubborn" else -signal.SIGTERM
    assert [process.exitcode for process in env.processes] == [0, code, 0]


def test_a_subclass_that_closes_in_its_own_way_does_so() -> None:
    class Own(SubprocVecEnv):
        def close(self) -> None:
            self.said = "goodbye"
            super().close()

    env = forked(Own)
    watch_workers(env)
    env.reset()
    env.close()
    assert env.said == "goodbye"


def test_a_dead_worker_is_found_though_a_child_of_its_own_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentinel, and its end of the pipe, are open in the child."""
    monkeypatch.setattr(workers, "LOOKS_EVERY", 50)
    env = forked()
    watch_workers(env)
    env.reset()
    [child] = env.env_method("fork", indices=[1])
    try:
        kill(env)
        with pytest.raises(WorkerError, match=r"worker 1 .* was killed by SIGKILL"):
            env.reset()
    finally:
        os.kill(child, signal.SIGKILL)
        env.close()


def test_workers_that_receive_sigterm_with_the_training(tmp_path: Path) -> None:
    env = forked()

    def stop(env: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        kill(env, 1, signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        guarded_model(env, on_nonfinite="raise", log_folder=str(tmp_path)).learn(480, callback=[Checkpoints(), At(stop)])
    assert ended.value.code == 143
    env.close()


def test_a_stop_while_a_worker_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", 0.3)
    monkeypatch.setattr(workers, "ANSWERS_WITHIN", 0.3)
    env = forked()

    def hang(env: Any) -> None:
        env.env_method("set_wrapper_attr", "mood", "hangs", indices=[1])
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        guarded_model(env, on_nonfinite="raise", log_folder=str(tmp_path)).learn(480, callback=[Checkpoints(), At(hang)])
    env.close()
    assert env.processes[1].exitcode == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_every_start_method(method: str) -> None:
    env = SubprocVecEnv([make] * 3, start_method=method)
    with pytest.raises(WorkerError, match=r"worker 1 \(pid \d+\) was killed by SIGKILL"):
        guarded_model(env, on_nonfinite="raise").learn(480, callback=At(kill, 40))
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("eval_freq", ["-1", "100"])
def test_on_the_command_line_it_is_one_line(eval_freq: str, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [
        "train",
        "--env",
        "CartPole-v1",
        "--vec-env",
        "subproc",
        "--verbose",
        "0",
        "--checkpoint-every",
        "1",
        "-n",
        "2000",
    ]
    entry = ["n_envs:2", "n_steps:64", "batch_size:128", f"callback:'{KillsWorker.__module__}.KillsWorker'"]
    assert run([*flags, "--eval-freq", eval_freq, "--eval-episodes", "1", "-params", *entry]) == 1
    said = capfd.readouterr().err
    [line] = [line for line in said.splitlines() if "training has ended" in line]
    assert line.startswith("sb3_trpo_ext: training has ended: worker 1 (pid ")
    assert "The newest checkpoint is of update 2 (256 steps): `python -m sb3_trpo_ext train --env CartPole-v1 --resume" in line
    assert "Traceback" not in said
    assert "can't be written" not in said
