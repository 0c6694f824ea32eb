"""Which callbacks our loop can serve: read off their source, and in doubt SB3's loop runs."""

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


FREE: list[Callable[[], BaseCallback]] = [
    Nothing,
    ReadsOneName,
    ReadsTheFullBuffer,
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
]
BOUND: dict[Callable[[], BaseCallback], str] = {
    ReadsValues: "callback ReadsValues names 'values'",
    GetsLogProbs: "callback GetsLogProbs names 'log_probs'",
    InheritsReadingValues: "callback ReadsValues names 'values'",
    ComputesTheName: "uses its locals as a whole",
    CopiesLocals: "uses its locals as a whole",
    IteratesOverLocals: "uses its locals as a whole",
    HandsItselfOn: "hands itself on",
    WatchesTheBuffer: "looks at rollout_buffer while a rollout is collected",
    WatchesTheBufferByName: "names 'rollout_buffer'",
    WatchesTheDistribution: "looks at action_dist while a rollout is collected",
    ReachesForAnything: "uses getattr, which can reach anything",
    OverridesTheMachinery: "overrides update_locals",
    lambda: ConvertCallback(lambda locals_, globals_: True): "a function is called with all local variables",
    lambda: CallbackList([Nothing(), CallbackList([ReadsValues()])]): "callback ReadsValues names 'values'",
    lambda: EveryNTimesteps(10, ReadsValues()): "callback ReadsValues names 'values'",
    lambda: Holds(ReadsValues()): "callback ReadsValues names 'values'",
    lambda: EvalCallback(make_env(n_envs=1), callback_after_eval=ReadsValues()): "names 'values'",
    lambda: EvalCallback(make_env(n_envs=1), callback_on_new_best=ReadsValues()): "names 'values'",
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
    callback = kind.__new__(kind)
    callback.callback = None
    assert what_needs_sb3_loop(callback) is None


def test_a_class_without_source_is_in_doubt() -> None:
    namespace: dict[str, Any] = {"Nothing": Nothing}
    exec("class Unreadable(Nothing):\n    def _on_step(self): return True", namespace)
    need = what_needs_sb3_loop(namespace["Unreadable"]())
    assert need == "callback Unreadable has no source that could be read"
