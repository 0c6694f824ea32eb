"""What an update leaves to be read: references to what went into it, and its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.update import PolicyResult
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.evaluation import Evaluated
from sb3_trpo_ext.sb3.update.summary import SKIPPED, mean_entropy, mean_std, preconditioner_notes, summarise

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO


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
    model: TRPO, inputs: UpdateInputs, critic: CriticResult, damping: DampingState, explained_after: float | None
) -> UpdateReport:
    """
    Report an update that has been computed, and not yet counted.

    :param model: the model
    :param inputs: what went into it
    :param critic: what became of the critic
    :param damping: what it began with
    :param explained_after: explained variance of the critic that it leaves
    :return: the report
    """
    result, evaluated, choice = inputs.result, inputs.evaluated, inputs.evaluated.choice
    return summarise(
        result,
        critic,
        inputs.batch.cell_name(result.check.worst_cell),
        damping=damping.value,
        n_updates=model._n_updates + 1,
        num_timesteps=model.num_timesteps,
        updates_skipped=model._updates_skipped + (result.status in SKIPPED),
        n_samples=round(float(evaluated.problem.surrogate.mean.total)),
        target_kl=model.max_kl,
        kl_reduction=model.kl_unit,
        entropy=mean_entropy(evaluated.problem.surrogate),
        std=mean_std(model.policy),
        cg_precision=model.cg_precision if evaluated.dtype is torch.float64 else "float32",
        fisher_rung=choice.rung.name if choice else "",
        explained_variance=evaluated.problem.explained_variance,
        explained_variance_after=explained_after,
        collection=model.session.recorder.collection,
        notes=(choice.rung.rejected if choice else ()) + preconditioner_notes(result.solve),
        cg_damping_range=(damping.low, damping.high) if damping.adaptive else (),
        critic_epochs_enforced=int(model.n_critic_updates),
        samples_dropped=_dropped_everywhere(model, inputs.batch) if model.on_nonfinite == "truncate" else None,
        **model.session.diagnosis.fields(model, inputs),
    )


def _dropped_everywhere(model: TRPO, batch: RolloutBatch) -> int:
    return int(model.session.ranks.reduce(torch.tensor(batch.n_dropped)))
