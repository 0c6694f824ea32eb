"""Whatever fails, at whatever point of a training: the first error is the one that is shown; no callback of ours adds one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

import sb3_trpo_ext
from sb3_trpo_ext import monitoring
from sb3_trpo_ext.monitoring.monitor import Monitor
from sb3_trpo_ext.monitoring.quiet_list import QuietList
from sb3_trpo_ext.monitoring.wandb import WandbRun
from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.endings import first_raised
from tests.sb3.spaces import make_model

POINTS = ("_init_callback", "_on_training_start", "_on_rollout_start", "_on_step", "_on_rollout_end", "_on_training_end")
ARGUMENTS: dict[str, tuple[Any, ...]] = {"QuietList": ([],)}


class Failed(Exception):
    """The first error."""


class Fails(BaseCallback):
    """Fails at one point."""

    def __init__(self, at: str = "_on_training_start") -> None:
        super().__init__()
        if at in POINTS:
            setattr(self, at, self.fail)

    def fail(self) -> None:
        raise Failed

    def _on_step(self) -> bool:
        return True


def ours() -> dict[str, type[BaseCallback]]:
    """Every class of callback in the package that can be made."""
    for room in ("monitoring", "sb3"):
        package = importlib.import_module(f"sb3_trpo_ext.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")

    def below(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield from (each, *below(each))

    found = {cls.__name__: cls for cls in below(BaseCallback) if cls.__module__.startswith(f"{sb3_trpo_ext.__name__}.")}
    return {name: cls for name, cls in found.items() if cls is not Monitor}


OURS = ours()


@pytest.fixture(autouse=True)
def _without_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandbRun, "open", lambda _: None)


def make(name: str) -> BaseCallback:
    return OURS[name](*ARGUMENTS.get(name, ()))


def end(callback: BaseCallback) -> None:
    """As the RL Zoo does, whatever has happened before."""
    for _ in range(2):
        callback.on_training_end()


def test_none_is_forgotten() -> None:
    named = {name for name in monitoring.__all__ if isinstance(getattr(monitoring, name), type)}
    callbacks = {name for name in named if issubclass(getattr(monitoring, name), BaseCallback)} - {"Monitor"}
    assert callbacks | {"Checkpoints", "ProgressDescription", "TensorBoardLayout", "QuietList"} <= OURS.keys()


@pytest.mark.parametrize("name", OURS)
def test_an_end_without_a_beginning(name: str) -> None:
    end(make(name))
    assert list(Path().iterdir()) == []  # nothing was trained, so nothing is left behind


@pytest.mark.parametrize("name", OURS)
def test_an_end_after_a_model_that_was_refused(name: str) -> None:
    callback, model = make(name), PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with suppress(TypeError):
        callback.init_callback(model)
    end(callback)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
@pytest.mark.parametrize("point", POINTS)
def test_the_error_of_another_is_the_one_that_is_raised(point: str, first: bool, tmp_path: Path) -> None:
    callbacks = [make(name) for name in OURS]
    if not first:
        callbacks[:0] = [Fails(point)]
    else:
        callbacks.append(Fails(point))
    model = make_model(n_steps=16, batch_size=32, log_folder=str(tmp_path))
    with pytest.raises(Failed) as raised:
        model.learn(64, callback=CallbackList(callbacks))
    assert raised.value.__context__ is None
    for callback in callbacks:
        if not isinstance(callback, Fails):
            end(callback)


def test_a_run_without_a_folder_stays_the_first_error() -> None:
    callback = make("Checkpoints")
    with pytest.raises(ValueError, match="this run logs nothing, so it has no folder"):
        make_model(n_steps=16, batch_size=32).learn(32, callback=callback)
    end(callback)


@pytest.mark.parametrize("progress", [[], ["-P"]], ids=["no bar", "SB3's bar"])
def test_on_the_command_line(progress: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """SB3's progress bar, the first of the Zoo's callbacks, has no bar yet where the training has not begun."""

    def configure(*_: Any) -> None:
        raise Failed

    monkeypatch.setattr("stable_baselines3.common.utils.configure_logger", configure)
    with pytest.raises(Failed) as raised:
        run(["train", "--env", "CartPole-v1", "-n", "64", "--eval-freq", "-1", "--verbose", "0", *progress])
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_the_first_of_several_errors_is_found() -> None:
    def learn() -> None:
        try:
            raise KeyError("what it came from")
        except KeyError as error:
            raise Failed from error

    def clean_up() -> None:
        try:
            raise ValueError("in the cleaning up")
        except ValueError:
            raise AttributeError("pbar")  # noqa: B904

    def train() -> None:
        try:
            learn()
        finally:
            clean_up()

    with pytest.raises(AttributeError) as raised:
        train()
    assert isinstance(first_raised(raised.value, learn), Failed)  # type: ignore[arg-type]
    other = ValueError("of something else")
    assert first_raised(other, learn) is other  # type: ignore[arg-type]


def test_a_quiet_list_ends_what_is_in_it() -> None:
    callback = QuietList([make("KLMonitor"), make("FlightRecorder")])
    end(callback)
