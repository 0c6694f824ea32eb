"""
Value-function epochs, enforced: an undertrained critic biases the advantages while the KL looks fine.

At least ``min_epochs`` epochs of minibatch regression on the returns; more, up to ``max_epochs``, while the value loss of
the whole batch is not below where it began, or (with a tolerance) while an epoch still lowers it by that share.
Only the critic's own parameters move. If the loss or the optimiser's state is ever non-finite, parameters and optimiser go
back to where they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sb3_trpo_ext.core.flat import Snapshot, all_finite
from sb3_trpo_ext.core.status import CriticStatus


@dataclass(frozen=True)
class CriticProblem:
    """
    The regression.

    :param parameters: the critic's own parameters: what the values depend on and the actor does not
    :param optimizer: steps them
    :param minibatches: makes one epoch's minibatch losses, scalar tensors, one after another
    :param whole_batch_loss: mean squared error over the batch, without a graph
    :param gradients_given: with each loss its gradient already stands in the parameters' ``grad``; else losses have graphs
    """

    parameters: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    minibatches: Callable[[], Iterable[Tensor]]
    whole_batch_loss: Callable[[], float]
    gradients_given: bool = False


@dataclass(frozen=True)
class CriticSettings:
    """
    How long to train.

    :param min_epochs: enforced epochs, >= 0
    :param max_epochs: end of the extra epochs, >= min_epochs
    :param tolerance: go on while an epoch lowers the loss by more than this share, >= 0; None: stop when it is lower
    """

    min_epochs: int
    max_epochs: int
    tolerance: float | None = None


@dataclass(frozen=True)
class CriticResult:
    """
    How training went.

    :param status: improved, did not converge, non-finite (undone), not run
    :param epochs: epochs done
    :param loss_before: value loss of the whole batch, None if not run
    :param loss_after: the same afterwards
    :param mean_minibatch_loss: mean over all minibatches of all epochs, as sb3-contrib logs it; None if not run
    """

    status: CriticStatus
    epochs: int
    loss_before: float | None
    loss_after: float | None
    mean_minibatch_loss: float | None


def fit_critic(problem: CriticProblem, settings: CriticSettings) -> CriticResult:
    """
    Train the value function.

    :param problem: the regression
    :param settings: how long
    :return: what happened; a non-finite loss is a status, and undone
    """
    before = problem.whole_batch_loss()
    if settings.min_epochs == 0 or not problem.parameters:
        return CriticResult(CriticStatus.NOT_RUN, 0, before, before, None)
    snapshot = Snapshot.take(problem.parameters)
    optimizer_state = copy.deepcopy(problem.optimizer.state_dict())
    minibatch_losses: list[Tensor] = []
    previous = current = before
    epochs = 0
    with _fused(problem.optimizer):
        while _another_epoch(epochs, before, previous, current, settings):
            minibatch_losses.extend(_epoch(problem))
            epochs += 1
            # The enforced epochs need no verdict in between (parameters that became non-finite stay so); a tolerance
            # compares the last of them with the one before.
            if epochs >= settings.min_epochs - (settings.tolerance is not None):
                previous, current = current, problem.whole_batch_loss()
    mean_minibatch_loss = float(torch.stack(minibatch_losses).mean())
    # A minibatch's loss may overflow and its gradient not, or a gradient's square and not the gradient (Adam's second moment
    # is then infinite, and its parameter never moves again): the whole batch would not show it.
    if not math.isfinite(current + mean_minibatch_loss) or not _finite_state(problem.optimizer):
        snapshot.restore()
        problem.optimizer.load_state_dict(optimizer_state)
        return CriticResult(CriticStatus.NON_FINITE, epochs, before, before, None)
    status = CriticStatus.IMPROVED if current < before else CriticStatus.DID_NOT_CONVERGE
    return CriticResult(status, epochs, before, current, mean_minibatch_loss)


def _finite_state(optimizer: torch.optim.Optimizer) -> bool:
    """Whether moments and the like are finite."""
    return all_finite(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def _another_epoch(epochs: int, before: float, previous: float, current: float, settings: CriticSettings) -> bool:
    if epochs < settings.min_epochs:
        return True
    if epochs >= settings.max_epochs or not math.isfinite(current):
        return False
    if not current < before:
        return True
    return settings.tolerance is not None and previous - current > settings.tolerance * previous


@contextmanager
def _fused(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """One kernel a step for plain Adam, while training: the groups, which are saved with the model, stay as they were."""
    groups = [group for group in optimizer.param_groups if _can_fuse(optimizer, group)]
    before = [group.get("fused") for group in groups]
    try:
        for group in groups:
            group["fused"] = True
        yield
    finally:
        for group, fused in zip(groups, before, strict=True):
            group["fused"] = fused


def _can_fuse(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return False
    if any(group.get(name) for name in ("foreach", "capturable", "differentiable")):
        return False
    # Steps made without fusion are counted on the CPU, also a GPU's: a fused kernel could not read those counters.
    steps = [(optimizer.state[p].get("step", p), p) for p in group["params"] if p in optimizer.state]
    if any(isinstance(step, Tensor) and step.device != p.device for step, p in steps):
        return False
    return all(p.device.type in ("cpu", "cuda") and p.dtype in (torch.float32, torch.float64) for p in group["params"])


def _epoch(problem: CriticProblem) -> list[Tensor]:
    """One pass over the minibatches; the losses before each step."""
    losses = []
    optimizer, parameters = problem.optimizer, list(problem.parameters)
    # Gradients that somebody has left, on the actor's parameters too, would be stepped along.
    optimizer.zero_grad(set_to_none=True)
    for loss in problem.minibatches():
        if not problem.gradients_given:
            optimizer.zero_grad(set_to_none=True)
            # Gradients of the critic's own parameters only: what is shared with the actor stays within its trust region.
            loss.backward(inputs=parameters)
        optimizer.step()
        losses.append(loss.detach())
    optimizer.zero_grad(set_to_none=True)
    return losses
