"""The one table from fields of ``UpdateReport`` to logger keys."""

from __future__ import annotations

from collections.abc import Iterator

from sb3_trpo_ext.core.report import UpdateReport

KEYS: dict[str, str] = {
    # sb3-contrib's keys, meaning unchanged.
    "train/policy_objective": "policy_objective",
    "train/value_loss": "value_loss",
    "train/kl_divergence_loss": "kl",
    "train/explained_variance": "explained_variance",
    "train/is_line_search_success": "accepted",
    "train/std": "std",
    "train/n_updates": "n_updates",
    # Ours.
    "train/kl_joint": "kl_joint",
    "train/kl_max": "kl_max",
    "train/behaviour_kl": "behaviour_kl",
    "train/entropy": "entropy",
    "train/grad_norm": "grad_norm",
    "train/cg_iterations": "cg_iterations",
    "train/cg_residual": "cg_residual",
    "train/cg_damping": "cg_damping",
    "train/line_search_backtracks": "line_search_backtracks",
    "train/step_scale": "step_scale",
    "train/surrogate_improvement": "surrogate_improvement",
    "train/expected_improvement": "expected_improvement",
    "train/reduction_ratio": "reduction_ratio",
    "train/critic_epochs": "critic_epochs",
    "train/value_loss_before": "value_loss_before",
    "train/value_loss_after": "value_loss_after",
    "train/explained_variance_after": "explained_variance_after",
    "train/updates_skipped": "updates_skipped",
    # Ours, where a monitor has subscribed to them.
    "train/drift_kl": "drift_kl",
    "train/actor_inactive_units": "actor_inactive",
    "train/critic_inactive_units": "critic_inactive",
    "train/td_bias": "td_mean",
    "train/td_bias_z": "td_z",
    "train/td_bias_p_by_time": "td_time_p",
    "train/explained_variance_mc": "explained_variance_mc",
    "train/advantage_kurtosis": "advantage_kurtosis",
    "train/advantage_top_weight": "advantage_top_weight",
}

NOT_IN_TENSORBOARD = frozenset({"train/n_updates"})


def logged_values(report: UpdateReport) -> Iterator[tuple[str, float]]:
    """
    Give what is logged of an update; a field that was not computed is not.

    :param report: the update
    :yields: logger key and value
    """
    for key, field in KEYS.items():
        value = getattr(report, field)
        if value is not None:
            yield key, float(value) if isinstance(value, bool) else value
