"""Value-function epochs: enforced, bounded, and undone bit for bit where the loss is no number."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sb3_trpo_ext.core.critic import CriticProblem, CriticSettings, fit_critic
from sb3_trpo_ext.core.status import CriticStatus


class Scripted:
    """A critic whose whole-batch losses are given: how many epochs follow is decided by them alone."""

    def __init__(self, *losses: float):
        self.losses = list(losses)
        self.epochs = 0
        self.parameter = nn.Parameter(torch.zeros(1))

    def minibatches(self) -> Iterator[Tensor]:
        self.epochs += 1
        yield (self.parameter - 1.0).square().sum()

    def fit(self, min_epochs: int, max_epochs: int, tolerance: float | None = None) -> Any:
        optimizer = torch.optim.SGD([self.parameter], lr=0.01)
        problem = CriticProblem([self.parameter], optimizer, self.minibatches, lambda: self.losses[min(self.epochs, 99)])
        return fit_critic(problem, CriticSettings(min_epochs, max_epochs, tolerance))


def losses(*numbers: float) -> Scripted:
    """The last number stays."""
    return Scripted(*numbers, *([numbers[-1]] * 100))


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_the_enforced_epochs_run_though_the_loss_falls_at_once(epochs: int) -> None:
    critic = losses(1.0, 0.1)
    result = critic.fit(epochs, 10)
    assert (critic.epochs, result.epochs, result.status) == (epochs, epochs, CriticStatus.IMPROVED)
    assert (result.loss_before, result.loss_after) == (1.0, 0.1)


@pytest.mark.parametrize("stuck", [1.0, 1.5])
def test_more_epochs_while_the_loss_is_not_below_its_start(stuck: float) -> None:
    critic = losses(1.0, stuck, stuck, stuck, stuck, 0.9)
    result = critic.fit(2, 10)
    assert (result.epochs, result.status, result.loss_after) == (5, CriticStatus.IMPROVED, 0.9)


@pytest.mark.parametrize("stuck", [1.0, 1.5])
def test_not_more_than_the_maximum(stuck: float) -> None:
    critic = losses(1.0, stuck)
    result = critic.fit(2, 6)
    assert (critic.epochs, result.epochs, result.status) == (6, 6, CriticStatus.DID_NOT_CONVERGE)
    assert result.loss_after == stuck


@pytest.mark.parametrize(("tolerance", "epochs"), [(None, 2), (0.4, 4), (0.2, 6), (0.0, 7)])
def test_a_tolerance_goes_on_while_an_epoch_lowers_the_loss_by_that_share(tolerance: float | None, epochs: int) -> None:
    critic = losses(16.0, 8.0, 4.0, 2.0, 1.5, 1.05, 1.0, 1.0)
    assert critic.fit(2, 20, tolerance).epochs == epochs


def test_a_tolerance_also_judges_the_only_enforced_epoch() -> None:
    assert losses(16.0, 15.9, 8.0).fit(1, 20, 0.1).epochs == 1


def test_the_maximum_also_bounds_a_tolerance() -> None:
    assert Scripted(*[0.5**i for i in range(100)]).fit(1, 7, 0.1).epochs == 7


@pytest.mark.parametrize("before", [math.nan, math.inf])
def test_a_loss_that_was_never_finite_does_not_run_for_ever(before: float) -> None:
    result = losses(before).fit(2, 6)
    assert (result.epochs, result.status) == (2, CriticStatus.NON_FINITE)


# ---------------------------------------------------------------- what moves, and what is undone


class Regression:
    """A shared trunk and a critic's head, with Adam over both, as SB3 has it."""

    def __init__(self) -> None:
        self.trunk, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.everything = [*self.trunk.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(self.everything, lr=3e-2)
        self.x, self.y = torch.randn(64, 3), torch.randn(64, 1)
        self.poison: tuple[int, float] | None = None
        self.minibatch = 0

    def loss(self, rows: slice) -> Tensor:
        return nn.functional.mse_loss(self.head(torch.tanh(self.trunk(self.x[rows]))), self.y[rows])

    def minibatches(self) -> Iterator[Tensor]:
        for start in range(0, 64, 16):
            self.minibatch += 1
            loss = self.loss(slice(start, start + 16))
            yield loss * self.poison[1] if self.poison and self.poison[0] == self.minibatch else loss

    def whole_batch_loss(self) -> float:
        with torch.no_grad():
            return float(self.loss(slice(None)))

    def problem(self) -> CriticProblem:
        return CriticProblem([*self.head.parameters()], self.optimizer, self.minibatches, self.whole_batch_loss)

    def state(self) -> Any:
        return copy.deepcopy(([p.detach() for p in self.everything], self.optimizer.state_dict()))


def assert_same_bits(one: Any, two: Any) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_only_the_critics_own_parameters_move() -> None:
    critic = Regression()
    trunk = [p.detach().clone() for p in critic.trunk.parameters()]
    head = [p.detach().clone() for p in critic.head.parameters()]
    result = fit_critic(critic.problem(), CriticSettings(5, 10))
    assert result.status is CriticStatus.IMPROVED
    assert_same_bits([p.detach() for p in critic.trunk.parameters()], trunk)
    assert all(not torch.equal(p, old) for p, old in zip(critic.head.parameters(), head, strict=True))
    assert all(p.grad is None for p in critic.everything), "no gradient is left for anybody's next step"
    assert not any(p in critic.optimizer.state for p in critic.trunk.parameters())


def test_reported_losses_are_those_of_the_whole_batch() -> None:
    critic = Regression()
    before = critic.whole_batch_loss()
    result = fit_critic(critic.problem(), CriticSettings(3, 6))
    assert (result.loss_before, result.loss_after) == (before, critic.whole_batch_loss())
    assert result.mean_minibatch_loss is not None
    assert result.loss_after is not None
    assert result.loss_after < result.mean_minibatch_loss < before


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("minibatch", [1, 6, 8])
@pytest.mark.parametrize("history", [0, 3])
def test_a_non_finite_loss_undoes_parameters_and_optimiser(factor: float, minibatch: int, history: int) -> None:
    critic = Regression()
    if history:
        fit_critic(critic.problem(), CriticSettings(history, history))
    before, loss_before = critic.state(), critic.whole_batch_loss()
    critic.minibatch, critic.poison = 0, (minibatch, factor)
    result = fit_critic(critic.problem(), CriticSettings(2, 4))
    assert_same_bits(critic.state(), before)
    assert (result.status, result.epochs, result.mean_minibatch_loss) == (CriticStatus.NON_FINITE, 2, None)
    assert result.loss_before == result.loss_after == loss_before
    critic.poison = None
    assert fit_critic(critic.problem(), CriticSettings(2, 4)).status is CriticStatus.IMPROVED, "it can go on afterwards"


def test_a_loss_that_overflows_but_leaves_finite_parameters_is_undone_too() -> None:
    """An infinite minibatch loss may have a finite gradient, so that the whole batch's loss is finite again."""
    critic = Regression()
    before = critic.state()

    def minibatches() -> Iterator[Tensor]:
        yield critic.loss(slice(None))
        yield critic.loss(slice(None)) + math.inf

    problem = CriticProblem([*critic.head.parameters()], critic.optimizer, minibatches, critic.whole_batch_loss)
    assert fit_critic(problem, CriticSettings(2, 4)).status is CriticStatus.NON_FINITE
    assert_same_bits(critic.state(), before)


@pytest.mark.parametrize(("epochs", "with_parameters"), [(0, True), (3, False)])
def test_not_run_without_epochs_or_parameters(epochs: int, with_parameters: bool) -> None:
    critic = Regression()
    before, loss = critic.state(), critic.whole_batch_loss()
    own = [*critic.head.parameters()] if with_parameters else []
    problem = CriticProblem(own, critic.optimizer, critic.minibatches, critic.whole_batch_loss)
    result = fit_critic(problem, CriticSettings(epochs, 2 * epochs))
    assert (result.status, result.epochs, result.mean_minibatch_loss) == (CriticStatus.NOT_RUN, 0, None)
    assert result.loss_before == result.loss_after == loss
    assert_same_bits(critic.state(), before)


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_moments_that_become_infinite_are_undone_though_no_loss_shows_it(key: str) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.1)

    def minibatches() -> Iterator[Tensor]:
        yield (parameter - 1.0).square().sum()
        if key in optimizer.state[parameter]:
            optimizer.state[parameter][key].fill_(torch.inf)

    problem = CriticProblem([parameter], optimizer, minibatches, lambda: float((parameter - 1.0).square()))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    result = fit_critic(problem, CriticSettings(1, 1))
    assert (result.status, result.loss_after) == (CriticStatus.NON_FINITE, 1.0)
    assert float(parameter) == 0.0
    assert optimizer.state_dict()["state"] == before == {}
