"""What must hold when an update begins, whatever callbacks and the caller have done since the model was made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import sb3_contrib
import torch

from sb3_trpo_ext.sb3.arguments.validation import refuse_impossible
from sb3_trpo_ext.sb3.integrity.finiteness import refuse_non_finite_optimizer

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_plain_torch(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """
    Have a method run in ``plain_torch``.

    :param method: of ``TRPO``
    :return: the same
    """

    @functools.wraps(method)
    def plain(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with plain_torch():
            return method(*args, **kwargs)

    return plain


@contextmanager
def plain_torch() -> Iterator[None]:
    """
    Run in torch's ordinary mode, whatever the caller's: with gradients, without autocast.

    :yields: nothing
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def refuse_impossible_update(model: TRPO) -> None:
    """
    Raise where an update can't be what was asked for.

    :param model: the model; the learning rate of this update stands in its optimiser
    :raises ValueError: naming what is impossible, and what to do
    :raises NonFiniteError: the optimiser's state is not finite
    """
    # A callback may have set anything since the model was made.
    refuse_impossible(vars(model))
    buffer = model.rollout_buffer
    if not getattr(buffer, "full", True):
        raise ValueError(
            f"TRPO: the rollout buffer is not full ({buffer.pos} of {buffer.buffer_size} steps), so train() has no batch. "
            "Call collect_rollouts (or learn) before it, and not train() after a callback has ended a rollout."
        )
    for group in model.policy.optimizer.param_groups:
        rate = float(group["lr"])
        if not (math.isfinite(rate) and rate >= 0.0):
            raise ValueError(
                f"TRPO: the learning_rate schedule gave {rate} at update {model._n_updates + 1} (progress remaining "
                f"{model._current_progress_remaining:.3g}): it must give finite numbers >= 0. Nothing was changed."
            )
    refuse_non_finite_optimizer(model.policy)


def refuse_overridden_product(model: TRPO) -> None:
    """
    Refuse what would be ignored silently: sb3-contrib's hook for another curvature matrix, which we don't call.

    :param model: the model
    :raises TypeError: naming the override
    """
    for name in ("hessian_vector_product", "_compute_actor_grad"):
        if getattr(type(model), name) is not getattr(sb3_contrib.TRPO, name) or name in vars(model):
            raise TypeError(
                f"{type(model).__name__} overrides {name}, which sb3_trpo_ext.TRPO does not call (its Fisher products are "
                "computed by core.fisher). Remove the override, or derive from sb3_contrib.TRPO."
            )
