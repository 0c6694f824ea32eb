"""From what the steps of an update return to the fields of its report; what is not finite is None there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sb3_trpo_ext.core.cg import CGResult
from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.line_search import LineSearchResult
from sb3_trpo_ext.core.objective import Advantages, OnPolicyCheck


def finite(value: float | None) -> float | None:
    """
    Replace a number that is not finite by None: nothing was computed that could be compared.

    :param value: any number or None
    :return: the number, or None
    """
    return value if value is not None and math.isfinite(value) else None


def _all_finite(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(finite(value) for value in values)


def check_fields(check: OnPolicyCheck, cell_name: str | None) -> dict[str, Any]:
    """
    Fields of the on-policy check.

    :param check: its result
    :param cell_name: name of the worst cell
    :return: values by field name
    """
    return {
        "behaviour_kl": finite(check.divergence),
        "behaviour_kl_worst": finite(check.worst),
        "behaviour_worst_cell": cell_name,
        "behaviour_kl_threshold": finite(check.threshold),
        "noise_floor": finite(check.noise_floor),
    }


def advantage_fields(advantages: Advantages | None) -> dict[str, Any]:
    """
    Fields of the raw advantages.

    :param advantages: the advantages, or None
    :return: values by field name
    """
    if advantages is None:
        return {"advantage_mean": None, "advantage_std": None, "advantage_quantiles": ()}
    return {
        "advantage_mean": finite(advantages.mean),
        "advantage_std": finite(advantages.std),
        "advantage_quantiles": advantages.quantiles if all(map(math.isfinite, advantages.quantiles)) else (),
    }


def cg_fields(result: CGResult | None) -> dict[str, Any]:
    """
    Fields of the last solve.

    :param result: its result, None if there was none
    :return: values by field name
    """
    if result is None:
        nothing = ("cg_status", "cg_advice", "cg_iterations", "cg_residual", "cg_kept")
        return {**dict.fromkeys(nothing), "cg_residual_history": (), "cg_model_history": ()}
    return {
        "cg_status": result.status.value,
        "cg_advice": result.status.advice,
        "cg_iterations": result.iterations,
        "cg_residual": finite(result.residual),
        "cg_kept": result.kept,
        "cg_residual_history": _all_finite(result.residual_history),
        "cg_model_history": _all_finite(result.model_history),
    }


def search_fields(result: LineSearchResult | None) -> dict[str, Any]:
    """
    Fields of the line search: what was applied, and every trial.

    :param result: its result, None if there was none
    :return: values by field name
    """
    trials = result.trials if result is not None else ()
    applied = result.accepted if result is not None else None
    return {
        "kl": applied.kl if applied else 0.0,
        "kl_joint": applied.kl_joint if applied else 0.0,
        "kl_reverse": applied.kl_reverse if applied else 0.0,
        "kl_max": applied.kl_max if applied else 0.0,
        "surrogate_improvement": applied.improvement if applied else 0.0,
        "line_search_status": result.status.value if result else None,
        "line_search_backtracks": len(trials) - (applied is not None) if result else None,
        "trial_fractions": tuple(trial.fraction for trial in trials),
        "trial_kls": _all_finite(trial.evaluation.kl for trial in trials),
        "trial_improvements": _all_finite(trial.evaluation.improvement for trial in trials),
        "trial_statuses": tuple(trial.status.value for trial in trials),
    }


def critic_fields(result: CriticResult) -> dict[str, Any]:
    """
    Fields of the critic's epochs.

    :param result: how they went
    :return: values by field name
    """
    return {
        "critic_status": result.status.value,
        "critic_advice": result.status.advice,
        "critic_epochs": result.epochs,
        "value_loss": finite(result.mean_minibatch_loss),
        "value_loss_before": finite(result.loss_before),
        "value_loss_after": finite(result.loss_after),
    }
