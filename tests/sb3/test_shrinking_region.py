"""A trust region that shrinks: what bounds each update, and that it changes nothing where it is not asked for."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.report import UpdateReport
from tests.sb3.spaces import Nothing, make_model

ROLLOUT = 64  # 2 environments, 32 steps


class Reports(Nothing):
    """The report of every update."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[UpdateReport] = []

    def _on_rollout_start(self) -> None:
        if self.model.last_update is not None and self.model.last_update not in self.seen:
            self.seen.append(self.model.last_update)

    def _on_training_end(self) -> None:
        self.seen.append(self.model.last_update)


def reports_of(model: Any, steps: int, **kwargs: Any) -> list[UpdateReport]:
    callback = Reports()
    model.learn(steps, callback=callback, **kwargs)
    return callback.seen


@pytest.mark.parametrize("final", [0.001, 0.2], ids=["shrinks", "grows"])
def test_the_bound_goes_linearly_to_the_last_one_and_holds(final: float) -> None:
    n_updates, first = 8, 0.05
    seen = reports_of(make_model(target_kl=first, final_target_kl=final), n_updates * ROLLOUT)
    # As SB3's schedules: an update's progress is that at the end of its rollout
    expected = [first + (final - first) * update / n_updates for update in range(1, n_updates + 1)]
    assert [report.target_kl for report in seen] == pytest.approx(expected, rel=1e-12)
    assert all(report.kl <= report.target_kl for report in seen)
    assert any(report.kl > 0.5 * report.target_kl for report in seen)


def test_a_last_rollout_that_exceeds_the_steps_is_bounded_by_the_final_one() -> None:
    seen = reports_of(make_model(target_kl=0.05, final_target_kl=0.001), 2 * ROLLOUT + 1)
    assert len(seen) == 3
    assert seen[-1].target_kl == pytest.approx(0.001, rel=1e-12)


def test_the_same_bound_at_both_ends_is_the_old_one_bit_for_bit() -> None:
    def trained(**settings: Any) -> list[torch.Tensor]:
        model = make_model(target_kl=0.0625, **settings)
        model.learn(4 * ROLLOUT)
        return list(model.policy.parameters())

    pairs = zip(trained(), trained(final_target_kl=0.0625), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_it_is_saved_and_a_training_that_goes_on_goes_on_from_there(tmp_path: Path) -> None:
    model = make_model(target_kl=0.05, final_target_kl=0.01)
    model.learn(2 * ROLLOUT)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.env)
    assert (loaded.target_kl, loaded.final_target_kl) == (0.05, 0.01)
    seen = reports_of(loaded, 2 * ROLLOUT, reset_num_timesteps=False)
    assert [report.target_kl for report in seen[-2:]] == pytest.approx([0.02, 0.01], rel=1e-12)


def test_a_large_region_at_the_end_is_as_risky_as_one_at_the_beginning() -> None:
    with pytest.warns(UserWarning, match=r"final_target_kl=0\.3 allows a joint KL of 0\.3 an update"):
        make_model(kl_reduction="joint", target_kl=0.01, final_target_kl=0.3, n_critic_updates=10, warn_on_risky=True)


def test_max_kl_is_that_of_now() -> None:
    model = make_model(target_kl=0.05, final_target_kl=0.01)
    assert math.isclose(model.max_kl, 0.05)
    model._current_progress_remaining = 0.25
    assert math.isclose(model.max_kl, 0.02)
    model.final_target_kl = None
    assert model.max_kl == 0.05
