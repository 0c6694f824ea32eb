"""The one table of what is logged: where TensorBoard shows a key, and the field of ``UpdateReport`` that it reads."""

from __future__ import annotations

from collections.abc import Iterator

from sb3_trpo_ext.core.report import UpdateReport

CHARTS: dict[str, dict[str, dict[str, str | None]]] = {
    # Group, chart, key: field; None where SB3 logs the key. Keys that are sb3-contrib's too have its meaning.
    "trust region": {
        "KL": {"train/kl_divergence_loss": "kl", "train/kl_joint": "kl_joint"},
        "bound of the KL": {"train/target_kl": "target_kl"},
        "KL of the worst state": {"train/kl_max": "kl_max"},
        "drift": {"train/drift_kl": "drift_kl"},
        "KL of the behaviour": {"train/behaviour_kl": "behaviour_kl"},
        "step accepted": {"train/is_line_search_success": "accepted"},
        "backtracks": {"train/line_search_backtracks": "line_search_backtracks"},
        "step scale": {"train/step_scale": "step_scale"},
        "improvement": {
            "train/surrogate_improvement": "surrogate_improvement",
            "train/expected_improvement": "expected_improvement",
        },
        "reduction ratio": {"train/reduction_ratio": "reduction_ratio"},
        "updates": {
            "train/n_updates": "n_updates",
            "train/updates_skipped": "updates_skipped",
            "train/samples_dropped": "samples_dropped",
        },
    },
    "CG": {
        "iterations": {"train/cg_iterations": "cg_iterations"},
        "relative residual": {"train/cg_residual": "cg_residual"},
        "damping": {"train/cg_damping": "cg_damping"},
    },
    "critic": {
        "value loss": {
            "train/value_loss_before": "value_loss_before",
            "train/value_loss_after": "value_loss_after",
            "train/value_loss": "value_loss",
        },
        "explained variance": {
            "train/explained_variance": "explained_variance",
            "train/explained_variance_after": "explained_variance_after",
            "train/explained_variance_mc": "explained_variance_mc",
        },
        "bias of TD residuals": {"train/td_bias": "td_mean"},
        "z of the bias": {"train/td_bias_z": "td_z"},
        "p of a bias by time": {"train/td_bias_p_by_time": "td_time_p"},
        "epochs": {"train/critic_epochs": "critic_epochs"},
        "learning rate": {"train/learning_rate": None},
    },
    "policy": {
        "entropy": {"train/entropy": "entropy"},
        "std": {"train/std": "std"},
        "objective": {"train/policy_objective": "policy_objective"},
        "gradient norm": {"train/grad_norm": "grad_norm"},
    },
    "networks": {
        "inactive units": {"train/actor_inactive_units": "actor_inactive", "train/critic_inactive_units": "critic_inactive"},
    },
    "advantages": {
        "kurtosis": {"train/advantage_kurtosis": "advantage_kurtosis"},
        "weight of the largest": {"train/advantage_top_weight": "advantage_top_weight"},
    },
    "return": {
        "return": {"rollout/ep_rew_mean": None, "eval/mean_reward": None},
        "episode length": {"rollout/ep_len_mean": None, "eval/mean_ep_length": None},
    },
}

KEYS: dict[str, str] = {
    key: field for charts in CHARTS.values() for keys in charts.values() for key, field in keys.items() if field is not None
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
