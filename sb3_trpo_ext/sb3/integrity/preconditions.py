"""What must hold when an update begins, whatever callbacks and the caller have done since the model was made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import sb3_contrib
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.sb3.integrity.finiteness import refuse_non_finite_optimizer

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


def refuse_impossible_update(buffer: Any, policy: ActorCriticPolicy, number: int, progress_remaining: float) -> None:
    """
    Raise where an update can't be what was asked for.

    :param buffer: the rollout
    :param policy: the policy; the learning rate of this update stands in its optimiser
    :param number: of the update, from 1
    :param progress_remaining: what the learning rate's schedule was given
    :raises ValueError: naming what is impossible, and what to do
    :raises NonFiniteError: the optimiser's state is not finite
    """
    if not getattr(buffer, "full", True):
        raise ValueError(
            f"TRPO: the rollout buffer is not full ({buffer.pos} of {buffer.buffer_size} steps), so train() has no batch. "
            "Call collect_rollouts (or learn) before it, and not train() after a callback has ended a rollout."
        )
    for group in policy.optimizer.param_groups:
        rate = float(group["lr"])
        if not (math.isfinite(rate) and rate >= 0.0):
            raise ValueError(
                f"TRPO: the learning_rate schedule gave {rate} at update {number} (progress remaining "
                f"{progress_remaining:.3g}): it must give finite numbers >= 0. Nothing was changed."
            )
    refuse_non_finite_optimizer(policy)


def refuse_overridden_product(kind: type[sb3_contrib.TRPO], own: Mapping[str, Any]) -> None:
    """
    Refuse what would be ignored silently: sb3-contrib's hook for another curvature matrix, which we don't call.

    :param kind: class of the model
    :param own: attributes of the model itself
    :raises TypeError: naming the override
    """
    for name in ("hessian_vector_product", "_compute_actor_grad"):
        if getattr(kind, name) is not getattr(sb3_contrib.TRPO, name) or name in own:
            raise TypeError(
                f"{kind.__name__} overrides {name}, which sb3_trpo_ext.TRPO does not call (its Fisher products are "
                "computed by core.fisher). Remove the override, or derive from sb3_contrib.TRPO."
            )
