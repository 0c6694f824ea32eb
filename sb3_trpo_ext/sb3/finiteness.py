"""Whatever a rollout or an update reads must be finite: what is not is named with its place, before it can do harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.core.flat import all_finite
from sb3_trpo_ext.sb3.errors import NonFiniteError

FLOAT32_MAX = float(np.finfo(np.float32).max)

_OF_THE_ENVIRONMENT = (
    "Check the environment's rewards and observations there (a sensor, a division, an exploding simulation); "
    "stable_baselines3.common.vec_env.VecCheckNan finds the step that makes them."
)
_OF_THE_POLICY = (
    "The policy makes them: look for a log std or logits beyond float32's range (log_std_init, an action mask of minus "
    "infinity), and for weights that have exploded."
)
_OF_THE_CRITIC = (
    "The critic or the size of the rewards makes them: look for values that have exploded, lower learning_rate, and scale the "
    "rewards (VecNormalize)."
)
REMEDIES = {
    "actions": _OF_THE_POLICY,
    "log_prob": _OF_THE_POLICY,
    "values": _OF_THE_CRITIC,
    "advantages": _OF_THE_CRITIC,
    "returns": _OF_THE_CRITIC,
}
"""What to try, by what is not finite; rewards and observations, which are checked first, are the environment's."""


def refuse_non_finite(name: str, data: Any, step: int | None = None, n_steps: int | None = None) -> None:
    """
    Raise if anything is NaN or infinite in float32.

    :param name: what it is, for the message
    :param data: tensor, array, or dict of them; the first dimension is the environment if ``step`` is given, else the
        sample
    :param step: step of the rollout that the data are from
    :param n_steps: steps of each environment, if samples are ordered by environment
    :raises NonFiniteError: naming what and where
    """
    if isinstance(data, dict):
        for key, value in data.items():
            refuse_non_finite(f"{name}[{key!r}]", value, step, n_steps)
        return
    if isinstance(data, np.ndarray) and data.dtype.kind == "f" and data.size > 0 and np.abs(data).max() <= FLOAT32_MAX:
        # The usual case, in a tenth of the time: NaN and what float32 can't hold do not compare so.
        return
    tensor = torch.as_tensor(data)
    if not tensor.is_floating_point():
        return
    # As the policy sees it: float64 beyond the range of float32 is infinite to it.
    tensor = tensor.float()
    if bool(torch.isfinite(tensor).all()):
        return
    bad = ~torch.isfinite(tensor.reshape(len(tensor), -1)).all(dim=-1)
    first = int(bad.nonzero()[0])
    if step is not None:
        where = f"environment {first}, step {step}"
    elif n_steps is not None:
        where = "environment {}, step {}".format(*divmod(first, n_steps))
    else:
        where = f"sample {first} of the custom buffer"
    raise NonFiniteError(
        f"non-finite {name} in the rollout: first at {where} ({int(bad.sum())} affected). Policy and optimiser were not "
        f"changed. {REMEDIES.get(name, _OF_THE_ENVIRONMENT)}"
    )


def refuse_non_finite_parameters(policy: ActorCriticPolicy) -> None:
    """
    Raise if a parameter or buffer of the policy is NaN or infinite.

    :param policy: the policy
    :raises NonFiniteError: naming the first one
    """
    tensors = {name: t for name, t in policy.state_dict().items() if isinstance(t, Tensor) and t.is_floating_point()}
    if not tensors or bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).all()):
        return
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(
                f"non-finite parameter {name!r} in the policy: it was broken by something other than an update of TRPO. "
                "Nothing was changed; load the last good checkpoint."
            )


def refuse_non_finite_optimizer(policy: ActorCriticPolicy) -> None:
    """
    Raise if the optimiser's state is NaN or infinite: of infinite second moments nothing else would ever show.

    :param policy: the policy, with its optimiser
    :raises NonFiniteError: naming the first parameter whose state it is
    """
    state = policy.optimizer.state
    found = [(p, key, t) for p, kept in state.items() for key, t in kept.items() if _is_floating(t)]
    if all_finite(tensor for *_, tensor in found):
        return
    names: dict[Tensor, str] = {parameter: name for name, parameter in policy.named_parameters()}
    for parameter, key, tensor in found:
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(
                f"non-finite {key!r} of {names.get(parameter, 'a parameter')!r} in the optimiser's state: it was broken by "
                "something other than an update of TRPO. Nothing was changed; load the last good checkpoint, or clear "
                "model.policy.optimizer.state."
            )


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
