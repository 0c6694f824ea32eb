"""Failed solves: more damping for this update only, then the gradient, then nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core import update
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.fisher import FisherOperator
from sb3_trpo_ext.core.line_search import LineSearchResult, LineSearchSettings
from sb3_trpo_ext.core.status import CGStatus, UpdateStatus
from sb3_trpo_ext.core.update import update_policy
from tests.core.problems import FAMILIES, SETTINGS, gradient_of, make_case, with_surrogate

DAMPING = DampingState(0.1, 0.1, 100.0)


def plant(monkeypatch: pytest.MonkeyPatch, error: Callable[[Tensor], Tensor]) -> None:
    honest = FisherOperator.product
    monkeypatch.setattr(FisherOperator, "product", lambda self, v: honest(self, v) + error(v))


def skew(strength: float) -> Callable[[Tensor], Tensor]:
    """Adds nothing to the curvature along any direction, and yet no symmetric matrix is left."""

    def error(v: Tensor) -> Tensor:
        half = len(v) // 2
        turned = torch.zeros_like(v)
        turned[:half], turned[half : 2 * half] = v[half : 2 * half], -v[:half]
        return strength * turned

    return error


@pytest.mark.parametrize(("below", "retries", "damping"), [(0.05, 0, 0.1), (0.5, 1, 1.0), (5.0, 2, 10.0), (50.0, 3, 100.0)])
def test_a_solve_that_fails_below_a_damping_is_retried_above_it(
    below: float, retries: int, damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, lambda v: -below * v)
    case = make_case(FAMILIES["gaussian"])
    result = update_policy(case.problem, SETTINGS, DAMPING)
    assert result.status is UpdateStatus.ACCEPTED
    assert result.solve is not None
    assert (result.solve.retries, result.solve.damping) == (retries, pytest.approx(damping))
    assert result.solve.direction is not None
    assert not result.solve.direction.fallback
    assert case.independent(case.problem.parameters)[0] <= 0.01


def test_retries_are_for_this_update_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda v: -5.0 * v)
    start = DampingState(0.4, 0.1, 100.0)
    result = update_policy(make_case(FAMILIES["gaussian"]).problem, SETTINGS, start)
    assert result.solve is not None
    assert result.solve.damping == pytest.approx(40.0)
    assert result.reduction_ratio is not None
    expected = 0.4 / 1.5 if result.reduction_ratio > 0.75 else 0.4 if result.reduction_ratio >= 0.25 else 0.6
    assert result.damping.value == pytest.approx(expected)


def test_fixed_damping_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda v: -5.0 * v)
    problem = make_case(FAMILIES["gaussian"]).problem
    before = [part.clone() for part in problem.parameters]
    fixed = replace(DAMPING, adaptive=False)
    result = update_policy(problem, SETTINGS, fixed)
    assert (result.status, result.damping) == (UpdateStatus.NO_DIRECTION, fixed)
    assert result.solve is not None
    assert (result.solve.retries, result.solve.damping, result.solve.direction) == (0, 0.1, None)
    assert all(torch.equal(part, old) for part, old in zip(problem.parameters, before, strict=True))


def test_the_gradient_is_the_direction_of_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, skew(1e5))
    case = make_case(FAMILIES["gaussian"])
    result = update_policy(case.problem, SETTINGS, DAMPING)
    solve = result.solve
    assert solve is not None
    assert solve.result.status is CGStatus.DIVERGED
    assert solve.retries == 3
    assert solve.direction is not None
    assert solve.direction.fallback
    assert result.advantages is not None
    g = gradient_of(with_surrogate(case.problem, advantages=result.advantages.values))
    assert torch.equal(solve.direction.vector, g)
    assert result.status is UpdateStatus.ACCEPTED, "the line search still decides"
    assert case.independent(case.problem.parameters)[0] <= 0.01


def test_the_gradients_own_curvature_scales_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the last damping, which is the one that the report names."""
    plant(monkeypatch, skew(1e5))
    case = make_case(FAMILIES["gaussian"])
    solve = update_policy(case.problem, SETTINGS, DAMPING).solve
    assert solve is not None
    assert solve.direction is not None
    assert solve.damping == pytest.approx(100.0)
    g = solve.direction.vector
    monkeypatch.undo()
    operator = FisherOperator(case.problem.linearised.curvature, case.problem.linearised.choice)
    curvature = float(g @ operator.product(g)) + 100.0 * float(g @ g)
    assert solve.direction.scale.scale == pytest.approx((0.02 / curvature) ** 0.5, rel=1e-6)


def test_a_product_that_fails_once_costs_one_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def once(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.full_like(v, torch.nan) if calls == 4 else torch.zeros_like(v)

    plant(monkeypatch, once)
    result = update_policy(make_case(FAMILIES["gaussian"]).problem, SETTINGS, DAMPING)
    assert result.status is UpdateStatus.ACCEPTED
    assert result.solve is not None
    assert result.solve.retries == 1
    assert result.solve.products == calls, "products of failed solves count"


def test_a_solve_that_is_good_but_does_not_ascend_is_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed: the float64 product contradicts the float32 ones, so that the curvature of the step is negative."""
    honest = FisherOperator.product

    def product(self: FisherOperator, v: Tensor) -> Tensor:
        return honest(self, v) if self.dtype is torch.float32 else -2e3 * v

    monkeypatch.setattr(FisherOperator, "product", product)
    result = update_policy(make_case(FAMILIES["gaussian"]).problem, replace(SETTINGS, cg_precision="mixed"), DAMPING)
    assert result.status is UpdateStatus.NO_DIRECTION
    assert result.solve is not None
    assert result.solve.retries == 3


def test_the_line_search_gets_delta_and_the_rounding_of_the_advantages_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    honest = update.backtrack

    def spying(start: Any, step: Any, deploy: Any, evaluate: Any, limits: LineSearchSettings) -> LineSearchResult:
        seen.append(limits)
        return honest(start, step, deploy, evaluate, limits)

    monkeypatch.setattr(update, "backtrack", spying)
    problem = make_case(FAMILIES["gaussian"], advantages=1e6 * torch.randn(48, dtype=torch.float64)).problem
    for normalize in (True, False):
        advantages = update_policy(problem, replace(SETTINGS, normalize_advantage=normalize), DAMPING).advantages
        assert advantages is not None
        rounding = 8.0 * 2.0**-52 * float(advantages.values.abs().mean())
        assert seen[-1] == LineSearchSettings(0.01, pytest.approx(rounding), 0.8, 10)
    assert seen[1].min_improvement > 1e5 * seen[0].min_improvement
