"""One frozen record of everything that an update did: plain numbers, strings and small tuples."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from sb3_trpo_ext.core.plain import refuse_constant, refuse_other_types
from sb3_trpo_ext.core.report_text import describe
from sb3_trpo_ext.core.status import UpdateStatus


@dataclass(frozen=True)
class UpdateReport:
    """
    What one update did. None: not computed. KL divergences are in the unit that is bounded unless "joint" is said.

    :param numerics_version: ``core.NUMERICS_VERSION``
    :param n_updates: number of this update, from 1
    :param num_timesteps: environment steps when it happened
    :param updates_skipped: updates so far whose policy step was skipped, this one included
    :param n_samples: samples in the batch
    :param status: ``UpdateStatus``: what became of the policy
    :param advice: what that means and what to try
    :param target_kl: the trust region delta
    :param kl_reduction: unit of the bounded KL: "mean" over action dimensions, or "joint"
    :param kl: mean KL(new || old) of the applied step; 0.0 if none was
    :param kl_joint: the same, summed over action dimensions
    :param kl_reverse: mean KL(old || new)
    :param kl_max: largest KL(new || old) of any state
    :param behaviour_kl: divergence of the batch's behaviour from the policy that was updated
    :param behaviour_kl_worst: the same in the environment and block of time where it is largest
    :param behaviour_worst_cell: which one that is
    :param behaviour_kl_threshold: what it may not exceed
    :param noise_floor: divergence between two evaluations of the same policy
    :param policy_objective: the surrogate mean(A ratio) of the policy after the update
    :param surrogate_improvement: improvement of the surrogate by the applied step
    :param expected_improvement: gᵀ (applied step)
    :param reduction_ratio: their ratio
    :param entropy: mean joint entropy of the batch's policy in nats; None where it has no closed form
    :param std: mean standard deviation of a Gaussian policy after the update, as sb3-contrib logs it
    :param grad_norm: 2-norm of the surrogate's gradient
    :param direction: "cg", "gradient" (every solve failed), or None
    :param cg_status: ``CGStatus`` of the last solve
    :param cg_advice: what that means and what to try
    :param cg_iterations: iterations of the last solve
    :param cg_residual: its true relative residual
    :param cg_retries: failed solves before it
    :param cg_kept: residuals that were orthogonalised against
    :param cg_residual_history: relative residual of the recurrence after each iteration
    :param cg_model_history: quadratic model after each iteration
    :param cg_damping: lambda of the last solve
    :param next_damping: lambda of the next update
    :param cg_precision: precision of the products, as it was really used
    :param cg_preconditioner: "none" or "kfac", as it was really used
    :param cg_preconditioned: share of the parameters that it covers, in [0, 1]; None without one
    :param fisher_rung: how products were computed
    :param fisher_products: how many
    :param step_scale: factor from the direction to the full step
    :param predicted_kl: KL of the full step by the quadratic model
    :param line_search_status: ``LineSearchStatus``
    :param line_search_backtracks: rejected candidates
    :param trial_fractions: share of the full step of each candidate
    :param trial_kls: KL of each candidate
    :param trial_improvements: improvement of each candidate
    :param trial_statuses: ``TrialStatus`` of each candidate
    :param advantage_mean: mean of the raw advantages
    :param advantage_std: their standard deviation
    :param advantage_quantiles: their minimum, 5 %, 50 %, 95 % quantiles and maximum
    :param critic_status: ``CriticStatus``
    :param critic_advice: what that means and what to try
    :param critic_epochs: epochs done
    :param value_loss: mean loss over all minibatches, as sb3-contrib logs it
    :param value_loss_before: loss of the whole batch before the epochs
    :param value_loss_after: and after
    :param explained_variance: of the returns by the values of the rollout; None if the returns don't vary
    :param explained_variance_after: by the values after the epochs
    :param collection: "actor alone", or "SB3's loop" and why; None: the rollout was not collected by this model
    :param notes: anything else that a person should know
    :param cg_damping_range: (low, high) between which lambda adapts; () if it does not
    :param critic_epochs_enforced: epochs that are always done
    :param activity_samples: samples that the activity was measured on; None, like all that follows, if nobody subscribed to it
    :param layer_names: every activation, after "actor" or "critic" and a blank
    :param layer_units: how many units it has (of a convolution: channels)
    :param layer_dead: share of them that are dead: no slope for any sample, of the ReLU family
    :param layer_saturated: share of them that are saturated: no slope for any sample, of tanh, sigmoid and the like
    :param layer_dead_before: share of them that were dead before the first update; () in all others
    :param actor_inactive: largest share of dead or saturated units of any activation of the actor
    :param critic_inactive: the same of the critic
    :param drift_kl: mean KL(pi_k || pi_{k-1}) on the batch that pi_k collected; None if the step before was not taken
    :param td_mean: mean one-step TD residual
    :param td_rms: root mean square of the residuals
    :param td_z: their bias in standard errors
    :param td_p: two-sided p-value of it
    :param td_time_starts: first step within the episode of each bin that was tested
    :param td_time_means: mean residual in each bin
    :param td_time_z: how far it is from the mean of all other residuals, in standard errors
    :param td_time_p: smallest p-value of any bin, corrected for the number of bins
    :param explained_variance_mc: of the Monte-Carlo returns of episodes that end in the batch, by the values of the rollout
    :param mc_samples: steps of those episodes
    :param advantage_kurtosis: excess kurtosis of the raw advantages
    :param advantage_top_weight: share of their variance that the largest 1 % make
    :param samples_dropped: samples of the rollout that are not in the batch, because their environment gave something that is
        not finite; None with ``on_nonfinite="raise"``
    """

    numerics_version: int
    n_updates: int
    num_timesteps: int
    updates_skipped: int
    n_samples: int
    status: str
    advice: str
    target_kl: float
    kl_reduction: str
    kl: float
    kl_joint: float
    kl_reverse: float
    kl_max: float
    behaviour_kl: float | None
    behaviour_kl_worst: float | None
    behaviour_worst_cell: str | None
    behaviour_kl_threshold: float | None
    noise_floor: float | None
    policy_objective: float | None
    surrogate_improvement: float
    expected_improvement: float | None
    reduction_ratio: float | None
    entropy: float | None
    std: float | None
    grad_norm: float | None
    direction: str | None
    cg_status: str | None
    cg_advice: str | None
    cg_iterations: int | None
    cg_residual: float | None
    cg_retries: int | None
    cg_kept: int | None
    cg_residual_history: tuple[float | None, ...]
    cg_model_history: tuple[float | None, ...]
    cg_damping: float
    next_damping: float
    cg_precision: str
    cg_preconditioner: str
    cg_preconditioned: float | None
    fisher_rung: str
    fisher_products: int
    step_scale: float | None
    predicted_kl: float | None
    line_search_status: str | None
    line_search_backtracks: int | None
    trial_fractions: tuple[float, ...]
    trial_kls: tuple[float | None, ...]
    trial_improvements: tuple[float | None, ...]
    trial_statuses: tuple[str, ...]
    advantage_mean: float | None
    advantage_std: float | None
    advantage_quantiles: tuple[float, ...]
    critic_status: str
    critic_advice: str
    critic_epochs: int
    value_loss: float | None
    value_loss_before: float | None
    value_loss_after: float | None
    explained_variance: float | None
    explained_variance_after: float | None
    collection: str | None = None
    notes: tuple[str, ...] = ()
    cg_damping_range: tuple[float, ...] = ()
    critic_epochs_enforced: int | None = None
    activity_samples: int | None = None
    layer_names: tuple[str, ...] = ()
    layer_units: tuple[int, ...] = ()
    layer_dead: tuple[float, ...] = ()
    layer_saturated: tuple[float, ...] = ()
    layer_dead_before: tuple[float, ...] = ()
    actor_inactive: float | None = None
    critic_inactive: float | None = None
    drift_kl: float | None = None
    td_mean: float | None = None
    td_rms: float | None = None
    td_z: float | None = None
    td_p: float | None = None
    td_time_starts: tuple[int, ...] = ()
    td_time_means: tuple[float, ...] = ()
    td_time_z: tuple[float, ...] = ()
    td_time_p: float | None = None
    explained_variance_mc: float | None = None
    mc_samples: int | None = None
    advantage_kurtosis: float | None = None
    advantage_top_weight: float | None = None
    samples_dropped: int | None = None

    @property
    def accepted(self) -> bool:
        """Whether the policy moved."""
        return self.status == str(UpdateStatus.ACCEPTED)

    def __str__(self) -> str:
        """Sum up in a few lines; ``repr`` has every field."""
        return describe(self)

    def to_json(self) -> str:
        """
        Write as one line of strict JSON.

        :return: text from which ``from_json`` makes an equal report
        """
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> UpdateReport:
        """
        Read what ``to_json`` wrote; a field that an older version did not have was not computed.

        :param text: one JSON object
        :return: the report
        :raises ValueError: it is none, has fields that this version does not know, lacks some that can't be None, or holds
            something else than they say
        """
        try:
            fields: Any = json.loads(text, parse_constant=refuse_constant)
        except RecursionError as error:
            raise ValueError("not an UpdateReport: nested too deeply") from error
        if not isinstance(fields, dict):
            raise ValueError(f"not an UpdateReport but {type(fields).__name__}")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        values = {**_not_computed(), **values}
        needed = {field.name for field in dataclasses.fields(cls)}
        if values.keys() != needed:
            missing, unknown = sorted(needed - values.keys())[:5], [name[:40] for name in sorted(values.keys() - needed)[:5]]
            raise ValueError(f"an UpdateReport of another version: missing fields {missing}, unknown fields {unknown}")
        refuse_other_types(cls, values)
        return cls(**values)


@cache
def _not_computed() -> dict[str, Any]:
    """What stands for "not computed" in the fields that have such a value."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(UpdateReport):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif str(field.type).endswith("| None"):
            values[field.name] = None
        elif str(field.type).startswith("tuple["):
            values[field.name] = ()
    return values
