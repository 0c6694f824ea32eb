"""From a model's arguments to the settings of ``core``: plain Python numbers, whatever a YAML file or NumPy gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sb3_trpo_ext.core.cg import CGSettings
from sb3_trpo_ext.core.critic import CriticSettings
from sb3_trpo_ext.core.damping import RANGE_FACTOR, DampingState
from sb3_trpo_ext.core.update import PolicySettings
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution
from sb3_trpo_ext.sb3.problem.evaluation import Evaluated
from sb3_trpo_ext.sb3.problem.kfac import score_generator

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO

RESIDUALS_MEMORY = 2**31
"""Bytes that CG's earlier residuals may hold: 25 of 10 million parameters in float64."""

FIRST_DAMPING = 0.1
"""Where lambda begins to rise from cg_damping=0: sb3-contrib's default, in its unit. The Fisher matrix of a network is nearly
singular, and undamped CG that keeps its residuals orthogonal steps along directions that the batch hardly sees, beyond where
the quadratic model of the KL holds: of a new policy every candidate of every line search may be rejected. (Plain float32 CG
loses its orthogonality before it gets there, which damps.)"""

SETTLED_PROGRESS, SETTLED_WINDOW = 1e-2, 3
"""Preconditioned, CG has settled when its model falls by less than this share an iteration, over so many of them. (Martens'
5e-4 and 10, for hundreds of iterations, end a solve of 25 after 15 to 25; these after 5 to 17, on trained MuJoCo policies.)"""


def damping_state(model: TRPO) -> DampingState:
    """
    Find the damping of the next update.

    :param model: the model
    :return: its adapted damping, within its range; the configured one if it does not adapt
    """
    configured = float(model.cg_damping)
    if not model.adaptive_damping:
        return DampingState(configured, configured, configured, adaptive=False)
    low, high = map(float, model.cg_damping_range or (configured, RANGE_FACTOR * (configured or _first_damping(model))))
    # A model that was loaded with another unit of the KL has learnt nothing about its damping.
    adapted = model._adapted_damping if model._adapted_damping_unit == model.kl_unit else None
    value = configured if adapted is None else adapted
    return DampingState(min(max(value, low), high), low, high)


def _first_damping(model: TRPO) -> float:
    return FIRST_DAMPING * (action_distribution(model.policy).independent_dims if model.kl_unit == "joint" else 1)


def policy_settings(model: TRPO, evaluated: Evaluated) -> PolicySettings:
    """
    Say how the policy is stepped.

    :param model: the model
    :param evaluated: the batch, for the size of the actor
    :return: settings of the policy step
    """
    n_parameters = sum(parameter.numel() for parameter in evaluated.problem.parameters)
    return PolicySettings(
        max_kl=model.max_kl,
        normalize_advantage=bool(model.normalize_advantage),
        min_explained_variance=model.min_explained_variance,
        cg=_cg_settings(model, n_parameters),
        cg_precision=model.cg_precision,
        shrink=float(model.line_search_shrinking_factor),
        max_trials=int(model.line_search_max_iter),
    )


def _cg_settings(model: TRPO, n_parameters: int) -> CGSettings:
    steps = int(model.cg_max_steps)
    preconditioned = model.cg_preconditioner == "kfac"
    # With a preconditioner P, each residual r is kept together with P^-1 r.
    keep = min(steps, RESIDUALS_MEMORY // (8 * n_parameters * (2 if preconditioned else 1)))
    if not preconditioned:
        return CGSettings(steps, float(model.cg_rtol), keep)
    return CGSettings(steps, float(model.cg_rtol), keep, progress=SETTLED_PROGRESS, window=SETTLED_WINDOW)


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


def scores(model: TRPO) -> torch.Generator | None:
    """
    Choose what draws the scores of the K-FAC preconditioner.

    :param model: the model
    :return: a generator of its own, made as that of the sub-sample; None: there is no preconditioner
    """
    return score_generator(model.seed, model._n_updates) if model.cg_preconditioner == "kfac" else None
