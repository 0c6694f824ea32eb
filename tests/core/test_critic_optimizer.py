"""Fused Adam steps: the same numbers, only while the critic trains, and only where they are possible."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sb3_trpo_ext.core.critic import CriticProblem, CriticSettings, fit_critic

SETTINGS = CriticSettings(4, 4)


class FusedSpy:
    """A regression that notes, at every minibatch, whether each group is fused."""

    def __init__(self, make: Any = torch.optim.Adam, **options: Any):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = make(self.net.parameters(), lr=1e-2, **options)
        self.x, self.y = torch.randn(32, 3), torch.randn(32, 1)
        self.seen: list[Any] = []

    def minibatches(self) -> Iterator[Tensor]:
        for rows in (slice(0, 16), slice(16, 32)):
            self.seen.append(self.optimizer.param_groups[0].get("fused"))
            yield nn.functional.mse_loss(self.net(self.x[rows]), self.y[rows])

    def whole(self) -> float:
        with torch.no_grad():
            return float(nn.functional.mse_loss(self.net(self.x), self.y))

    def fit(self) -> None:
        fit_critic(CriticProblem([*self.net.parameters()], self.optimizer, self.minibatches, self.whole), SETTINGS)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_steps_are_the_steps_of_plain_adam(make: Any) -> None:
    ours, plain = FusedSpy(make), FusedSpy(make, foreach=False)
    ours.fit()
    for _ in range(4):
        for loss in plain.minibatches():
            plain.optimizer.zero_grad()
            loss.backward()
            plain.optimizer.step()
    assert ours.seen == [True] * 8
    for one, two in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("before", [None, False, True])
def test_the_groups_are_as_they_were_afterwards(before: bool | None) -> None:
    spy = FusedSpy(fused=before)
    spy.fit()
    assert spy.seen[0] is True
    assert spy.optimizer.param_groups[0]["fused"] is before


def test_also_if_a_minibatch_raises() -> None:
    spy = FusedSpy()

    def broken() -> Iterator[Tensor]:
        yield next(spy.minibatches())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_critic(CriticProblem([*spy.net.parameters()], spy.optimizer, broken, spy.whole), SETTINGS)
    assert spy.optimizer.param_groups[0]["fused"] is None


class HouseAdam(torch.optim.Adam):
    pass


@pytest.mark.parametrize(
    ("make", "options"),
    [(torch.optim.SGD, {}), (torch.optim.RMSprop, {}), (HouseAdam, {}), (torch.optim.Adam, {"foreach": True})],
)
def test_other_optimisers_step_as_they_do(make: Any, options: dict[str, Any]) -> None:
    spy = FusedSpy(make, **options)
    spy.fit()
    assert not any(spy.seen)


def test_counters_on_another_device_are_not_given_to_a_fused_kernel() -> None:
    """A GPU's Adam that was saved without fusion counts its steps on the CPU; here "meta" is the other device."""
    spy = FusedSpy()
    spy.fit()
    parameters = [*spy.net.parameters()]
    real = {p: spy.optimizer.state[p]["step"] for p in parameters}
    for p in parameters:
        spy.optimizer.state[p]["step"] = real[p].to("meta")
    spy.seen.clear()

    def looks_and_stops() -> Iterator[Tensor]:
        next(spy.minibatches())
        raise StopAsyncIteration
        yield  # a generator

    with pytest.raises(StopAsyncIteration):
        fit_critic(CriticProblem(parameters, spy.optimizer, looks_and_stops, spy.whole), SETTINGS)
    assert spy.seen == [None]
