"""Which callbacks our loop can serve: read off their source, and in doubt SB3's loop runs."""

import functools
import linecache
import types
from collections.abc import Callable
from typing import Any

import pytest
from rl_zoo3.callbacks import RawStatisticsCallback, SaveVecNormalizeCallback, TrialEvalCallback
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from wandb.integration.sb3 import WandbCallback

from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.sb3.callback_needs import what_needs_sb3_loop
from tests.sb3.spaces import Nothing, make_env


def helper(callback: BaseCallback) -> bool:
    return "values" in callback.locals


class ReadsOneName(Nothing):
    def _on_step(self) -> bool:
        self.total = self.locals["rewards"].sum() + self.locals.get("n_steps", 0)
        self.logger.record("mine/total", self.total)
        return "dones" in self.locals and hasattr(self.model, "ep_info_buffer")


class ReadsTheFullBuffer(Nothing):
    def _on_rollout_end(self) -> None:
        self.mean = self.model.rollout_buffer.returns.mean()


class ReadsValues(Nothing):
    def _on_step(self) -> bool:
        return bool(self.locals["values"].isfinite().all())


class GetsLogProbs(Nothing):
    def _on_step(self) -> bool:
        return self.locals.get("log_probs") is not None


class InheritsReadingValues(ReadsValues):
    def _on_rollout_start(self) -> None:
        self.started = True


class ComputesTheName(Nothing):
    def _on_step(self) -> bool:
        return self.locals["val" + "ues"] is not None


class CopiesLocals(Nothing):
    def _on_step(self) -> bool:
        self.copied = dict(self.locals)
        return True


class IteratesOverLocals(Nothing):
    def _on_step(self) -> bool:
        return all(value is not None for value in self.locals.values())


class HandsItselfOn(Nothing):
    def _on_step(self) -> bool:
        return helper(self)


class WatchesTheBuffer(Nothing):
    def _on_step(self) -> bool:
        return self.model.rollout_buffer.pos >= 0


class WatchesTheBufferByName(Nothing):
    def _on_step(self) -> bool:
        return self.locals["rollout_buffer"].pos >= 0


class WatchesTheDistribution(Nothing):
    def _on_step(self) -> bool:
        return self.model.policy.action_dist is not None


class ReachesForAnything(Nothing):
    def _on_step(self) -> bool:
        name = "locals"
        return len(getattr(self.model, name)) > 0


class OverridesTheMachinery(Nothing):
    def update_locals(self, locals_: dict[str, Any]) -> None:
        self.kept = locals_


class Holds(EventCallback):
    def __init__(self, child: BaseCallback) -> None:
        super().__init__(child)


class HoldsInItsOwnWay(Nothing):
    def __init__(self, child: BaseCallback) -> None:
        super(Nothing, self).__init__()
        self.children = {"one": [child], "two": child}

    def _on_step(self) -> bool:
        return self.children["two"].on_step()


def reads_values(self: BaseCallback) -> bool:
    return "values" in self.locals


class BorrowsAFunction(Nothing):
    _on_step = reads_values


def decorated(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def wrapper(self: Any) -> bool:
        return self.locals["values"] is not None and function(self)

    return wrapper


class Decorated(Nothing):
    @decorated
    def _on_step(self) -> bool:
        return True


class OtherName(Nothing):
    def _on_step(this) -> bool:
        return this.locals["log_probs"] is not None


class ReadsTheBootstrap(Nothing):
    def _on_step(self) -> bool:
        return self.locals["terminal_value"] is None


class KeepsTheBuffer(Nothing):
    def _on_training_start(self) -> None:
        self.buffer = self.model.rollout_buffer

    def _on_step(self) -> bool:
        return True


class WasGivenTheBuffer(Nothing):
    def __init__(self, buffer: Any = None) -> None:
        super().__init__()
        self.buffer = buffer

    def _on_step(self) -> bool:
        return self.buffer.values[0] > 0


class CallsTheEndAtSteps(Nothing):
    def _on_step(self) -> bool:
        self._on_rollout_end()
        return True

    def _on_rollout_end(self) -> None:
        self.mean = self.model.rollout_buffer.returns.mean()


class APartial(Nothing):
    _on_step = functools.partial(reads_values)


def patched() -> BaseCallback:
    callback = Nothing()
    callback._on_step = types.MethodType(reads_values, callback)
    return callback


class OldStyle(Nothing):
    def __init__(self, verbose: int = 0) -> None:
        super(OldStyle, self).__init__(verbose)  # noqa: UP008

    def _on_step(self) -> bool:
        if not hasattr(self, "count"):
            setattr(self, "count", 0)  # noqa: B010
        self.count += len([info.get("values") for info in self.locals["infos"]])
        return getattr(self, "count", 0) >= 0


class HelpsItselfAtTheEnd(Nothing):
    def _on_rollout_end(self) -> None:
        self._log(self.model.rollout_buffer.values.mean())

    def _log(self, mean: float) -> None:
        self.logger.record("mine/mean", mean + self.model.rollout_buffer.returns.mean())


class UsesADictionary(Nothing):
    def _on_step(self) -> bool:
        return all(value is not None for value in {"a": 1}.values())


if True:

    class SameName(Nothing):
        def _on_step(self) -> bool:
            return self.locals["values"] is not None

    First = SameName

    class SameName(Nothing):  # type: ignore[no-redef]
        def _on_step(self) -> bool:
            return True


FREE: list[Callable[[], BaseCallback]] = [
    Nothing,
    ReadsOneName,
    ReadsTheFullBuffer,
    OldStyle,
    HelpsItselfAtTheEnd,
    UsesADictionary,
    SameName,
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
    lambda: CallbackList([Nothing(), CallbackList([ReadsOneName()])]),
    TrustRegionMonitor,
]
WHOLE = "uses its locals as a whole, or reads what is not there yet"
BOUND: dict[Callable[[], BaseCallback], str] = {
    ReadsValues: f"callback ReadsValues {WHOLE}",
    GetsLogProbs: WHOLE,
    InheritsReadingValues: WHOLE,
    ComputesTheName: WHOLE,
    CopiesLocals: WHOLE,
    IteratesOverLocals: WHOLE,
    HandsItselfOn: "hands itself on",
    WatchesTheBuffer: "looks at rollout_buffer while a rollout is collected",
    WatchesTheBufferByName: WHOLE,
    WatchesTheDistribution: "looks at action_dist while a rollout is collected",
    ReachesForAnything: "uses getattr, which can reach anything",
    OverridesTheMachinery: "overrides update_locals",
    BorrowsAFunction: WHOLE,
    Decorated: "hands itself on",
    OtherName: WHOLE,
    ReadsTheBootstrap: WHOLE,
    KeepsTheBuffer: "keeps self.model.rollout_buffer for later",
    WasGivenTheBuffer: "looks at values while a rollout is collected",
    CallsTheEndAtSteps: "looks at rollout_buffer while a rollout is collected",
    APartial: "has a _on_step whose source can't be read",
    patched: WHOLE,
    First: WHOLE,
    lambda: HoldsInItsOwnWay(ReadsValues()): "callback ReadsValues",
    lambda: ConvertCallback(lambda locals_, globals_: True): "a function is called with all local variables",
    lambda: CallbackList([Nothing(), CallbackList([ReadsValues()])]): "callback ReadsValues",
    lambda: EveryNTimesteps(10, ReadsValues()): "callback ReadsValues",
    lambda: Holds(ReadsValues()): "callback ReadsValues",
    lambda: EvalCallback(make_env(n_envs=1), callback_after_eval=ReadsValues()): "callback ReadsValues",
    lambda: EvalCallback(make_env(n_envs=1), callback_on_new_best=ReadsValues()): "callback ReadsValues",
}


@pytest.mark.parametrize("make", FREE)
def test_these_need_nothing_that_is_late(make: Callable[[], BaseCallback]) -> None:
    assert what_needs_sb3_loop(make()) is None


@pytest.mark.parametrize(("make", "words"), BOUND.items())
def test_these_may_need_what_is_late(make: Callable[[], BaseCallback], words: str) -> None:
    need = what_needs_sb3_loop(make())
    assert need is not None
    assert words in need


@pytest.mark.parametrize("kind", [TrialEvalCallback, WandbCallback])
def test_what_the_zoo_and_wandb_bring_is_free(kind: type) -> None:
    assert what_needs_sb3_loop(kind.__new__(kind)) is None


def test_a_class_without_source_is_in_doubt() -> None:
    namespace: dict[str, Any] = {"Nothing": Nothing}
    exec("class Unreadable(Nothing):\n    def _on_step(self): return True", namespace)
    need = what_needs_sb3_loop(namespace["Unreadable"]())
    assert need == "callback Unreadable has a _on_step whose source can't be read"


def test_a_class_of_a_notebooks_cell_is_read() -> None:
    source = "class Cell(Nothing):\n    def _on_step(self):\n        return 'dones' in self.locals\n"
    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    namespace: dict[str, Any] = {"Nothing": Nothing, "__name__": "__main__"}
    exec(compile(source, "<cell>", "exec"), namespace)
    assert what_needs_sb3_loop(namespace["Cell"]()) is None
