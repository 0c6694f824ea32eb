"""WandbMonitor: real offline runs, read back from the file."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sb3_trpo_ext.monitoring.run_config import OURS
from sb3_trpo_ext.monitoring.wandb import FLUSH_SECONDS
from sb3_trpo_ext.records.keys import KEYS
from tests.monitoring.wandb_runs import FAKE_KEY, Recorded, environ, files_with, only_run, read_run, start, training
from tests.monitoring.wandb_trainings import N_STEPS, N_UPDATES

pytest.importorskip("wandb")

STEPS = [2 * N_STEPS * update for update in range(1, N_UPDATES + 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    training(folder, "own")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Recorded:
    return only_run(folder)


def reports(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "run/updates.jsonl").read_text().splitlines()]


def test_the_config_says_what_the_run_was_made_with(run: Recorded) -> None:
    trpo = run.config[OURS]["trpo"]
    assert (trpo["gamma"], trpo["n_steps"], trpo["learning_rate"], trpo["kl_unit"]) == (0.95, N_STEPS, 1e-3, "mean")
    assert {"target_kl", "cg_damping", "cg_precision", "adaptive_damping", "seed", "on_stale_batch", "policy_kwargs"} <= set(
        trpo
    )
    assert run.config[OURS]["environment"]["id"] == "CartPole-v1"
    assert run.config[OURS]["environment"]["n_envs"] == 2
    assert run.config[OURS]["environment"]["vec_normalize"]["clip_obs"] == 10.0
    packages = {"numerics", "torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy", "wandb", "sb3-trpo-ext"}
    assert packages <= set(run.config[OURS]["versions"])
    assert " at 0x" not in json.dumps(run.config)


def test_each_update_is_a_row_at_its_own_step(run: Recorded, folder: Path) -> None:
    expected = reports(folder)
    assert [report["num_timesteps"] for report in expected] == STEPS
    for key in ("train/kl_divergence_loss", "train/cg_damping", "train/value_loss_after", "train/updates_skipped"):
        assert run.column(key) == [(report["num_timesteps"], report[KEYS[key]]) for report in expected]
    assert [step for step, _ in run.column("rollout/ep_rew_mean")] == STEPS
    # What others record.
    assert run.column("custom/answer") == [(step, 42) for step in STEPS]
    assert len(run.column("eval/mean_reward")) == N_UPDATES // 2


def test_nothing_is_logged_twice(run: Recorded) -> None:
    told = Counter((row["global_step"], key) for row in run.rows for key in row if not key.startswith("_"))
    repeated = {(step, key) for (step, key), n in told.items() if n > 1 and key not in ("global_step", "time/fps")}
    # An evaluation's dump takes what stands in the logger: never a key of ours.
    assert not {key for _, key in repeated if key in KEYS or key.startswith(("rollout/", "custom/", "eval/"))}
    assert len(run.artifacts) == 2
    assert run.exit_codes == [0]


def test_every_metric_has_the_axis(run: Recorded) -> None:
    assert [(metric.name, metric.glob_name, metric.step_metric) for metric in run.metrics] == [
        ("global_step", "", ""),
        ("", "*", "global_step"),
    ]


def test_summaries(run: Recorded, folder: Path) -> None:
    expected = reports(folder)
    shares = [report["kl"] / report["target_kl"] for report in expected]  # type: ignore[operator]
    assert run.summary["trpo/best_return"] == max(value for _, value in run.column("rollout/ep_rew_mean"))
    assert run.summary["trpo/best_evaluation"] == max(value for _, value in run.column("eval/mean_reward"))
    assert run.summary["trpo/max_kl_share"] == max(shares)
    assert run.summary["trpo/updates_skipped"] == 0
    assert run.summary["trpo/explained_variance"] == expected[-1]["explained_variance"]


def test_histograms(run: Recorded) -> None:
    for name in ("advantages", "importance_ratios", "inactive_units/actor", "inactive_units/critic"):
        drawn = run.column(f"histograms/{name}")
        assert [step for step, _ in drawn] == STEPS[1::2]
        for _, histogram in drawn:
            assert (len(histogram["values"]), len(histogram["bins"])) == (64, 65)  # type: ignore[index]
    [_, ratios] = run.column("histograms/importance_ratios")[-1]
    assert sum(ratios["values"]) == 2 * N_STEPS  # type: ignore[index]
    assert ratios["bins"][0] < 1 < ratios["bins"][-1]  # type: ignore[index]
    assert ratios["bins"][-1] < 3  # type: ignore[index]


def test_alarms_are_alerts_once_each(run: Recorded) -> None:
    assert [(alert.title[:5], alert.level) for alert in run.alerts] == [("TR101", "WARN"), ("TR303", "ERROR")]
    assert all(len(alert.title) < 64 for alert in run.alerts)
    assert "update 3" in run.alerts[0].text


def test_artifacts_are_bounded(run: Recorded) -> None:
    model, dumps = run.artifacts
    assert [entry.path for entry in model.manifest.contents] == ["model.zip", "vecnormalize.pkl"]
    assert [entry.path for entry in dumps.manifest.contents] == ["small.json"]
    assert all(Path(entry.local_path).is_file() for entry in [*model.manifest.contents, *dumps.manifest.contents])
    assert json.loads(model.metadata) == {"num_timesteps": STEPS[-1], "n_updates": N_UPDATES}


def test_the_key_is_nowhere(folder: Path) -> None:
    assert files_with(folder, "CartPole-v1")
    assert files_with(folder, FAKE_KEY) == []


def test_wandbs_own_reader_sees_the_same(run: Recorded) -> None:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run.file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ(run.file.parent))
    if "No such command" in done.stderr:
        pytest.skip("this wandb has no leet")
    theirs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [record["type"] for record in theirs] == run.types
    rows = [record["history"]["item"] for record in theirs if record["type"] == "history"]
    key = "train/kl_joint"
    assert [row[key] for row in rows if key in row] == [value for _, value in run.column(key)]


def test_sigterm_leaves_the_last_rows(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", "tests.monitoring.wandb_trainings", "endless")
    updates = tmp_path / "run/updates.jsonl"
    wait_for(lambda: updates.exists() and updates.read_text().count("\n") >= 5)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    run = only_run(tmp_path)
    steps = [report["num_timesteps"] for report in reports(tmp_path)]
    # The signal may come between the report's file and the report.
    assert [step for step, _ in run.column("train/kl_joint")] in (steps, steps[:-1])
    assert run.exit_codes == [128 + signal.SIGTERM]
    assert files_with(tmp_path, FAKE_KEY) == []


@pytest.mark.slow
def test_kill_9_costs_a_run_of_ours_a_few_seconds(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", "tests.monitoring.wandb_trainings", "endless")
    updates = tmp_path / "run/updates.jsonl"
    wait_for(updates.exists)
    time.sleep(4 * FLUSH_SECONDS)
    before = len(reports(tmp_path))
    time.sleep(2 * FLUSH_SECONDS)
    process.kill()
    process.communicate(timeout=60)
    # wandb's own process ends on its own, a moment later.
    assert len(only_run(tmp_path).column("train/kl_joint")) >= before - 1


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.2)


# ---------------------------------------------------------------- runs of others


@pytest.mark.slow
def test_a_run_of_the_users(tmp_path: Path) -> None:
    training(tmp_path, "users", "alone")
    run = only_run(tmp_path)
    assert (run.config["mine"], run.config["trpo"], run.config["environment"]) == (1, 3, "theirs")
    assert run.config[OURS]["trpo"]["gamma"] == 0.95
    assert [step for step, _ in run.column("train/kl_joint")] == STEPS
    assert len(run.alerts) == 2
    assert run.exit_codes == [0]


@pytest.mark.slow
def test_a_run_that_syncs_tensorboard_is_told_nothing_twice(tmp_path: Path) -> None:
    training(tmp_path, "users", "synced")
    run = only_run(tmp_path)
    check_synced(run, STEPS)
    assert [step for step, _ in run.column("histograms/advantages")] == [256 + 128, 512 + 128, 768]
    assert run.column("custom/answer") == [(step, 42) for step in STEPS]
    # SB3 writes an update's keys with the next rollout, the last update's at the end: at the same step as those of the update
    # before, so that W&B, which has one row a step, keeps the newer.
    kls = [report["kl_joint"] for report in reports(tmp_path)]
    assert [value for _, value in run.column("train/kl_joint")] == pytest.approx([*kls[:-2], kls[-1]])
    assert len(run.artifacts) == 1


def check_synced(run: Recorded, steps: list[int]) -> None:
    told = Counter((row["global_step"], key) for row in run.rows for key in row if key.startswith(("train/", "rollout/")))
    assert told
    assert max(told.values()) == 1
    assert [step for step, _ in run.column("rollout/ep_rew_mean")] == steps
    assert ("*", "global_step") in [(metric.glob_name, metric.step_metric) for metric in run.metrics]
    assert run.summary["trpo/max_kl_share"] > 0
    assert run.config[OURS]["trpo"]["kl_unit"]


@pytest.mark.slow
def test_without_a_network_the_run_goes_offline(tmp_path: Path) -> None:
    output = training(tmp_path, "unreachable", WANDB_MODE="online", WANDB_BASE_URL="http://127.0.0.1:9")
    assert output.count("W&B: starting a run failed") == 1
    assert [step for step, _ in only_run(tmp_path).column("train/kl_joint")] == STEPS
    assert files_with(tmp_path, FAKE_KEY) == []
    assert FAKE_KEY not in output


YAML = """
CartPole-v1:
  n_envs: 2
  n_timesteps: 384
  policy: MlpPolicy
  n_steps: 64
  batch_size: 64
  normalize: true
  learning_rate: lin_0.001
  callback:
    - sb3_trpo_ext.monitoring.WandbMonitor: {histogram_every: 1}
    - sb3_trpo_ext.monitoring.TrustRegionMonitor
"""


@pytest.mark.slow
def test_the_zoos_track(tmp_path: Path) -> None:
    (tmp_path / "conf.yml").write_text(YAML)
    zoo = [
        "-m",
        "sb3_trpo_ext",
        "train",
        "--env",
        "CartPole-v1",
        "--conf-file",
        "conf.yml",
        "--seed",
        "1",
        "--eval-freq",
        "100",
    ]
    process = start(tmp_path, *zoo, "--track")
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    run = only_run(tmp_path)
    check_synced(run, [128, 256, 384])
    assert run.config["algo"] == "trpo"
    assert (
        run.config[OURS]["trpo"]["learning_rate"] == "SimpleLinearSchedule: 0.001 at the start, 0.0005 half way, 0 at the end"
    )
    assert run.config[OURS]["environment"]["id"] == "CartPole-v1"
    assert [entry.path for artifact in run.artifacts for entry in artifact.manifest.contents] == [
        "model.zip",
        "vecnormalize.pkl",
    ]
    # Of the updates before the last dump.
    assert run.column("histograms/importance_ratios")
    # The Zoo's own files are complete.
    assert (tmp_path / "logs/trpo/CartPole-v1_1/progress.csv").read_text().count("\n") == 4
    assert files_with(tmp_path, FAKE_KEY) == []


@pytest.mark.slow
def test_sigterm_under_the_zoos_track(tmp_path: Path) -> None:
    (tmp_path / "conf.yml").write_text(YAML.replace("384", "10000000"))
    process = start(tmp_path, "-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", "--conf-file", "conf.yml", "--track")
    updates = tmp_path / "logs/trpo/CartPole-v1_1/updates.jsonl"
    wait_for(lambda: updates.exists() and updates.read_text().count("\n") >= 5)
    process.terminate()
    process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM
    run = only_run(tmp_path)
    done = [json.loads(line)["num_timesteps"] for line in updates.read_text().splitlines()]
    seen = [step for step, _ in run.column("rollout/ep_rew_mean")]
    assert seen[-1] >= done[-1] - 128
    assert run.exit_codes == [128 + signal.SIGTERM]


SWEEP = """wandb_version: 1

target_kl:
  value: 0.0321
n_steps:
  value: 128
policy_kwargs:
  value: dict(net_arch=[16])
"""


def sweep(folder: Path, text: str, expect: int = 0) -> str:
    (folder / "parameters.yaml").write_text(text)
    train = ["-m", "sb3_trpo_ext", "train", "--track", "--conf-file", "sb3_trpo_ext.zoo.sweep", "--env", "CartPole-v1"]
    more = {"WANDB_SWEEP_ID": "abcd1234", "WANDB_SWEEP_PARAM_PATH": str(folder / "parameters.yaml"), "WANDB_RUN_ID": "r1"}
    process = start(folder, *train, "-n", "512", "--eval-freq", "-1", **more)
    output, _ = process.communicate(timeout=250)
    assert process.returncode == expect, output
    return output


@pytest.mark.slow
def test_a_sweeps_parameters_arrive_in_the_model(tmp_path: Path) -> None:
    sweep(tmp_path, SWEEP)
    run = only_run(tmp_path)
    assert run.sweep_id == "abcd1234"
    assert run.config["target_kl"] == 0.0321
    trpo = run.config[OURS]["trpo"]
    assert (trpo["target_kl"], trpo["n_steps"], trpo["policy_kwargs"]) == (0.0321, 128, {"net_arch": [16]})
    # What the sweep does not say is the YAML's.
    assert (trpo["kl_reduction"], trpo["n_critic_updates"]) == ("joint", 20)
    saved = (tmp_path / "logs/trpo/CartPole-v1_1/CartPole-v1/config.yml").read_text()
    assert "0.0321" in saved
    assert [step for step, _ in run.column("rollout/ep_rew_mean")] == [256, 512]


@pytest.mark.slow
def test_an_unknown_parameter_of_a_sweep_is_one_line(tmp_path: Path) -> None:
    output = sweep(tmp_path, SWEEP + "target_lk:\n  value: 1\n", expect=2)
    [line] = re.findall(r"^sb3_trpo_ext: the sweep: .*$", output, re.MULTILINE)
    assert "unknown key target_lk=1" in line
    assert "did you mean target_kl?" in line
    assert "Traceback" not in output
    assert only_run(tmp_path).exit_codes == [2]


def test_a_killed_run_keeps_what_was_flushed(folder: Path, tmp_path: Path) -> None:
    whole = only_run(folder)
    file = tmp_path / "cut.wandb"
    file.write_bytes(whole.file.read_bytes()[: whole.file.stat().st_size // 2])
    cut = read_run(file)
    assert cut.rows == whole.rows[: len(cut.rows)]
    assert cut.rows
