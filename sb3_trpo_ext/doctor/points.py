"""What is drawn of an update."""

from __future__ import annotations

from dataclasses import dataclass

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.bounds import MAX_LAYERS, clean
from sb3_trpo_ext.doctor.run import Point

FIELDS = (
    *("kl_max", "drift_kl", "entropy", "std", "grad_norm", "cg_iterations", "cg_residual"),
    *("value_loss", "value_loss_before", "value_loss_after", "explained_variance", "explained_variance_after"),
    *("explained_variance_mc", "advantage_mean", "advantage_std"),
)
QUANTILES = ("min", "q05", "q50", "q95", "max")


@dataclass
class JointUnit:
    """
    What δ is in joint nats: a run's δ may be a mean over action dimensions, and its files don't say how many there are.

    :param factor: joint nats in one of its units; None: not known yet
    """

    factor: float | None = None

    def see(self, report: UpdateReport) -> None:
        """
        Learn from an update; from a rejected one, whose KL is zero, there is nothing to learn.

        :param report: the update
        """
        if report.kl > 0.0:
            self.factor = report.kl_joint / report.kl
        elif report.kl_reduction == "joint":
            self.factor = 1.0


def point_of(report: UpdateReport, unit: JointUnit | None) -> Point:
    """
    Take what is drawn of an update.

    :param report: the update
    :param unit: of its target_kl; None if that is not the run's
    :return: figures by name
    """
    point: Point = {"update": float(report.n_updates), "steps": float(report.num_timesteps), "kl_joint": report.kl_joint}
    point |= {name: float(value) for name in FIELDS if (value := getattr(report, name)) is not None}
    if unit is not None and unit.factor is not None:
        point["target_kl"] = report.target_kl * unit.factor
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
        for name, dead, saturated in sorted(rows, key=lambda row: -row[1] - row[2])[:MAX_LAYERS]
    }
