"""The critic on a whole rollout at once, in parts that fit the memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

VALUES_MEMORY = 2**26
"""Bytes of float32 observations that the critic gets at once; its activations take about as much again in a CNN."""


def predict_values(policy: ActorCriticPolicy, observations: Any) -> np.ndarray:
    """
    Predict values.

    :param policy: the policy, in eval mode
    :param observations: arrays or tensors, or a dict of them, first dimension n_samples
    :return: shape (n_samples,), float32
    """
    parts = list(observations.values()) if isinstance(observations, dict) else [observations]
    n_samples = len(parts[0])
    bytes_each = 4 * sum(math.prod(part.shape[1:]) for part in parts)
    size = max(1, VALUES_MEMORY // bytes_each)

    def chunk(first: int) -> Any:
        return map_arrays(lambda part: torch.as_tensor(part[first : first + size], device=policy.device), observations)

    with torch.no_grad():
        values = [policy.predict_values(chunk(first)).flatten() for first in range(0, n_samples, size)]
    array: np.ndarray = torch.cat(values).cpu().numpy()
    return array


def map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    """
    Apply a function to observations.

    :param function: what to do with each array
    :param tree: an array, or a dict of them
    :return: the same with the results
    """
    return {key: function(value) for key, value in tree.items()} if isinstance(tree, dict) else function(tree)
