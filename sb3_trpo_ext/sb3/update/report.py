"""What an update leaves to be read: references to what went into it, and its report."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.diagnostics import Diagnosed
from sb3_trpo_ext.core.objective import Surrogate
from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import BlockStatus, UpdateStatus
from sb3_trpo_ext.core.summary import Context, summarise
from sb3_trpo_ext.core.update import PolicyResult, Solve
from sb3_trpo_ext.sb3.hyperparameters import Hyperparameters
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.evaluation import Evaluated

SKIPPED = (UpdateStatus.STALE_BATCH, UpdateStatus.LOW_EXPLAINED_VARIANCE)
"""The policy step was skipped on purpose, before it was tried."""


@dataclass(frozen=True)
class Counts:
    """
    What has been counted, and what is known of the rollout.

    :param num_timesteps: environment steps so far
    :param updates_skipped: earlier updates whose policy step was skipped
    :param samples_dropped: samples of the rollout that are in no rank's batch; None: none may be dropped
    :param collection: how the rollout was collected, in words
    """

    num_timesteps: int
    updates_skipped: int
    samples_dropped: int | None
    collection: str | None


@dataclass(frozen=True)
class UpdateInputs:
    """
    References to what went into the newest update.

    :param batch: the rollout
    :param evaluated: the same as the policy step's data
    :param result: full results of the policy step
    """

    batch: RolloutBatch
    evaluated: Evaluated
    result: PolicyResult


def report_of(
    inputs: UpdateInputs,
    asked: Hyperparameters,
    counts: Counts,
    policy: ActorCriticPolicy,
    critic: CriticResult,
    explained_after: float | None,
    found: Diagnosed,
) -> UpdateReport:
    """
    Report an update that has been computed, and not yet counted.

    :param inputs: what went into it
    :param asked: what it was asked to do
    :param counts: what had been counted before it
    :param policy: the policy that it leaves
    :param critic: what became of the critic
    :param explained_after: explained variance of the critic that it leaves
    :param found: diagnostics
    :return: the report
    """
    result, evaluated, choice = inputs.result, inputs.evaluated, inputs.evaluated.choice
    surrogate = evaluated.problem.surrogate
    context = Context(
        n_updates=asked.n_updates + 1,
        num_timesteps=counts.num_timesteps,
        updates_skipped=counts.updates_skipped + (result.status in SKIPPED),
        n_samples=round(float(surrogate.mean.total)),
        target_kl=asked.max_kl,
        kl_reduction=asked.kl_unit,
        behaviour_worst_cell=inputs.batch.cell_name(result.check.worst_cell),
        entropy=mean_entropy(surrogate),
        std=mean_std(policy),
        cg_precision=asked.arguments["cg_precision"] if evaluated.dtype is torch.float64 else "float32",
        fisher_rung=choice.rung.name if choice else "",
        explained_variance=evaluated.problem.explained_variance,
        explained_variance_after=explained_after,
        critic_epochs_enforced=asked.critic_settings.min_epochs,
        collection=counts.collection,
        notes=(choice.rung.rejected if choice else ()) + preconditioner_notes(result.solve),
        samples_dropped=counts.samples_dropped,
    )
    return summarise(result, critic, asked.damping, context, found)


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
