"""One update's arguments in the terms of ``core``: plain Python numbers, whatever a YAML file, NumPy or a callback gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sb3_trpo_ext.core.cg import CGSettings
from sb3_trpo_ext.core.critic import CriticSettings
from sb3_trpo_ext.core.damping import RANGE_FACTOR, DampingState
from sb3_trpo_ext.core.update import PolicySettings
from sb3_trpo_ext.sb3.arguments.validation import SETTINGS, refuse_impossible

RESIDUALS_MEMORY = 2**31
"""Bytes that CG's earlier residuals may hold: 25 of 10 million parameters in float64."""

FIRST_DAMPING = 0.1
"""Where lambda begins to rise from cg_damping=0: sb3-contrib's default, in its unit. The Fisher matrix of a network is nearly
singular, and undamped CG that keeps its residuals orthogonal steps along directions that the batch hardly sees, beyond where
the quadratic model of the KL holds: of a new policy every candidate of every line search may be rejected. (Plain float32 CG
loses its orthogonality before it gets there, which damps.)"""

SETTLED_PROGRESS, SETTLED_WINDOW = 1e-2, 3
"""Preconditioned, CG has settled when its model falls by less than this share an iteration, over this many of them. (Martens'
5e-4 and 10, for hundreds of iterations, end a solve of 25 after 15 to 25; these after 5 to 17, on trained MuJoCo policies.)"""

NOT_COMPARED = frozenset({"learning_rate", "log_folder"})
"""They may differ between ranks, or can't be compared: a schedule is an object (the learning rate's value is compared)."""

ATTRIBUTES = (*SETTINGS, "seed", "_n_updates", "_adapted_damping", "_adapted_damping_unit", "kl_unit", "max_kl")
"""Attributes of a model that decide about an update."""


@dataclass(frozen=True)
class Hyperparameters:
    """
    What one update is asked to do.

    :param arguments: the constructor's arguments by name, as the model holds them now
    :param max_kl: delta > 0: bound of the mean KL, in ``kl_unit``
    :param kl_unit: "mean" over action dimensions, or "joint"
    :param kl_scale: bounded KL = this * joint KL, in (0, 1]
    :param damping: lambda of this update, within its range
    :param seed: of the random generators that the update makes for itself
    :param n_updates: earlier updates, >= 0
    """

    arguments: Mapping[str, Any]
    max_kl: float
    kl_unit: str
    kl_scale: float
    damping: DampingState
    seed: int
    n_updates: int

    @classmethod
    def of(cls, attributes: Mapping[str, Any], action_dims: int) -> Hyperparameters:
        """
        Read and check the attributes of a model: callbacks may have set anything since it was made.

        :param attributes: those of ``ATTRIBUTES``, by name
        :param action_dims: independent dimensions of an action, >= 1
        :return: the hyperparameters
        :raises ValueError: naming what is impossible, and the valid range
        """
        refuse_impossible(attributes)
        unit = attributes["kl_unit"]
        return cls(
            arguments={name: attributes[name] for name in SETTINGS},
            max_kl=attributes["max_kl"],
            kl_unit=unit,
            kl_scale=1.0 if unit == "joint" else 1.0 / action_dims,
            damping=_damping(attributes, unit, action_dims),
            seed=attributes["seed"] or 0,
            n_updates=attributes["_n_updates"],
        )

    def policy_settings(self, n_parameters: int) -> PolicySettings:
        """
        Say how the policy is stepped.

        :param n_parameters: of the actor
        :return: settings of the policy step
        """
        given = self.arguments
        return PolicySettings(
            max_kl=self.max_kl,
            normalize_advantage=bool(given["normalize_advantage"]),
            min_explained_variance=given["min_explained_variance"],
            cg=self._cg_settings(n_parameters),
            cg_precision=given["cg_precision"],
            shrink=float(given["line_search_shrinking_factor"]),
            max_trials=int(given["line_search_max_iter"]),
        )

    def _cg_settings(self, n_parameters: int) -> CGSettings:
        steps, rtol = int(self.arguments["cg_max_steps"]), float(self.arguments["cg_rtol"])
        # With a preconditioner P, each residual r is kept together with P^-1 r.
        keep = min(steps, RESIDUALS_MEMORY // (8 * n_parameters * (2 if self._preconditioned else 1)))
        if not self._preconditioned:
            return CGSettings(steps, rtol, keep)
        return CGSettings(steps, rtol, keep, progress=SETTLED_PROGRESS, window=SETTLED_WINDOW)

    @property
    def _preconditioned(self) -> bool:
        return bool(self.arguments["cg_preconditioner"] == "kfac")

    @property
    def critic_settings(self) -> CriticSettings:
        """How long the critic is trained."""
        least, most = self.arguments["n_critic_updates"], self.arguments["max_critic_updates"]
        return CriticSettings(int(least), int(2 * least if most is None else most), self.arguments["critic_tolerance"])

    def sub_sample(self, n_samples: int) -> tuple[int, torch.Generator] | None:
        """
        Choose the sub-sample of the Fisher products.

        :param n_samples: size of the batch
        :return: how many, and a generator of its own, made from the seed and the update's number, so that a resumed run draws
            the same; None: all
        """
        factor = self.arguments["sub_sampling_factor"]
        return None if factor == 1 else (n_samples // int(factor), self._generator(0))

    def scores(self) -> torch.Generator | None:
        """
        Choose what draws the scores of the K-FAC preconditioner.

        :return: a generator of its own; None: there is no preconditioner
        """
        return self._generator(1 << 60) if self._preconditioned else None

    def _generator(self, stream: int) -> torch.Generator:
        # torch's CPU generator reads the lower 32 bits of a seed: both streams are one, and of the seed eight bits are left.
        # To mend this is to change accepted steps.
        return torch.Generator().manual_seed((self.seed << 24) + self.n_updates + stream)


def comparable(attributes: Mapping[str, Any]) -> dict[str, str]:
    """
    Collect what decides about an update, beside the batch; the damping is learnt, and decides as well.

    :param attributes: of a model
    :return: as text, by name
    """
    names = [name for name in SETTINGS if name not in NOT_COMPARED]
    return {name: repr(attributes[name]) for name in (*names, "_adapted_damping")}


def _damping(attributes: Mapping[str, Any], unit: str, action_dims: int) -> DampingState:
    configured = float(attributes["cg_damping"])
    if not attributes["adaptive_damping"]:
        return DampingState(configured, configured, configured, adaptive=False)
    first = configured or FIRST_DAMPING * (action_dims if unit == "joint" else 1)
    low, high = map(float, attributes["cg_damping_range"] or (configured, RANGE_FACTOR * first))
    # A model that was loaded with another unit of the KL has learnt nothing about its damping.
    adapted = attributes["_adapted_damping"] if attributes["_adapted_damping_unit"] == unit else None
    return DampingState(min(max(configured if adapted is None else adapted, low), high), low, high)
