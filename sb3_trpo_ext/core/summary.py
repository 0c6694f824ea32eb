"""Builds the report of an update from the results of its steps. A non-finite number is reported as None."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.diagnostics import Diagnosed
from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.update import PolicyResult


@dataclass(frozen=True)
class Context:
    """
    Fields of ``UpdateReport`` that no step knows, under the same names.

    :param n_updates: number of the update, from 1
    :param num_timesteps: environment steps so far
    :param updates_skipped: updates so far whose policy step was skipped
    :param n_samples: samples in the batch
    :param target_kl: the trust region delta
    :param kl_reduction: unit of the bounded KL
    :param behaviour_worst_cell: name of the worst cell of the on-policy check
    :param entropy: mean joint entropy of the batch's policy in nats
    :param std: mean standard deviation of the policy
    :param cg_precision: precision of the products, as it was really used
    :param fisher_rung: how products were computed
    :param explained_variance: of the returns, by the values of the rollout
    :param explained_variance_after: by the critic that the update leaves
    :param critic_epochs_enforced: epochs that the critic was asked for
    :param collection: how the rollout was collected
    :param notes: what else a person should know
    :param samples_dropped: samples of the rollout that are not in the batch
    """

    n_updates: int
    num_timesteps: int
    updates_skipped: int
    n_samples: int
    target_kl: float
    kl_reduction: str
    behaviour_worst_cell: str | None
    entropy: float | None
    std: float | None
    cg_precision: str
    fisher_rung: str
    explained_variance: float | None
    explained_variance_after: float | None
    critic_epochs_enforced: int
    collection: str | None
    notes: tuple[str, ...]
    samples_dropped: int | None


def summarise(
    result: PolicyResult, critic: CriticResult, damping: DampingState, context: Context, found: Diagnosed
) -> UpdateReport:
    """
    Put a report together.

    :param result: what became of the policy
    :param critic: what became of the critic
    :param damping: what the update began with
    :param context: what no step knows
    :param found: diagnostics
    :return: the report
    """
    check, raw, solve, search = result.check, result.advantages, result.solve, result.search
    cg, direction = (None, None) if solve is None else (solve.result, solve.direction)
    preconditioner = None if solve is None or solve.dropped is not None else solve.preconditioner
    trials, applied = ((), None) if search is None else (search.trials, search.accepted)
    activity, residuals, tails = found.activity, found.residuals, found.tails
    return UpdateReport(
        numerics_version=NUMERICS_VERSION,
        n_updates=context.n_updates,
        num_timesteps=context.num_timesteps,
        updates_skipped=context.updates_skipped,
        n_samples=context.n_samples,
        status=result.status.value,
        advice=result.status.advice,
        target_kl=context.target_kl,
        kl_reduction=context.kl_reduction,
        kl=applied.kl if applied else 0.0,
        kl_joint=applied.kl_joint if applied else 0.0,
        kl_reverse=applied.kl_reverse if applied else 0.0,
        kl_max=applied.kl_max if applied else 0.0,
        behaviour_kl=finite(check.divergence),
        behaviour_kl_worst=finite(check.worst),
        behaviour_worst_cell=context.behaviour_worst_cell,
        behaviour_kl_threshold=finite(check.threshold),
        noise_floor=finite(check.noise_floor),
        policy_objective=None if raw is None else raw.start + (applied.improvement if applied else 0.0),
        surrogate_improvement=applied.improvement if applied else 0.0,
        expected_improvement=finite(result.expected_improvement),
        reduction_ratio=finite(result.reduction_ratio),
        entropy=finite(context.entropy),
        std=finite(context.std),
        grad_norm=finite(result.gradient_norm),
        direction=None if direction is None else "gradient" if direction.fallback else "cg",
        cg_status=cg.status.value if cg else None,
        cg_advice=cg.status.advice if cg else None,
        cg_iterations=cg.iterations if cg else None,
        cg_residual=finite(cg.residual) if cg else None,
        cg_retries=solve.retries if solve else None,
        cg_kept=cg.kept if cg else None,
        cg_residual_history=_all_finite(cg.residual_history) if cg else (),
        cg_model_history=_all_finite(cg.model_history) if cg else (),
        cg_damping=solve.damping if solve else damping.value,
        next_damping=result.damping.value,
        cg_precision=context.cg_precision,
        cg_preconditioner="none" if preconditioner is None else "kfac",
        cg_preconditioned=None if preconditioner is None else preconditioner.covered,
        fisher_rung=context.fisher_rung,
        fisher_products=solve.products if solve else 0,
        step_scale=direction.scale.scale if direction else None,
        predicted_kl=direction.scale.predicted_kl if direction else None,
        line_search_status=search.status.value if search else None,
        line_search_backtracks=len(trials) - (applied is not None) if search else None,
        trial_fractions=tuple(trial.fraction for trial in trials),
        trial_kls=_all_finite(trial.evaluation.kl for trial in trials),
        trial_improvements=_all_finite(trial.evaluation.improvement for trial in trials),
        trial_statuses=tuple(trial.status.value for trial in trials),
        advantage_mean=finite(raw.mean) if raw else None,
        advantage_std=finite(raw.std) if raw else None,
        advantage_quantiles=raw.quantiles if raw and all(map(math.isfinite, raw.quantiles)) else (),
        critic_status=critic.status.value,
        critic_advice=critic.status.advice,
        critic_epochs=critic.epochs,
        value_loss=finite(critic.mean_minibatch_loss),
        value_loss_before=finite(critic.loss_before),
        value_loss_after=finite(critic.loss_after),
        explained_variance=finite(context.explained_variance),
        explained_variance_after=finite(context.explained_variance_after),
        collection=context.collection,
        notes=context.notes,
        cg_damping_range=(damping.low, damping.high) if damping.adaptive else (),
        critic_epochs_enforced=context.critic_epochs_enforced,
        activity_samples=activity.samples,
        layer_names=activity.names,
        layer_units=activity.units,
        layer_dead=activity.dead,
        layer_saturated=activity.saturated,
        layer_dead_before=activity.dead_before,
        actor_inactive=finite(activity.actor_inactive),
        critic_inactive=finite(activity.critic_inactive),
        drift_kl=finite(found.drift_kl),
        td_mean=finite(residuals.td_mean),
        td_rms=finite(residuals.td_rms),
        td_z=finite(residuals.td_z),
        td_p=finite(residuals.td_p),
        td_time_starts=residuals.td_time_starts,
        td_time_means=residuals.td_time_means,
        td_time_z=residuals.td_time_z,
        td_time_p=finite(residuals.td_time_p),
        explained_variance_mc=finite(found.explained_variance_mc),
        mc_samples=found.mc_samples,
        advantage_kurtosis=finite(tails.advantage_kurtosis),
        advantage_top_weight=finite(tails.advantage_top_weight),
        samples_dropped=context.samples_dropped,
    )


def finite(value: float | None) -> float | None:
    """
    Replace a number that is not finite by None: nothing was computed that could be compared.

    :param value: any number or None
    :return: the number, or None
    """
    return value if value is not None and math.isfinite(value) else None


def _all_finite(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(finite(value) for value in values)
