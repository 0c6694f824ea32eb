"""Whatever a rollout or an update reads must be finite: what is not is named with its place, before it can do harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.sb3.errors import NonFiniteError

FLOAT32_MAX = float(np.finfo(np.float32).max)

AT_ONCE = 2**22
"""Numbers that are looked at together: what tells whether they are finite takes more memory than they do."""


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
    parts = tensor.reshape(-1).split(AT_ONCE)
    if bool(torch.stack([torch.isfinite(part.float()).all() for part in parts]).all()):
        return
    tensor = tensor.float()
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
        "changed. Check the environment's rewards and observations there (a sensor, a division, an exploding simulation); "
        "stable_baselines3.common.vec_env.VecCheckNan finds the step that makes them."
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
