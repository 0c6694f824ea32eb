"""From the results of an update's steps to its report."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.objective import Surrogate
from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.report_fields import (
    advantage_fields,
    cg_fields,
    check_fields,
    critic_fields,
    finite,
    search_fields,
)
from sb3_trpo_ext.core.status import BlockStatus, UpdateStatus
from sb3_trpo_ext.core.update import PolicyResult, Solve

SKIPPED = (UpdateStatus.STALE_BATCH, UpdateStatus.LOW_EXPLAINED_VARIANCE)
"""The policy step was skipped on purpose, before it was tried."""


def summarise(result: PolicyResult, critic: CriticResult, cell_name: str | None, **context: Any) -> UpdateReport:
    r"""
    Put a report together.

    :param result: what became of the policy
    :param critic: what became of the critic
    :param cell_name: name of the on-policy check's worst cell
    :param \**context: the fields of ``UpdateReport`` that no step knows
    :return: the report
    """
    advantages, applied = result.advantages, result.accepted
    objective = None if advantages is None else advantages.start + (applied.improvement if applied else 0.0)
    damping = context.pop("damping")
    computed: dict[str, Any] = {key: finite(value) if isinstance(value, float) else value for key, value in context.items()}
    return UpdateReport(
        numerics_version=NUMERICS_VERSION,
        status=result.status.value,
        advice=result.status.advice,
        policy_objective=objective,
        expected_improvement=finite(result.expected_improvement),
        reduction_ratio=finite(result.reduction_ratio),
        grad_norm=finite(result.gradient_norm),
        next_damping=result.damping.value,
        **check_fields(result.check, cell_name),
        **advantage_fields(advantages),
        **_solve_fields(result.solve, damping),
        **search_fields(result.search),
        **critic_fields(critic),
        **computed,
    )


def preconditioner_notes(solve: Solve | None) -> tuple[str, ...]:
    """
    Say what is not preconditioned although it was asked for.

    :param solve: the solves of the update
    :return: a line each
    """
    if solve is None or solve.preconditioner is None:
        return ()
    blocks = [block for block in solve.preconditioner.blocks if block.status is not BlockStatus.FACTORED]
    notes = [f"kfac, {block.layer.name}: {block.status.advice}" for block in blocks]
    return (*notes, *([] if solve.dropped is None else [f"kfac was not used: {solve.dropped}"]))


def _solve_fields(solve: Solve | None, damping: float) -> dict[str, Any]:
    direction = solve.direction if solve is not None else None
    preconditioner = solve.preconditioner if solve is not None and solve.dropped is None else None
    return {
        "cg_preconditioner": "none" if preconditioner is None else "kfac",
        "cg_preconditioned": None if preconditioner is None else preconditioner.covered,
        "cg_damping": solve.damping if solve else damping,
        "cg_retries": solve.retries if solve else None,
        "fisher_products": solve.products if solve else 0,
        "direction": None if direction is None else ("gradient" if direction.fallback else "cg"),
        "step_scale": direction.scale.scale if direction else None,
        "predicted_kl": direction.scale.predicted_kl if direction else None,
        **cg_fields(solve.result if solve else None),
    }


def mean_entropy(surrogate: Surrogate) -> float | None:
    """
    Mean entropy of the batch's policy.

    :param surrogate: knows its distribution parameters
    :return: nats, joint over action dimensions; None where there is no closed form
    """
    entropy = surrogate.distribution.entropy(surrogate.phi)
    return None if entropy is None else float(surrogate.mean.of(lambda rows: entropy[rows]))


def mean_std(policy: ActorCriticPolicy) -> float | None:
    """
    Mean of exp(log std), as sb3-contrib logs it.

    :param policy: the policy
    :return: the mean, None for policies without a log std
    """
    log_std = getattr(policy, "log_std", None)
    return float(torch.exp(log_std.detach()).mean()) if isinstance(log_std, torch.Tensor) else None
