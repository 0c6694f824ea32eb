"""A value function's epochs in closed form are those of autograd, minibatch by minibatch."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_trpo_ext.core.critic import CriticProblem, CriticSettings, fit_critic
from sb3_trpo_ext.core.layers import read_layers
from sb3_trpo_ext.core.status import CriticStatus
from sb3_trpo_ext.core.value_regression import ValueRegression

ACTIVATIONS = [nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.ELU(0.7), nn.LeakyReLU(0.1), nn.Identity()]


class Twins:
    """One regression twice: in closed form, and by autograd."""

    def __init__(
        self,
        activation: nn.Module | None = None,
        bias: bool = True,
        hidden: tuple[int, ...] = (8, 7),
        n_samples: int = 50,
        batch_size: int = 16,
        dtype: torch.dtype = torch.float64,
    ):
        sizes = [3, *hidden]
        layers = [
            module
            for n_in, n_out in itertools.pairwise(sizes)
            for module in (nn.Linear(n_in, n_out, bias), activation or nn.Tanh())
        ]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 1, bias)).to(dtype)
        self.parameters = [*self.net.parameters()]
        self.x, self.y = torch.randn(n_samples, 3, dtype=dtype), torch.randn(n_samples, dtype=dtype)
        self.batch_size = batch_size
        read = read_layers(self.net, {id(parameter): place for place, parameter in enumerate(self.parameters)})
        assert read is not None
        self.closed = ValueRegression(read, self.parameters, self.x.clone(), self.y.clone(), batch_size)

    def loss(self, rows: Tensor) -> Tensor:
        return F.mse_loss(self.net(self.x[rows]).flatten(), self.y[rows])

    def assert_one_epoch_agrees(self, order: Tensor, rtol: float = 1e-12) -> None:
        n_minibatches = 0
        for ours, rows in zip(self.closed.epoch(order), order.split(self.batch_size), strict=True):
            theirs = self.loss(rows)
            gradients = torch.autograd.grad(theirs, self.parameters)
            assert not ours.requires_grad
            torch.testing.assert_close(ours, theirs.detach(), rtol=rtol, atol=0)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                torch.testing.assert_close(parameter.grad, gradient, rtol=rtol, atol=rtol)
            n_minibatches += 1
        assert n_minibatches == -(-len(self.x) // self.batch_size)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_losses_and_gradients_are_autograds(activation: nn.Module, bias: bool) -> None:
    twins = Twins(activation, bias)
    for _ in range(2):
        twins.assert_one_epoch_agrees(torch.randperm(50))


@pytest.mark.parametrize("hidden", [(), (1,), (5,), (4, 3, 6)])
@pytest.mark.parametrize(("n_samples", "batch_size"), [(1, 1), (1, 16), (17, 16), (32, 16), (33, 1), (8, 100)])
def test_any_depth_and_any_size_of_the_last_minibatch(hidden: tuple[int, ...], n_samples: int, batch_size: int) -> None:
    Twins(hidden=hidden, n_samples=n_samples, batch_size=batch_size).assert_one_epoch_agrees(torch.randperm(n_samples))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()], ids=repr)
def test_in_float32(activation: nn.Module) -> None:
    Twins(activation, dtype=torch.float32).assert_one_epoch_agrees(torch.randperm(50), rtol=1e-5)


def test_a_planted_error_would_be_noticed() -> None:
    twins = Twins()
    twins.closed.targets[7] += 1e-6
    with pytest.raises(AssertionError, match="not close"):
        twins.assert_one_epoch_agrees(torch.randperm(50))


# ---------------------------------------------------------------- as the critic uses it


def fit(twins: Twins, closed: bool, make: Any = torch.optim.Adam, epochs: int = 1, others: tuple[Tensor, ...] = ()) -> Any:
    optimizer = make([*others, *twins.parameters], lr=1e-2)
    orders = iter([torch.randperm(len(twins.x), generator=torch.Generator().manual_seed(i)) for i in range(epochs)])

    def minibatches() -> Any:
        order = next(orders)
        return twins.closed.epoch(order) if closed else map(twins.loss, order.split(twins.batch_size))

    def whole() -> float:
        with torch.no_grad():
            return float(twins.loss(torch.arange(len(twins.x))))

    return fit_critic(
        CriticProblem(twins.parameters, optimizer, minibatches, whole, gradients_given=closed), CriticSettings(epochs, epochs)
    )


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_one_epoch_of_steps_leads_to_the_same_parameters(dtype: torch.dtype, rtol: float, make: Any) -> None:
    moved, results = [], []
    for closed in (True, False):
        torch.manual_seed(5)
        twins = Twins(dtype=dtype)
        results.append(fit(twins, closed, make))
        moved.append(torch.cat([parameter.detach().flatten() for parameter in twins.parameters]))
    assert float((moved[0] - moved[1]).abs().max()) <= rtol * float(moved[1].abs().max())
    assert results[0].status is results[1].status is CriticStatus.IMPROVED
    assert results[0].mean_minibatch_loss == pytest.approx(results[1].mean_minibatch_loss, rel=rtol)


def test_no_gradient_is_left_on_anything() -> None:
    twins = Twins()
    fit(twins, closed=True, epochs=2)
    assert all(parameter.grad is None for parameter in twins.parameters)


@pytest.mark.parametrize("closed", [True, False])
def test_gradients_that_others_have_left_are_not_stepped_along(closed: bool) -> None:
    actor, twins = nn.Parameter(torch.ones(2)), Twins()
    actor.grad = torch.ones(2)
    fit(twins, closed, others=(actor,))
    assert actor.tolist() == [1.0, 1.0]


def test_a_non_finite_loss_is_undone() -> None:
    twins = Twins()
    before = [parameter.detach().clone() for parameter in twins.parameters]
    twins.closed.targets[3] = torch.inf
    assert fit(twins, closed=True, epochs=2).status is CriticStatus.NON_FINITE
    assert all(torch.equal(now, old) for now, old in zip(twins.parameters, before, strict=True))
