"""Which callbacks let our loop collect, and that none that works with sb3-contrib reads a wrong number from ours."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from rl_zoo3.callbacks import RawStatisticsCallback, SaveVecNormalizeCallback, TrialEvalCallback
from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from wandb.integration.sb3 import WandbCallback

from sb3_trpo_ext import TooEarlyError, monitoring
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.monitoring.monitor import Monitor
from sb3_trpo_ext.sb3.collect.callback_needs import KNOWN, what_needs_sb3_loop
from sb3_trpo_ext.sb3.trpo import ACTOR_ALONE
from tests.sb3.spaces import Nothing, collect, make_env, make_model


class Undeclared(BaseCallback):
    def _on_step(self) -> bool:
        return True


class SaysThatItReads(Nothing):
    reads_step_values = True

    def _on_step(self) -> bool:
        return True


class InheritsTheDeclaration(Nothing):
    def _on_step(self) -> bool:
        return bool(self.locals["values"].isfinite().all())


class OfAnEvaluation(EvalCallback):
    def _on_step(self) -> bool:
        return super()._on_step()


class OfAMonitor(TrustRegionMonitor):
    pass


class Holds(EventCallback):
    reads_step_values = False


class HoldsInItsOwnWay(Nothing):
    reads_step_values = False

    def __init__(self, child: BaseCallback) -> None:
        super().__init__()
        self.children = {"one": [child], "two": child}

    def _on_step(self) -> bool:
        return self.children["two"].on_step()


def reads_values(self: BaseCallback) -> bool:
    return "values" in self.locals


def patched() -> BaseCallback:
    callback = StopTrainingOnMaxEpisodes(5)
    callback._on_step = types.MethodType(reads_values, callback)
    return callback


FREE: list[Callable[[], BaseCallback]] = [
    Nothing,
    lambda: HoldsInItsOwnWay(Nothing()),
    lambda: ConvertCallback(None),
    lambda: CheckpointCallback(10, "models"),
    lambda: EveryNTimesteps(10, CheckpointCallback(10, "models")),
    lambda: StopTrainingOnMaxEpisodes(5),
    lambda: EvalCallback(make_env(n_envs=1), callback_on_new_best=StopTrainingOnRewardThreshold(1.0)),
    lambda: EvalCallback(make_env(n_envs=1), callback_after_eval=StopTrainingOnNoModelImprovement(3)),
    ProgressBarCallback,
    RawStatisticsCallback,
    lambda: SaveVecNormalizeCallback(1, "models"),
    lambda: CallbackList([Nothing(), CallbackList([Nothing()])]),
    TrustRegionMonitor,
]
MAY_READ = "may read values at each step (unless its class says reads_step_values = False)"
BOUND: dict[Callable[[], BaseCallback], str] = {
    Undeclared: f"callback Undeclared {MAY_READ}",
    SaysThatItReads: f"callback SaysThatItReads {MAY_READ}",
    InheritsTheDeclaration: f"callback InheritsTheDeclaration {MAY_READ}",
    lambda: OfAnEvaluation(make_env(n_envs=1)): f"callback OfAnEvaluation {MAY_READ}",
    OfAMonitor: f"callback OfAMonitor {MAY_READ}",
    patched: "callback StopTrainingOnMaxEpisodes has a method that was put on this one object",
    lambda: ConvertCallback(lambda locals_, globals_: True): "a function is called with all local variables",
    # SB3's own function, in a ConvertCallback.
    lambda: LogEveryNTimesteps(10): "callback LogEveryNTimesteps",
    lambda: HoldsInItsOwnWay(Undeclared()): "callback Undeclared",
    lambda: CallbackList([Nothing(), CallbackList([Undeclared()])]): "callback Undeclared",
    lambda: EveryNTimesteps(10, Undeclared()): "callback Undeclared",
    lambda: Holds(Undeclared()): "callback Undeclared",
    lambda: EvalCallback(make_env(n_envs=1), callback_after_eval=Undeclared()): "callback Undeclared",
    lambda: EvalCallback(make_env(n_envs=1), callback_on_new_best=Undeclared()): "callback Undeclared",
}


@pytest.mark.parametrize("make", FREE)
def test_these_are_known_to_read_no_step_values(make: Callable[[], BaseCallback]) -> None:
    assert what_needs_sb3_loop(make()) is None


@pytest.mark.parametrize(("make", "words"), BOUND.items())
def test_any_other_gets_sb3s_loop(make: Callable[[], BaseCallback], words: str) -> None:
    need = what_needs_sb3_loop(make())
    assert need is not None
    assert words in need


@pytest.mark.parametrize("kind", [TrialEvalCallback, WandbCallback])
def test_what_the_zoo_and_wandb_bring_is_known(kind: type) -> None:
    assert what_needs_sb3_loop(kind.__new__(kind)) is None


def test_every_callback_of_ours_is_known() -> None:
    ours = [kind for kind in map(vars(monitoring).get, monitoring.__all__) if isinstance(kind, type)]
    ours = [kind for kind in ours if issubclass(kind, BaseCallback) and kind is not Monitor]
    assert len(ours) >= 8
    assert [what_needs_sb3_loop(kind()) for kind in ours] == [None] * len(ours)


def test_the_list_names_every_callback_of_sb3_but_those_that_show_everything() -> None:
    there = {f"{kind.__module__}.{name}" for name, kind in vars(callbacks).items() if _is_sb3s(kind)}
    of_sb3 = {name for name in KNOWN if name.startswith("stable_baselines3.")}
    left_out = ("BaseCallback", "ConvertCallback", "LogEveryNTimesteps")
    assert there - of_sb3 == {f"stable_baselines3.common.callbacks.{name}" for name in left_out}
    assert of_sb3 <= there
    others = (TrialEvalCallback, WandbCallback, RawStatisticsCallback, SaveVecNormalizeCallback)
    assert KNOWN - of_sb3 == {f"{kind.__module__}.{kind.__qualname__}" for kind in others}


def _is_sb3s(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseCallback) and kind.__module__ == callbacks.__name__


# ---------------------------------------------------------------- what a callback reads is what it reads with sb3-contrib


class Base(BaseCallback):
    """The parent of the issue: what it reads, its child's source does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[np.ndarray] = []

    def look(self) -> np.ndarray:
        return self.locals["values"].numpy().flatten()

    def _on_step(self) -> bool:
        self.read.append(self.look().copy())
        return True


class Mine(Base):
    def _on_step(self) -> bool:
        return super()._on_step()


class ReadsTheBuffer(Base):
    def look(self) -> np.ndarray:
        buffer = self.model.rollout_buffer
        return np.concatenate([buffer.values.flatten(), buffer.log_probs.flatten(), buffer.rewards.flatten()])


class ReadsByAComputedName(Base):
    def look(self) -> np.ndarray:
        return getattr(self.model.rollout_buffer, "val" + "ues").flatten()


class ReadsTheDistribution(Base):
    def look(self) -> np.ndarray:
        return self.model.policy.action_dist.distribution.mean.detach().numpy().flatten()


class ReadsLogProbs(Base):
    def look(self) -> np.ndarray:
        return self.locals.get("log_probs").numpy()


READERS = [Mine, ReadsTheBuffer, ReadsByAComputedName, ReadsTheDistribution, ReadsLogProbs]


def readings(cls: Any, callback: Base, nested: bool) -> np.ndarray:
    model = cls("MlpPolicy", make_env(), n_steps=32, batch_size=32, seed=0)
    model.learn(32, callback=CallbackList([EveryNTimesteps(1, callback)]) if nested else callback)
    return np.concatenate(callback.read)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_no_callback_reads_another_number_than_from_sb3_contrib(reader: type[Base], nested: bool) -> None:
    make: Callable[..., Any] = type(make_model())
    ours = readings(lambda *args, **more: make(*args, kl_reduction="mean", warn_on_risky=False, **more), reader(), nested)
    theirs = readings(sb3_contrib.TRPO, reader(), nested)
    assert ours.any()
    assert np.array_equal(ours, theirs)


# ---------------------------------------------------------------- where our loop runs, nothing is read too early


class Early(Nothing):
    """Says that it reads nothing, and reads."""

    reads_step_values = False

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self._read = read

    def _on_step(self) -> bool:
        self._read(self)
        return True


EARLY: dict[str, Callable[[Any], Any]] = {
    "the local": lambda self: self.locals["values"].mean(),
    "get": lambda self: self.locals.get("log_probs") + 1,
    "compared": lambda self: self.locals["values"] > 0,
    "equal": lambda self: self.locals["values"] == 0,
    "as an array": lambda self: np.asarray(self.locals["values"]),
    "summed": lambda self: np.sum(self.locals["values"]),
    "as a tensor": lambda self: torch.as_tensor(self.locals["log_probs"]),
    "iterated": lambda self: list(self.locals["values"]),
    "formatted": lambda self: f"{self.locals['values']:.2f}",
    "the buffer": lambda self: self.model.rollout_buffer.values[0],
    "all of it": lambda self: self.model.rollout_buffer.log_probs.sum(),
    "its truth": lambda self: bool(self.model.rollout_buffer.values),
    "rewards": lambda self: self.model.rollout_buffer.rewards[0],
    "by another way": lambda self: self.locals["self"].rollout_buffer.values.copy(),
}


@pytest.mark.parametrize("read", EARLY.values(), ids=EARLY.keys())
def test_early_reading_raises_one_clear_line(read: Callable[[Any], Any]) -> None:
    model = make_model(n_steps=32)
    with pytest.raises(
        TooEarlyError, match=r"are computed when the rollout is complete: read them in _on_rollout_end, or let"
    ) as caught:
        collect(model, Early(read))
    assert str(caught.value).count("\n") == 0
    assert model.session.recorder.collection == ACTOR_ALONE
    # What nobody has computed can't be read afterwards either, and the next rollout is a whole one.
    with pytest.raises(TooEarlyError):
        model.rollout_buffer.values.sum()
    assert np.isfinite(model.rollout_buffer.rewards).all()
    model.learn(32)
    assert model.last_update is not None
    assert np.isfinite(model.rollout_buffer.values).all()


def test_what_could_not_be_computed_cannot_be_read_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(n_steps=32)

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):  # noqa: PT012
        patch.setattr("sb3_trpo_ext.sb3.collect.rollout.predict_values", fails)
        collect(model)
    with pytest.raises(TooEarlyError):
        model.rollout_buffer.values.sum()


def test_what_is_shown_of_it_is_no_number() -> None:
    shown: list[str] = []
    collect(make_model(n_steps=32), Early(lambda self: shown.append(repr(self.locals["values"]))))
    assert set(shown) == {"<values of a step: not computed yet>"}


class AtTheEnd(Nothing):
    reads_step_values = False

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.seen = [buffer.values.copy(), buffer.log_probs.copy(), buffer.rewards.copy()]
        self.last = [self.locals["values"].numpy().copy(), self.locals["log_probs"].numpy().copy()]


class AtTheEndOfSB3s(AtTheEnd):
    """The same, by SB3's loop, since the declaration is not inherited."""


def test_at_the_end_of_a_rollout_the_values_are_those_of_sb3s_loop() -> None:
    seen = []
    for callback, loop in ((AtTheEnd(), ACTOR_ALONE), (AtTheEndOfSB3s(), f"SB3's loop: callback AtTheEndOfSB3s {MAY_READ}")):
        model = make_model(n_steps=32)
        collect(model, callback)
        assert model.session.recorder.collection == loop
        seen.append([*callback.seen, *callback.last])
    assert seen[0][3].shape == seen[1][3].shape == (2, 1)
    assert all(np.allclose(ours, theirs, rtol=1e-5, atol=1e-6) for ours, theirs in zip(*seen, strict=True))
