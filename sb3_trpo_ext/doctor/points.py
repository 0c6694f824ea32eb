"""What is drawn of an update."""

from __future__ import annotations

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.bounds import clean
from sb3_trpo_ext.doctor.run import Point

FIELDS = (
    *("kl_max", "drift_kl", "entropy", "std", "grad_norm", "cg_iterations", "cg_residual"),
    *("value_loss", "value_loss_before", "value_loss_after", "explained_variance", "explained_variance_after"),
    *("explained_variance_mc", "advantage_mean", "advantage_std"),
)
QUANTILES = ("min", "q05", "q50", "q95", "max")

MAX_LAYERS = 40


def point_of(report: UpdateReport, target_known: bool) -> Point:
    """
    Take what is drawn of an update.

    :param report: the update
    :param target_known: whether its target_kl is the run's
    :return: figures by name
    """
    point: Point = {"update": float(report.n_updates), "steps": float(report.num_timesteps), "kl_joint": report.kl_joint}
    point |= {name: float(value) for name in FIELDS if (value := getattr(report, name)) is not None}
    if target_known:
        # Joint, as the KL is: the unit's factor is the number of action dimensions.
        point["target_kl"] = report.target_kl * (report.kl_joint / report.kl if report.kl > 0.0 else 1.0)
    if report.cg_damping > 0.0:
        point["cg_damping"] = report.cg_damping
    gains = [value for value in report.cg_model_history if value is not None]
    if gains:
        point["cg_gain"] = -gains[-1]
    if len(report.advantage_quantiles) == len(QUANTILES):
        point |= {f"advantage_{name}": float(v) for name, v in zip(QUANTILES, report.advantage_quantiles, strict=True)}
    return point


def layers_of(report: UpdateReport) -> dict[str, tuple[float, float, float]]:
    """
    Take what is drawn of the layers.

    :param report: the update
    :return: by name: environment steps, share of dead and of saturated units
    """
    rows = zip(report.layer_names, report.layer_dead, report.layer_saturated, strict=True)
    return {
        clean(name, 60): (float(report.num_timesteps), float(dead), float(saturated))
        for name, dead, saturated in list(rows)[:MAX_LAYERS]
    }
