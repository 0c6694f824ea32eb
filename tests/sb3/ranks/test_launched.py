"""What the environment says about a process, and what a process that is alone does not do."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_trpo_ext import RanksError
from sb3_trpo_ext.core.reduce import single_process
from sb3_trpo_ext.sb3.ranks.group import Ranks, of_first_rank
from sb3_trpo_ext.sb3.ranks.launch import LAUNCHED, TIMEOUT, backend, of_this_start, place, timeout_seconds
from sb3_trpo_ext.sb3.ranks.training import callbacks_of, seed_of_rank
from tests.sb3.spaces import make_model

TORCHRUN = dict(zip(LAUNCHED, ("1", "4", "localhost", "1"), strict=True))


def test_a_process_is_alone_unless_all_that_torchrun_says_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == (0, 1)
    for name, value in TORCHRUN.items():
        # A cluster's scheduler may set some of them.
        assert place() == (0, 1)
        monkeypatch.setenv(name, value)
    assert place() == (1, 4)


def test_alone_nothing_is_begun_counted_or_copied() -> None:
    tensor = torch.ones(2)
    alone = Ranks.join()
    assert alone == Ranks()
    assert alone.reducer is single_process
    assert alone.reduce(tensor) is tensor
    assert alone.gather("thing") == ["thing"]
    assert alone.from_first("thing") == of_first_rank("thing") == "thing"
    alone.overwrite([tensor])
    alone.compare({"a": 1})
    with pytest.raises(ZeroDivisionError), alone.together("a phase"):
        _ = 1 // 0
    alone.leave()
    assert (alone.traffic.collectives, alone.traffic.bytes) == (0, 0)
    assert not dist.is_initialized()


def test_what_is_reduced_over_ranks_cannot_be_had_when_they_have_left() -> None:
    left = Ranks(rank=1, size=2)
    for collective in (lambda: left.reduce(torch.ones(1)), lambda: left.gather("thing"), lambda: left.from_first("thing")):
        with pytest.raises(RanksError, match="rank 1 is no longer in a training"):
            collective()


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon", ""])
def test_an_impossible_time_out_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert timeout_seconds() == TIMEOUT
    monkeypatch.setenv("TRPO_RANK_TIMEOUT", "2.5")
    assert timeout_seconds() == 2.5
    monkeypatch.setenv("TRPO_RANK_TIMEOUT", text)
    with pytest.raises(ValueError, match=r"TRPO_RANK_TIMEOUT=.* is impossible: it must be a number of seconds above 0"):
        timeout_seconds()


def test_ranks_that_do_not_come_are_an_error_after_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "RANK": "1", "WORLD_SIZE": "2", "TRPO_RANK_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RanksError, match="rank 1 can't meet the other 1"):
        Ranks.join()
    assert not dist.is_initialized()


def test_ranks_behind_the_first_are_quiet_and_have_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_model(verbose=1, tensorboard_log="tb", seed=3)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    second = make_model(verbose=1, tensorboard_log="tb", seed=3)
    assert (first.verbose, second.verbose, second.tensorboard_log) == (1, 0, None)
    assert first.seed == second.seed == 3
    assert second.env.seed(5) == first.env.seed(5)
    assert (seed_of_rank(3, 1, 2), seed_of_rank(2**32 - 1, 1, 1), seed_of_rank(None, 1, 2)) == (5, 0, None)


def test_each_start_of_torchrun_has_a_part_of_the_store_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    of_this_start(store).set("address", "of the dead")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not of_this_start(store).check(["address"])
    # Of several hosts each counts restarts of its own: a part that is not the others' would be worse.
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert of_this_start(store).check(["address"])


def test_gloo_reduces_on_the_cpu() -> None:
    assert backend() == "gloo" or torch.cuda.is_available()


class Plain(BaseCallback):
    def _on_step(self) -> bool:
        return True


class Everywhere(Plain):
    every_rank = True


def test_callbacks_are_rank_0s_unless_they_say_otherwise() -> None:
    plain, everywhere = Plain(), Everywhere()
    given: list[Any] = [plain, CallbackList([CallbackList([everywhere]), plain]), lambda *_: True]
    assert callbacks_of(0, given) is given
    assert callbacks_of(1, given) == [everywhere]
    assert callbacks_of(1, everywhere) == [everywhere]
    assert callbacks_of(1, None) == callbacks_of(1, plain) == callbacks_of(1, lambda *_: True) == []
