"""From a model's arguments to the settings of ``core``: plain Python numbers, whatever a YAML file or NumPy gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sb3_trpo_ext.core.cg import CGSettings
from sb3_trpo_ext.core.critic import CriticSettings
from sb3_trpo_ext.core.damping import RANGE_FACTOR, DampingState
from sb3_trpo_ext.core.fisher import RungChoice
from sb3_trpo_ext.core.update import PolicySettings
from sb3_trpo_ext.sb3.problems import Evaluated

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO

RESIDUALS_MEMORY = 2**31
"""Bytes that CG's earlier residuals may hold: 25 of 10 million parameters in float64."""


def damping_state(model: TRPO) -> DampingState:
    """
    Find the damping of the next update.

    :param model: the model
    :return: its adapted damping, within its range; the configured one if it does not adapt
    """
    configured = float(model.cg_damping)
    if not model.adaptive_damping:
        return DampingState(configured, configured, configured, adaptive=False)
    low, high = map(float, model.cg_damping_range or (configured, RANGE_FACTOR * configured))
    # A model that was loaded with another unit of the KL has learnt nothing about its damping.
    adapted = model._adapted_damping if model._adapted_damping_unit == model.kl_unit else None
    value = configured if adapted is None else adapted
    return DampingState(min(max(value, low), high), low, high)


def policy_settings(model: TRPO, evaluated: Evaluated, rung: RungChoice) -> PolicySettings:
    """
    Say how the policy is stepped.

    :param model: the model
    :param evaluated: the batch, for the size of the actor
    :param rung: how Fisher products are computed
    :return: settings of the policy step
    """
    n_parameters = sum(parameter.numel() for parameter in evaluated.problem.parameters)
    steps = int(model.cg_max_steps)
    return PolicySettings(
        max_kl=float(model.target_kl),
        normalize_advantage=bool(model.normalize_advantage),
        min_explained_variance=model.min_explained_variance,
        cg=CGSettings(steps, float(model.cg_rtol), keep=min(steps, RESIDUALS_MEMORY // (8 * n_parameters))),
        cg_precision=model.cg_precision,
        rung=rung,
        shrink=float(model.line_search_shrinking_factor),
        max_trials=int(model.line_search_max_iter),
    )


def critic_settings(model: TRPO) -> CriticSettings:
    """
    Say how long the critic is trained.

    :param model: the model
    :return: settings of the critic's epochs
    """
    most = 2 * model.n_critic_updates if model.max_critic_updates is None else model.max_critic_updates
    return CriticSettings(int(model.n_critic_updates), int(most), model.critic_tolerance)


def sub_sample(model: TRPO, n_samples: int) -> tuple[int, torch.Generator] | None:
    """
    Choose the sub-sample of the Fisher products.

    :param model: the model
    :param n_samples: size of the batch
    :return: how many, and a generator of its own, made from the seed and the update's number, so that a resumed run draws
        the same; None: all
    """
    if model.sub_sampling_factor == 1:
        return None
    generator = torch.Generator().manual_seed(((model.seed or 0) << 24) + model._n_updates)
    return n_samples // int(model.sub_sampling_factor), generator
