"""
How far to go along a search direction: the largest step that the quadratic model of the KL allows.

KL(theta_k + s x) ~ s² xᵀFx / 2 <= delta (the paper's appendix C, where nothing is damped). As in sb3-contrib the damped
curvature is used: s = sqrt(2 delta / xᵀ(F + lambda I)x), which is never longer than the undamped one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepScale:
    """
    The scaled step and what the models predict of it.

    :param scale: s, multiplies the direction
    :param predicted_gain: s gᵀx, to first order
    :param predicted_kl: s² xᵀFx / 2, in the unit of the bounded KL
    """

    scale: float
    predicted_gain: float
    predicted_kl: float


def step_scale(direction: Tensor, damped_product: Tensor, g: Tensor, damping: float, max_kl: float) -> StepScale | None:
    """
    Scale a search direction to the boundary of the trust region.

    :param direction: x, shape (n,)
    :param damped_product: (F + damping I) x, shape (n,)
    :param g: gradient of the surrogate, shape (n,)
    :param damping: lambda of that product
    :param max_kl: delta, in the unit of the bounded KL
    :return: the scale, or None if the curvature along x is not finite and positive, or x does not ascend
    """
    curvature, squared, slope = torch.stack(
        [direction.dot(damped_product), direction.dot(direction), g.dot(direction)]
    ).tolist()
    if not (math.isfinite(curvature) and curvature > 0.0 and math.isfinite(slope) and slope > 0.0):
        return None
    scale = math.sqrt(2.0 * max_kl / curvature)
    if not math.isfinite(scale):
        return None
    undamped = max(0.0, curvature - damping * squared)
    return StepScale(scale, scale * slope, max_kl * undamped / curvature)
