"""What is logged, and when."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, configure

from sb3_trpo_ext import UpdateReport
from sb3_trpo_ext.core import line_search
from sb3_trpo_ext.core.status import TrialStatus
from tests.sb3.spaces import ACTIONS, Witness, collect, make_model

CONTRIB = {
    "train/policy_objective",
    "train/value_loss",
    "train/kl_divergence_loss",
    "train/explained_variance",
    "train/is_line_search_success",
    "train/std",
    "train/n_updates",
    "train/learning_rate",
}
OURS = {
    f"train/{name}"
    for name in (
        "kl_joint kl_max behaviour_kl entropy grad_norm cg_iterations cg_residual cg_damping line_search_backtracks "
        "step_scale surrogate_improvement expected_improvement reduction_ratio critic_epochs value_loss_before "
        "value_loss_after explained_variance_after updates_skipped target_kl"
    ).split()
}


class Memory(KVWriter):
    """Every dump, with its step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any], dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append((step, dict(key_values), dict(key_excluded)))

    def close(self) -> None:
        pass


def logged(model: Any, steps: int = 192, callback: BaseCallback | None = None, **kwargs: Any) -> list[Any]:
    memory = Memory()
    model.set_logger(Logger(folder=None, output_formats=[memory]))
    model.learn(steps, callback=callback, **kwargs)
    return memory.rows


def test_every_key_of_the_contract_is_logged() -> None:
    model = make_model()
    rows = logged(model)
    keys = {key for _, values, _ in rows for key in values if key.startswith("train/")}
    assert keys == CONTRIB | OURS
    assert all(isinstance(v, int | float) and math.isfinite(v) for _, values, _ in rows for v in values.values())
    for _, values, excluded in rows:
        if "train/n_updates" in values:
            assert "tensorboard" in excluded["train/n_updates"]


def test_sb3_contribs_keys_mean_what_they_meant() -> None:
    model = make_model(normalize_advantage=True)
    memory = Memory()
    model.set_logger(Logger(folder=None, output_formats=[memory]))
    witness = Witness(collect(model))
    model.train()
    values = dict(model.logger.name_to_value)
    report = model.last_update
    assert values["train/kl_divergence_loss"] == pytest.approx(witness.kl(), rel=2e-3)
    assert values["train/policy_objective"] == pytest.approx(witness.improvement(), rel=2e-3)
    assert values["train/is_line_search_success"] == 1.0
    assert isinstance(values["train/is_line_search_success"], float)
    assert values["train/std"] == pytest.approx(float(np.exp(model.policy.log_std.detach().numpy()).mean()))
    assert values["train/n_updates"] == 1
    assert values["train/kl_joint"] == pytest.approx(3 * report.kl)


def test_the_objective_without_normalisation_is_the_surrogate_itself() -> None:
    model = make_model(normalize_advantage=False)
    witness = Witness(collect(model))
    model.train()
    mean = float(witness.advantages.mean())
    assert model.last_update.policy_objective == pytest.approx(mean + witness.improvement(), rel=1e-3, abs=1e-5)


def test_what_was_not_computed_is_not_logged() -> None:
    # Squashed: no entropy. No critic epochs: no minibatch loss.
    keys = {key for _, values, _ in logged(make_model("sde_squashed", n_critic_updates=0)) for key in values}
    assert not keys & {"train/entropy", "train/value_loss"}
    assert "train/std" in keys
    keys = {key for _, values, _ in logged(make_model("discrete")) for key in values}
    assert "train/std" not in keys
    assert "train/entropy" in keys


def test_a_rejected_step_logs_that_nothing_was_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_search, "judge", lambda *_: TrialStatus.KL_TOO_LARGE)
    _, values, _ = logged(make_model(), 64)[-1]
    applied = ("kl_divergence_loss", "is_line_search_success", "kl_joint", "kl_max", "surrogate_improvement")
    assert [values[f"train/{name}"] for name in applied] == [0.0] * 5
    assert values["train/line_search_backtracks"] == 10
    assert not {"train/reduction_ratio", "train/expected_improvement"} & values.keys()
    assert values["train/policy_objective"] == pytest.approx(0.0, abs=1e-12)


def test_the_last_updates_keys_are_written_at_the_end() -> None:
    model = make_model()
    rows = logged(model)
    steps = [step for step, values, _ in rows if "train/n_updates" in values]
    updates = [values["train/n_updates"] for _, values, _ in rows if "train/n_updates" in values]
    assert updates == [1, 2, 3]
    assert steps[-1] == model.num_timesteps == 192
    assert rows[-1][1]["train/kl_divergence_loss"] == model.last_update.kl


@pytest.mark.parametrize("log_interval", [2, 1000])
def test_log_intervals_do_not_lose_the_last(log_interval: int) -> None:
    rows = logged(make_model(), log_interval=log_interval)
    assert rows[-1][1]["train/n_updates"] == 3


def test_who_asks_for_no_log_gets_none() -> None:
    assert logged(make_model(), log_interval=None) == []


def test_the_last_keys_reach_sb3s_own_csv() -> None:
    model = make_model(log_folder="elsewhere")
    model.set_logger(configure("sb3", ["csv"]))
    model.learn(192)
    model.logger.close()
    with Path("sb3/progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train/n_updates"] for row in rows if row["train/n_updates"]] == ["1", "2", "3"]


@pytest.mark.parametrize("action", ACTIONS)
def test_reports_survive_json_in_every_space(action: str) -> None:
    model = collect(make_model(action))
    model.train()
    text = model.last_update.to_json()
    assert "\n" not in text
    assert UpdateReport.from_json(text) == model.last_update
    for value in json.loads(text).values():
        assert value is None or isinstance(value, str | int | float | list)
