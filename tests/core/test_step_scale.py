"""The step scale puts the quadratic model of the KL on the boundary of the trust region, or refuses."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core.step_scale import step_scale


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def random_problem(n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    root = torch.randn(n, n, dtype=torch.float64)
    return root @ root.T, torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)


@pytest.mark.parametrize("max_kl", [1e-6, 0.01, 3.0])
@pytest.mark.parametrize("damping", [0.0, 0.1, 50.0])
def test_the_damped_model_of_the_kl_reaches_delta(max_kl: float, damping: float) -> None:
    fisher, g, _ = random_problem()
    damped = fisher + damping * torch.eye(12, dtype=torch.float64)
    x = torch.linalg.solve(damped, g)
    found = step_scale(x, damped @ x, g, damping, max_kl)
    assert found is not None
    assert 0.5 * found.scale**2 * float(x @ damped @ x) == pytest.approx(max_kl, rel=1e-14)
    assert found.predicted_kl == pytest.approx(0.5 * found.scale**2 * float(x @ fisher @ x), rel=1e-9)
    assert found.predicted_gain == pytest.approx(found.scale * float(g @ x), rel=1e-14)
    assert found.predicted_kl <= max_kl * (1.0 + 1e-14)


@pytest.mark.parametrize("curvature", [0.0, -1.0, torch.nan, torch.inf, -torch.inf])
def test_no_step_without_positive_finite_curvature(curvature: float) -> None:
    assert step_scale(vector(1.0, 0.0), vector(curvature, 0.0), vector(1.0, 0.0), 0.1, 0.01) is None


@pytest.mark.parametrize("slope", [0.0, -1.0, torch.nan, torch.inf])
def test_no_step_that_does_not_ascend(slope: float) -> None:
    assert step_scale(vector(1.0, 0.0), vector(1.0, 0.0), vector(slope, 0.0), 0.1, 0.01) is None


def test_no_step_of_infinite_length() -> None:
    assert step_scale(vector(1.0), vector(1e-320), vector(1.0), 0.0, 1e300) is None


@example(size=1.0, curvature=1e-320, max_kl=1.0)
@given(size=st.floats(1e-160, 1e150), curvature=st.floats(5e-324, 1e300), max_kl=st.floats(1e-10, 1e3))
def test_extreme_numbers_are_data_not_exceptions(size: float, curvature: float, max_kl: float) -> None:
    found = step_scale(vector(size), vector(curvature), vector(1.0), 0.0, max_kl)
    assert found is None or 0.0 <= found.predicted_kl <= max_kl * (1.0 + 1e-9)


def test_rounding_never_predicts_a_negative_kl() -> None:
    """The curvature may be all damping, and its undamped part then come out below zero."""
    found = step_scale(vector(1.0, 1.0), vector(0.1, 0.1) * (1.0 - 1e-15), vector(1.0, 1.0), 0.1, 0.01)
    assert found is not None
    assert found.predicted_kl == 0.0
