"""What observers read of a model, which is ``sb3_trpo_ext.TRPO``: they don't know its class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from sb3_trpo_ext.core.report import UpdateReport


class Batch(Protocol):
    """One rollout, flat: tensors of all samples, and rewards and episode starts as (n_steps, n_envs)."""

    observations: Tensor | dict[str, Tensor]
    actions: Tensor
    values: Tensor
    log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    n_steps: int | None
    rewards: np.ndarray | None
    episode_starts: np.ndarray | None
    phi: Tensor | None
    places: Tensor | None


class Held(Protocol):
    """What the policy and its optimiser held."""

    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]


class Streams(Protocol):
    """States of random streams."""

    numpy: tuple[Any, ...]
    torch: Tensor


class Start(Protocol):
    """What the newest update began with."""

    n_updates: int
    num_timesteps: int
    held: Held
    streams: Streams
    batch: Batch
    learning_rate: float
    max_kl: float
    adapted_damping: float | None
    adapted_damping_unit: str | None
    updates_skipped: int
    n_ranks: int


class Inputs(Protocol):
    """What went into the newest update."""

    batch: Batch


class Session(Protocol):
    """What lives while the model learns."""

    failure_observers: list[Callable[[BaseException], None]]
    keep_update_start: bool
    update_start: Start | None
    update_inputs: Inputs | None


class Observed(Protocol):
    """The model: what our TRPO has, and then what SB3's models have."""

    session: Session
    last_update: UpdateReport | None
    run_folder: Path | None

    policy: ActorCriticPolicy
    policy_class: type[ActorCriticPolicy]
    policy_kwargs: dict[str, Any]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_envs: int
    device: torch.device
    ep_info_buffer: Any
    ep_success_buffer: Any

    def save(self, path: Path) -> None:
        """
        As in SB3.

        :param path: of the zip
        """

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """As in SB3."""


def observed(callback: BaseCallback) -> Observed:
    """
    Give the model of a callback that has found it to be one of ours.

    :param callback: the observer
    :return: its model
    """
    return cast("Observed", callback.model)


def newest_report(callback: BaseCallback) -> UpdateReport | None:
    """
    Look up the newest update, wherever the observer is in its life: the end of a training may be announced where its
    beginning has failed.

    :param callback: the observer
    :return: the report; None before the first update, and of a model of another class
    """
    return getattr(getattr(callback, "model", None), "last_update", None)
