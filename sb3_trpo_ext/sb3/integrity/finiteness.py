"""Whatever a rollout or an update reads must be finite: what is not is named with its place, before it can do harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.core.flat import all_finite
from sb3_trpo_ext.sb3.errors import NonFiniteError

NON_FINITE = "TRPO.non_finite"
"""Key of an info: what was not finite in a step that was dropped."""

FLOAT32_MAX = float(np.finfo(np.float32).max)

LARGEST = {np.dtype(dtype): float(np.sqrt(np.finfo(dtype).max)) / 1024 for dtype in (np.float32, np.float64)}
"""Below a VecNormalize: squares of what is no larger don't overflow when NumPy sums them, over a million environments. (One
observation of 1e20 in float32, and the variance is infinite from then on.)"""

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

AT_ONCE = 2**22
"""Numbers that are looked at together: what tells whether they are finite takes more memory than they do."""

SQUARES = {"f": FLOAT32_MAX / 4.0, "d": FLOAT32_MAX**2}
"""By NumPy's character of the dtype: what has no larger sum of squares is within every bound."""


def parts(observations: Any) -> Iterator[tuple[str, Any]]:
    """
    Give the arrays of observations.

    :param observations: an array, a number, or a dict of them; None: there is none
    :yields: their key, as a message writes it, and themselves
    """
    if isinstance(observations, dict):
        for key, part in observations.items():
            yield f"[{key!r}]", part
    elif observations is not None:
        yield "", observations


class Bounds:
    """
    What counts as finite: a number that is so in float32, the policy's precision; below a VecNormalize its square, too.

    :param normalised: whether a VecNormalize stands above
    """

    def __init__(self, normalised: bool):
        self.normalised = normalised

    def hold(self, data: Any) -> bool:
        """
        Check quickly.

        :param data: array or number of any dtype, or a dict of them
        :return: whether all of it is within the bounds
        """
        if type(data) is np.ndarray and data.dtype.char in SQUARES:
            # One pass, no temporary, no warning; NaN and infinity do not compare so. What does not pass is looked at closely.
            if np.vdot(data, data) <= SQUARES[data.dtype.char]:
                return True
        elif isinstance(data, dict):
            return all(map(self.hold, data.values()))
        array = np.asarray(data)
        return array.dtype.kind != "f" or bool(self._within(array).all())

    def first_beyond(self, data: Any) -> str | None:
        """
        Find the first number that is not within the bounds.

        :param data: array or number of any dtype
        :return: its index and value, as a message writes them; None if there is none
        """
        array = np.asarray(data)
        if array.dtype.kind != "f":
            return None
        beyond = np.argwhere(~self._within(array))
        if len(beyond) == 0:
            return None
        place = tuple(map(int, beyond[0]))
        return f"{list(place) if place else ''} = {float(array[place])}"

    def _within(self, array: np.ndarray) -> Any:
        largest = LARGEST.get(array.dtype, FLOAT32_MAX) if self.normalised else FLOAT32_MAX
        # In float64: half floats can't be compared with the bound.
        return np.abs(array.astype(np.float64)) <= largest


DEPLOYED = Bounds(normalised=False)


def refuse_non_finite(
    name: str,
    data: Any,
    step: int | None = None,
    n_steps: int | None = None,
    place_of: Callable[[int], int] = int,
) -> None:
    """
    Raise if anything is NaN or infinite in float32.

    :param name: what it is, for the message
    :param data: tensor, array, or dict of them; the first dimension is the environment if ``step`` is given, else the
        sample
    :param step: step of the rollout that the data are from
    :param n_steps: steps of each environment, if samples are ordered by environment
    :param place_of: environment * n_steps + step of a sample
    :raises NonFiniteError: naming what and where
    """
    if isinstance(data, dict):
        for key, value in data.items():
            refuse_non_finite(f"{name}[{key!r}]", value, step, n_steps, place_of)
        return
    if isinstance(data, np.ndarray) and DEPLOYED.hold(data):
        # The usual case, in a tenth of the time.
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
        where = "environment {}, step {}".format(*divmod(place_of(first), n_steps))
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


def refuse_non_finite_noise(policy: ActorCriticPolicy) -> None:
    """
    Raise if the exploration noise of gSDE can't be drawn: SB3's own error would not say why.

    :param policy: the policy
    :raises NonFiniteError: if its standard deviation is NaN or infinite
    """
    dist = policy.action_dist
    if not isinstance(dist, StateDependentNoiseDistribution):
        return
    log_std = policy.log_std.detach()
    if bool(torch.isfinite(dist.get_std(log_std)).all()):
        return
    raise NonFiniteError(
        f"non-finite standard deviation of the exploration (gSDE), from a log_std of up to {float(log_std.max()):.3g}. "
        f"Nothing was changed. {_OF_THE_POLICY}"
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
