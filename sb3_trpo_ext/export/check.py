"""Does a file act as the policy does? Asked of every file before it gets its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext.export.policy import ExportError, statistics_of

Act = Callable[[list[np.ndarray]], np.ndarray]
"""A batch of each raw observation -> actions: what has been read back from a file."""

BATCHES = (1, 33)
"""Sizes that are compared: that of a robot, and one that nothing was traced with."""
TOLERANCE = 1e-3
"""Of actions, relative to 1 + |action|, and of log-probabilities. Rounding is 1e-7 in a usual network; 6e-4 was seen in a
convolutional one with weights far too large. What is left out or turned around makes a difference of the actions' own size."""
WIDE = 1e6
"""Bounds further apart than this say nothing about what is usual (some environments give float32's largest)."""


def largest_difference(
    act: Act, model: OnPolicyAlgorithm, vec_normalize: VecNormalize | None, inputs: Mapping[str, spaces.Space]
) -> float:
    """
    Compare a file with the policy, on random observations.

    :param act: the file
    :param model: whose ``predict`` is right
    :param vec_normalize: statistics of the observations, if they are normalised
    :param inputs: the space of each raw observation
    :return: largest difference of Box actions; of others, the largest loss of log-probability
    :raises ExportError: if they differ by more than rounding does
    """
    generator = np.random.default_rng(0)
    largest = 0.0
    for size in BATCHES:
        raw = {name: sample(space, statistics_of(vec_normalize, name), size, generator) for name, space in inputs.items()}
        seen: Any = raw if isinstance(model.observation_space, spaces.Dict) else next(iter(raw.values()))
        seen = seen if vec_normalize is None else vec_normalize.normalize_obs(seen)
        expected, _ = model.predict(seen, deterministic=True)
        actions = act(list(raw.values()))
        if actions.shape != expected.shape:
            raise ExportError(
                f"the file gives actions of shape {actions.shape}, but predict {expected.shape}: no file is left"
            )
        difference, scale = _difference(model.policy, seen, actions, expected)
        if not bool(np.all(difference <= TOLERANCE * scale)):
            raise ExportError(
                f"the file does not act as the policy does (off by up to {np.max(difference):.3g}): no file is left. Does the "
                "policy or its features extractor choose by what it sees in Python (if, for), or draw random numbers?"
            )
        largest = max(largest, float(np.max(difference)))
    return largest


def _difference(policy: Any, seen: Any, actions: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Measure how far actions are from those expected.

    :param policy: the policy
    :param seen: what it sees
    :param actions: of the file
    :param expected: of ``predict``
    :return: difference, and what it is relative to less 1. A choice that is as likely is no difference: rounding decides ties
    """
    if isinstance(policy.action_space, spaces.Box):
        return np.abs(actions - expected), 1.0 + np.abs(expected)
    lost = _log_prob(policy, seen, expected) - _log_prob(policy, seen, actions)
    return np.where((actions == expected).reshape(len(lost), -1).all(axis=1), 0.0, np.abs(lost)), np.ones_like(lost)


def _log_prob(policy: ActorCriticPolicy, seen: Any, actions: np.ndarray) -> np.ndarray:
    observations, _ = policy.obs_to_tensor(seen)
    with torch.no_grad():
        log_prob = policy.get_distribution(observations).log_prob(torch.as_tensor(actions, device=policy.device))
    values: np.ndarray = log_prob.cpu().numpy()
    return values


def dtype_of(space: spaces.Space) -> np.dtype:
    """
    Tell the type of a raw observation.

    :param space: its space
    :return: the space's, but float32 for any float
    """
    dtype = np.dtype(space.dtype or np.float32)
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def sample(space: spaces.Space, statistics: RunningMeanStd | None, size: int, generator: np.random.Generator) -> np.ndarray:
    """
    Draw raw observations: where statistics or bounds say what is usual, from there and a little beyond.

    :param space: of the observation
    :param statistics: its mean and variance, if known
    :param size: how many
    :param generator: of random numbers
    :return: shape (size, *space.shape)
    """
    dtype, shape = dtype_of(space), (size, *(space.shape or ()))
    if statistics is not None:
        drawn = statistics.mean + 3.0 * np.sqrt(statistics.var) * generator.standard_normal(shape)
        return drawn.astype(dtype)
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        bounded = high - low < WIDE
        wide = np.clip(3.0 * generator.standard_normal(shape), low, high)
        drawn = np.where(bounded, generator.uniform(np.where(bounded, low, 0.0), np.where(bounded, high, 1.0), shape), wide)
        return (np.rint(drawn) if dtype.kind in "iu" else drawn).astype(dtype)
    space.seed(int(generator.integers(2**31)))
    return np.stack([space.sample() for _ in range(size)]).astype(dtype)
