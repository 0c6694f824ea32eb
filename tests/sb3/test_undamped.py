"""
``cg_damping=0``: the Fisher matrix of a new policy is nearly singular, and the solution steps beyond the quadratic model.

Its last layer is initialised a hundred times smaller than the others, so that the KL hardly sees those: to first order.
"""

from typing import Any

import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext.core.damping import RANGE_FACTOR
from sb3_trpo_ext.core.report import UpdateReport
from tests.sb3.spaces import TRPO, collect


def updates(n: int, **kwargs: Any) -> list[UpdateReport]:
    settings = {"n_steps": 64, "seed": 1, "device": "cpu", "n_critic_updates": 1, "cg_damping": 0.0, "warn_on_risky": False}
    model = TRPO("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=1), **settings, **kwargs)
    reports = []
    for _ in range(n):
        collect(model).train()
        reports.append(model.last_update)
    return reports


@pytest.mark.parametrize("fixed", [{"cg_damping_range": (0.0, 0.0)}, {"adaptive_damping": False}], ids=["no range", "fixed"])
def test_where_damping_may_not_rise_every_step_leaves_the_trust_region(fixed: dict[str, Any]) -> None:
    for report in updates(3, **fixed):
        assert (report.cg_damping, report.next_damping, report.status) == (0.0, 0.0, "line_search_failed")
        assert set(report.trial_statuses) == {"kl_too_large"}
        assert report.predicted_kl == pytest.approx(report.target_kl, rel=1e-9), "where the quadratic model saw it end"
        assert min(kl for kl in report.trial_kls if kl is not None) > 10.0 * report.target_kl


def test_a_rejected_step_raises_damping_from_zero_and_the_next_is_taken() -> None:
    first, *later = updates(4)
    assert (first.status, first.cg_damping, first.next_damping) == ("line_search_failed", 0.0, 0.1)
    assert first.cg_damping_range == (0.0, 100.0)
    assert [report.status for report in later] == ["accepted"] * 3
    assert 0.1 == later[0].cg_damping > later[-1].next_damping > 0.0, "and it sinks again while steps are as predicted"


@pytest.mark.parametrize(("unit", "first"), [("mean", 0.1), ("joint", 0.6)])
def test_where_it_begins_to_rise_is_the_same_in_either_unit(unit: str, first: float) -> None:
    model = TRPO("MlpPolicy", "HalfCheetah-v5", cg_damping=0.0, kl_reduction=unit, warn_on_risky=False, device="cpu")
    assert model.hyperparameters().damping.high == pytest.approx(RANGE_FACTOR * first)


def test_undamped_steps_that_are_as_predicted_stay_undamped() -> None:
    last_layer = {"policy_kwargs": {"net_arch": []}}  # linear: the KL sees every parameter
    assert [report.next_damping for report in updates(3, **last_layer)] == [0.0] * 3
