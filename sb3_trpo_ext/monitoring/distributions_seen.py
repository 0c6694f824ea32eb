"""What histograms are made of: raw advantages, importance ratios of the step that was taken, activity of the layers."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.observed import Batch, Observed

SAMPLES = 2048
"""Of a batch, evenly spaced: 5 % quantiles are known to 0.5 % of the samples, in under 1 % of an update's time."""

Values = NDArray[np.float64]


def distributions_seen(model: Observed, report: UpdateReport) -> dict[str, Values]:
    """
    Give what can be known of the newest update.

    :param model: the model
    :param report: of its newest update
    :return: by name, finite, at most ``SAMPLES`` each; nothing that is not known
    """
    inputs = model.session.update_inputs
    if inputs is None:
        return {}
    found = {"advantages": _sample(inputs.batch.advantages), **_activity(report)}
    if report.accepted:
        found["importance_ratios"] = _importance_ratios(model, inputs.batch)
    finite = {name: values[np.isfinite(values)] for name, values in found.items()}
    return {f"histograms/{name}": values for name, values in finite.items() if values.size}


def _rows(n_samples: int) -> torch.Tensor:
    return torch.linspace(0, n_samples - 1, min(n_samples, SAMPLES)).round().long()


def _sample(values: torch.Tensor) -> Values:
    flat = values.detach().flatten()
    return flat[_rows(len(flat)).to(flat.device)].double().cpu().numpy()


def _importance_ratios(model: Observed, batch: Batch) -> Values:
    """pi_new / pi_old of the batch's actions; the policy has not moved since the step was taken."""
    rows = _rows(len(batch.advantages)).to(batch.advantages.device)
    observations = batch.observations
    chosen = {key: part[rows] for key, part in observations.items()} if isinstance(observations, dict) else observations[rows]
    actions = batch.actions[rows].flatten() if isinstance(model.action_space, spaces.Discrete) else batch.actions[rows]
    # A policy that draws random numbers in its forward pass gets them back.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(chosen, actions)
    ratios: Values = (log_prob.double() - batch.log_prob[rows].double()).exp().cpu().numpy()
    return ratios


def _activity(report: UpdateReport) -> dict[str, Values]:
    """One number a layer: its share of units that do nothing."""
    found: dict[str, list[float]] = {}
    for name, dead, saturated in zip(report.layer_names, report.layer_dead, report.layer_saturated, strict=True):
        found.setdefault(f"inactive_units/{name.split()[0]}", []).append(dead + saturated)
    return {name: np.asarray(shares, dtype=np.float64) for name, shares in found.items()}
