"""What is logged, when, and where the run's folder is."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO, UpdateReport
from sb3_trpo_ext.core import line_search
from sb3_trpo_ext.core.status import TrialStatus
from sb3_trpo_ext.monitoring.run_folder import RunFolder
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, RandomEnv, Witness, collect, make_env, make_model

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
        "value_loss_after explained_variance_after updates_skipped"
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


def test_the_run_folder_follows_the_logger() -> None:
    """Rows of a second run went into the first one's folder, and into SB3's own CSV there."""
    model = make_model()
    for run in ("first", "second"):
        model.set_logger(configure(run, ["csv"]))
        model.learn(64, reset_num_timesteps=False)
        model.logger.close()
    lines = {run: len(Path(run, "updates.jsonl").read_text().splitlines()) for run in ("first", "second")}
    assert lines == {"first": 1, "second": 1}
    assert "train/status" not in Path("first/progress.csv").read_text()


def test_the_last_keys_reach_sb3s_own_csv() -> None:
    model = make_model(log_folder="elsewhere")
    model.set_logger(configure("sb3", ["csv"]))
    model.learn(192)
    model.logger.close()
    with Path("sb3/progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train/n_updates"] for row in rows if row["train/n_updates"]] == ["1", "2", "3"]


# ---------------------------------------------------------------- the run folder


def check_run_folder(folder: Path, n_updates: int, steps: int = 64) -> list[UpdateReport]:
    """One row an update in every file, and all of them say the same."""
    reports = [UpdateReport.from_json(line) for line in (folder / "updates.jsonl").read_text().splitlines()]
    assert [report.n_updates for report in reports] == list(range(1, n_updates + 1))
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["train/n_updates"]) for row in rows] == [report.n_updates for report in reports]
    assert [int(row["time/total_timesteps"]) for row in rows] == [report.num_timesteps for report in reports]
    for row, report in zip(rows, reports, strict=True):
        assert None not in row
        assert float(row["train/kl_divergence_loss"]) == report.kl
    for name, width in {"advantages": 7, "vf_loss": 2, "kl": 1, "entropy": 1}.items():
        history = np.load(folder / f"{name}.npy")
        assert history.dtype == np.float32
        assert history.shape == ((n_updates, width) if width > 1 else (n_updates,))
    assert np.load(folder / "kl.npy").tolist() == [float(np.float32(report.kl)) for report in reports]
    return reports


class Loads(BaseCallback):
    """Reads the folder after every update, while training goes on."""

    def __init__(self, folder: str):
        super().__init__()
        self.folder, self.seen = Path(folder), 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.last_update is not None:
            self.seen += 1
            assert check_run_folder(self.folder, self.seen)[-1] == self.model.last_update


def test_the_folder_can_be_read_after_every_update() -> None:
    model = make_model(log_folder="run")
    callback = Loads("run")
    model.learn(256, callback=callback)
    assert callback.seen == 3
    reports = check_run_folder(Path("run"), 4)
    assert reports[-1] == model.last_update
    batch = model.last_update_inputs.batch
    mean, std, least, *_, most = np.load("run/advantages.npy")[-1]
    assert mean == pytest.approx(float(batch.advantages.mean()), abs=1e-6)
    assert std == pytest.approx(float(batch.advantages.std()), rel=1e-5)
    assert (least, most) == (float(batch.advantages.min()), float(batch.advantages.max()))
    assert np.load("run/vf_loss.npy")[-1].tolist() == pytest.approx(
        [model.last_update.value_loss_before, model.last_update.value_loss_after], rel=1e-6
    )


def test_a_resumed_run_appends_and_a_fresh_one_begins_anew() -> None:
    model = make_model(log_folder="run")
    model.learn(128)
    model.save("model.zip")
    loaded = TRPO.load("model.zip", env=make_env())
    loaded.learn(64, reset_num_timesteps=False)
    reports = check_run_folder(Path("run"), 3)
    assert [report.num_timesteps for report in reports] == [64, 128, 192]
    make_model(log_folder="run").learn(64)
    check_run_folder(Path("run"), 1)


def test_the_folder_of_the_monitor_files_comes_before_the_loggers() -> None:
    def monitored(**kwargs: Any) -> Any:
        spaces_of = {"observation_space": OBSERVATIONS["vector"][0], "action_space": ACTIONS["box"][0]}
        env = make_vec_env(RandomEnv, n_envs=2, seed=0, env_kwargs=spaces_of, monitor_dir="monitors")
        model = make_model(env=VecNormalize(env), **kwargs)
        model.set_logger(configure("logger", ["csv"]))
        model.learn(128)
        return model

    monitored()
    assert len(check_run_folder(Path("monitors"), 2)) == 2
    assert not Path("logger/updates.jsonl").exists()
    assert not Path("logger/kl.npy").exists()
    monitored(log_folder="asked")
    check_run_folder(Path("asked"), 2)


@pytest.mark.parametrize("log_folder", [None, "same", "same/", "./same"])
def test_sb3s_own_csv_in_the_same_folder_is_left_alone(log_folder: str | None) -> None:
    model = make_model(log_folder=log_folder)
    model.set_logger(configure("same", ["csv"]))
    model.learn(128)
    model.logger.close()
    with Path("same/progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train/n_updates"] for row in rows if row["train/n_updates"]] == ["1", "2"]
    assert "rollout/ep_rew_mean" in rows[0]
    assert "train/status" not in rows[0]
    assert len(Path("same/updates.jsonl").read_text().splitlines()) == 2


def test_sb3s_own_csv_that_comes_later_is_left_alone_too() -> None:
    model = make_model(log_folder="same")
    model.learn(64)
    model.set_logger(configure("same", ["csv"]))
    model.learn(128)
    model.logger.close()
    with Path("same/progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train/n_updates"] for row in rows if row["train/n_updates"]] == ["2", "3"]
    assert all(None not in row for row in rows)
    assert len(Path("same/updates.jsonl").read_text().splitlines()) == 3


def test_another_csv_logger_elsewhere_does_not_take_ours_away() -> None:
    model = make_model(log_folder="ours")
    model.set_logger(configure("theirs", ["csv"]))
    model.learn(64)
    check_run_folder(Path("ours"), 1)


def test_nothing_is_written_when_no_folder_is_known() -> None:
    model = make_model()
    before = sorted(Path.cwd().rglob("*"))
    logged(model, 128)
    assert model.last_update.n_updates == 2
    assert sorted(Path.cwd().rglob("*")) == before


def test_evaluations_between_updates_do_not_cost_a_row() -> None:
    # SB3's own row would lose its keys to the evaluation's dump.
    model = make_model(log_folder="run")
    model.learn(192, callback=EvalCallback(make_env(n_envs=1), eval_freq=8, n_eval_episodes=1, verbose=0))
    check_run_folder(Path("run"), 3)


@pytest.mark.parametrize("action", ACTIONS)
def test_reports_survive_json_in_every_space(action: str) -> None:
    model = collect(make_model(action))
    model.train()
    text = model.last_update.to_json()
    assert "\n" not in text
    assert UpdateReport.from_json(text) == model.last_update
    for value in json.loads(text).values():
        assert value is None or isinstance(value, str | int | float | list)


def test_a_skipped_update_has_a_row_too() -> None:
    model = make_model(log_folder="run", min_explained_variance=0.999)
    model.learn(128)
    reports = check_run_folder(Path("run"), 2)
    assert {report.status for report in reports} == {"low_explained_variance"}
    assert reports[-1].updates_skipped == 2


def test_a_full_disk_is_said_and_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = make_model(log_folder=str(tmp_path / "run"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write", full)
    with pytest.warns(UserWarning, match=r"run folder .*run can't be written .*No space left"):
        model.learn(32)
    assert model.last_update is not None
    assert model.last_update.accepted
