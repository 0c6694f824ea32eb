"""
On-policy collection, and the batch that it yields.

While SB3's loop collects, hooks on the policy (1) stop at an observation that is not finite, before it reaches the
network, and (2) keep the distribution parameters phi of each step as the actor computes them: full evidence of the
behaviour policy, at no cost a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_trpo_ext.sb3.action_distributions import distribution_parameters
from sb3_trpo_ext.sb3.errors import NonFiniteError

TIME_BLOCKS = 8
"""Blocks of time in which staleness is looked for: short enough to find a change halfway, long enough to average."""


@dataclass(frozen=True)
class RolloutBatch:
    """
    One rollout, flat. Where the order is known, sample = environment * n_steps + step.

    :param observations: tensor or dict of tensors, first dimension n_samples, as SB3's buffer gives them
    :param actions: shape (n_samples, ...), float32
    :param values: of the rollout, shape (n_samples,)
    :param log_prob: of the actions under the behaviour, shape (n_samples,)
    :param advantages: shape (n_samples,)
    :param returns: shape (n_samples,)
    :param n_steps: steps of each environment; None if a custom buffer orders samples in its own way
    :param phi: the behaviour's distribution parameters, shape (n_samples, n_parameters); None if not recorded
    """

    observations: PyTorchObs
    actions: Tensor
    values: Tensor
    log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    n_steps: int | None
    phi: Tensor | None

    def __len__(self) -> int:
        return len(self.advantages)

    def cells(self) -> Tensor | None:
        """
        Cell (environment, block of time) of each sample.

        :return: shape (n_samples,), int64; None if the order is unknown
        """
        if self.n_steps is None:
            return None
        sample = torch.arange(len(self))
        block = (sample % self.n_steps) * TIME_BLOCKS // self.n_steps
        return (sample // self.n_steps) * TIME_BLOCKS + block

    def cell_name(self, cell: int | None) -> str | None:
        """
        Name a cell for a person.

        :param cell: its index
        :return: environment and steps, None for None
        """
        if cell is None or self.n_steps is None:
            return None
        environment, block = divmod(cell, TIME_BLOCKS)
        first, end = (-(-edge * self.n_steps // TIME_BLOCKS) for edge in (block, block + 1))
        return f"environment {environment}, steps {first} to {end - 1}"


class BehaviourRecorder:
    """Keeps the behaviour's torch distribution of each step of a rollout."""

    def __init__(self) -> None:
        self._steps: dict[int, Any] = {}

    @contextmanager
    def recording(self, policy: ActorCriticPolicy, buffer: RolloutBuffer) -> Iterator[None]:
        """
        Watch the policy while a rollout is collected.

        :param policy: the behaviour
        :param buffer: the buffer that is filled; its ``pos`` is the step
        :yields: nothing
        """
        self._steps = {}

        def before(_: Any, args: Any, kwargs: Any) -> None:
            observations = args[0] if args else kwargs.get("obs")
            refuse_non_finite("observations", observations, getattr(buffer, "pos", None))

        def after(module: Any, *_: Any) -> None:
            # A callback may call the policy again before the step is stored: the first call of a step is the behaviour's.
            self._steps.setdefault(getattr(buffer, "pos", -1), getattr(module.action_dist, "distribution", None))

        handles = [policy.register_forward_pre_hook(before, with_kwargs=True), policy.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def phi(self, n_steps: int, n_envs: int) -> Tensor | None:
        """
        Give out what was recorded.

        :param n_steps: steps of the rollout
        :param n_envs: environments
        :return: phi, shape (n_envs * n_steps, n_parameters), environment by environment; None unless every step is there
        """
        distributions = [self._steps.get(step) for step in range(n_steps)]
        if any(dist is None for dist in distributions):
            return None
        phi = distribution_parameters(distributions)
        if len(phi) != n_steps * n_envs:
            return None
        return phi.view(n_steps, n_envs, -1).transpose(0, 1).reshape(n_steps * n_envs, -1).detach()


def read_batch(buffer: RolloutBuffer, recorder: BehaviourRecorder) -> RolloutBatch:
    """
    Read a full buffer once, environment by environment.

    :param buffer: SB3's buffer, or a custom one: then its own ``get`` decides about content and order
    :param recorder: what was recorded during collection
    :return: the batch
    """
    ordered = type(buffer).get in (RolloutBuffer.get, DictRolloutBuffer.get)
    if ordered:
        # Drawing one sample flattens the buffer, and takes from numpy's stream what sb3-contrib's policy step takes.
        next(iter(buffer.get(batch_size=1)))
        data = buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs))
    else:
        data = _concatenated(list(buffer.get(batch_size=None)))
    n_steps = buffer.buffer_size if ordered else None
    return RolloutBatch(
        observations=data.observations,
        actions=data.actions,
        values=data.old_values.flatten(),
        log_prob=data.old_log_prob.flatten(),
        advantages=data.advantages.flatten(),
        returns=data.returns.flatten(),
        n_steps=n_steps,
        phi=recorder.phi(buffer.buffer_size, buffer.n_envs) if ordered else None,
    )


def _concatenated(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]

    def join(column: tuple[Any, ...]) -> Any:
        if isinstance(column[0], dict):
            return {key: torch.cat([part[key] for part in column]) for key in column[0]}
        return torch.cat(column)

    return type(parts[0])(*(join(column) for column in zip(*parts, strict=True)))


def refuse_non_finite_rollout(batch: RolloutBatch, buffer: RolloutBuffer, last_obs: Any) -> None:
    """
    Check everything that an update reads; causes come before what they poison.

    :param batch: the batch
    :param buffer: where it comes from, for its rewards
    :param last_obs: observations after the last step, which the last values come from
    :raises NonFiniteError: naming what and where
    """
    for name, tensors in (("observations", batch.observations), ("actions", batch.actions)):
        refuse_non_finite(name, tensors, n_steps=batch.n_steps)
    rewards = torch.as_tensor(np.asarray(getattr(buffer, "rewards", ())))
    if rewards.ndim == 2:
        refuse_non_finite("rewards", rewards.T.reshape(-1), n_steps=len(rewards))
    if last_obs is not None:
        refuse_non_finite("observations", last_obs, step=buffer.buffer_size)
    for name in ("values", "log_prob", "advantages", "returns"):
        refuse_non_finite(name, getattr(batch, name), n_steps=batch.n_steps)


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
