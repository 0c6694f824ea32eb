"""
Ctrl-C at any line of ours while ``train`` runs: all of the update is undone and nothing counted, or (once it is concluded) all
of it is there.
"""

import inspect
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import CodeType, FrameType
from typing import Any

import pytest
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.integrity.env_watch import Watch
from sb3_trpo_ext.sb3.problem.action_distributions import DistributionParameters
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder
from tests.resilience.faults import Interrupted
from tests.resilience.invariants import Before
from tests.sb3.integrity.faulty import OwnBuffer, faulty_vec, guarded_model
from tests.sb3.spaces import collect, make_model, n_hooks

PACKAGE = str(sys.modules["sb3_trpo_ext"].__path__[0])


class Interrupts:
    """Raises at one event of a trace of the package's lines, or only counts them."""

    def __init__(self, at: int | None = None, only: Sequence[CodeType] = ()):
        self.at, self.only, self.count, self.where = at, only, 0, ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        ours = frame.f_code.co_filename.startswith(PACKAGE) and (not self.only or frame.f_code in self.only)
        return self.local if ours and not self.where else None

    def local(self, frame: FrameType, event: str, _: Any) -> Any:
        self.count += event == "line"
        if event == "line" and self.count == self.at:
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise Interrupted
        return self.local

    def during(self, what: Callable[[], Any]) -> BaseException | None:
        tracing = sys.gettrace()
        sys.settrace(self)
        try:
            what()
        except BaseException as error:  # what it is decides the test
            return error
        finally:
            sys.settrace(tracing)
        return None


def prepared(**settings: Any) -> TRPO:
    model = make_model(n_steps=16, batch_size=16, **settings)
    collect(model).train()
    return collect(model)


def broken(at: int, n_lines: int, **settings: Any) -> list[str]:
    """What doesn't hold after an interruption, and after the next ``train``."""
    model = prepared(**settings)
    before, interrupts = Before(model), Interrupts(at)
    error = interrupts.during(model.train)
    assert isinstance(error, Interrupted), (interrupts.where, error)
    if model._n_updates == before.counters[0] + 1:
        assert n_lines - at < 20, interrupts.where
        found = [*before.i1(None), *before.i2(), *before.i3_of_a_report()]
    else:
        found = before.broken(error, Interrupted)
        model.train()
        found += before.broken(None)
    return [f"{interrupts.where}: {line}" for line in found]


def check(n_cases: int, seed: int, **settings: Any) -> None:
    lines = Interrupts()
    assert lines.during(prepared(**settings).train) is None
    anywhere = random.Random(seed).sample(range(1, lines.count + 1), n_cases)
    # The end, where counters and weights must go together, line by line.
    for at in sorted({*anywhere, *range(lines.count - n_cases, lines.count + 1)}):
        assert broken(at, lines.count, **settings) == []


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_ctrl_c_at_any_line_undoes_all_or_nothing(action: str) -> None:
    check(10, 0, action=action)


def test_ctrl_c_while_a_distribution_is_put_back_leaves_no_stand_in() -> None:
    code = DistributionParameters.forward.__code__
    model = prepared(action="discrete")
    lines = Interrupts(None, [code])
    assert lines.during(model.train) is None
    for at in range(1, lines.count + 1):
        model = prepared(action="discrete")
        before, original = Before(model), model.policy.action_dist
        error = Interrupts(at, [code]).during(model.train)
        assert model.policy.action_dist is original, at
        assert before.broken(error, Interrupted) == [], at


@pytest.mark.slow
@pytest.mark.parametrize("action", ["box", "sde_squashed", "discrete", "multidiscrete"])
def test_ctrl_c_at_many_lines_undoes_all_or_nothing(action: str) -> None:
    check(100, 1, action=action)


@pytest.mark.parametrize("buffer", [RolloutBuffer, OwnBuffer])
@pytest.mark.filterwarnings("ignore:TRPO. non-finite")
def test_ctrl_c_where_environments_and_policy_are_watched_leaves_nothing_on_them(buffer: type) -> None:
    watched = [inspect.unwrap(method).__code__ for method in (Watch.watching, BehaviourRecorder.recording)]
    beginnings = {line for code in watched for line in _before_finally(code)}

    def left(at: int | None) -> tuple[int, BaseException | None, list[Any]]:
        model = guarded_model(VecNormalize(faulty_vec({3: "reward"}, {})), rollout_buffer_class=buffer)
        n_before, interrupts = n_hooks(model.policy), Interrupts(at, watched)
        error = interrupts.during(lambda: model.learn(16))
        names = [name for name in ("step", "step_wait", "reset") if name in vars(model.env.unwrapped)]
        return interrupts.count, error, [interrupts.where, *names] * bool(names or n_hooks(model.policy) != n_before)

    n_lines, error, _ = left(None)
    assert error is None
    for at in range(1, n_lines + 1):
        _, error, found = left(at)
        assert isinstance(error, Interrupted)
        assert found == [] or found[0] not in beginnings, found


def _before_finally(code: CodeType) -> list[str]:
    """Lines after which everything is put back; while that is done, nothing helps."""
    lines, first = inspect.getsourcelines(code)
    end = next(i for i, line in enumerate(lines) if line.strip() == "finally:")
    return [f"{code.co_filename}:{first + i}" for i in range(end)]


@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_between_a_hook_and_its_removal_leaves_no_hook(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared()
    before, honest, calls = Before(model), ExitStack.callback, []

    def callback(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise Interrupted
        return honest(*args)

    monkeypatch.setattr(ExitStack, "callback", callback)
    with pytest.raises(Interrupted) as interrupted:
        model.train()
    monkeypatch.undo()
    assert before.broken(interrupted.value, Interrupted) == []
