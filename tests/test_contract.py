"""
What people's code, YAML files, dashboards and old files hang on: moving a file of ours must not move any of it.

A line that has to change here is a breaking change, and belongs into the changelog under that heading. The files in
``tests/contract/1`` were written by an earlier version (``tests/contract/write.py``), those in ``2`` since checkpoints are
plain data; both must be read for ever.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import yaml
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

import sb3_trpo_ext
from sb3_trpo_ext import TRPO, monitoring
from sb3_trpo_ext.doctor import cli as doctor_cli
from sb3_trpo_ext.export import cli as export_cli
from sb3_trpo_ext.monitoring import KLMonitor, Monitor
from sb3_trpo_ext.monitoring.flight_recorder import FlightRecorder
from sb3_trpo_ext.monitoring.tree import callbacks_in
from sb3_trpo_ext.records.keys import KEYS
from sb3_trpo_ext.replay import cli as replay_cli
from sb3_trpo_ext.zoo import cli, convert_config
from sb3_trpo_ext.zoo.plan import own_flags
from sb3_trpo_ext.zoo.resumed import read_resumed
from tests.contract.write import RUN, SAMPLES, TASK, UPDATES, ZOO, callbacks, environments, write

MODULES: dict[str, str] = {
    "sb3_trpo_ext": "TRPO Checkpoints UpdateReport CheckpointError EpisodeError NonFiniteError RanksError StaleBatchError"
    " TooEarlyError WorkerError",
    "sb3_trpo_ext.sb3.trpo": "TRPO",
    "sb3_trpo_ext.sb3.vec_env": "FastDummyVecEnv FastVecNormalize",
    "sb3_trpo_ext.monitoring": "ALARMS AdvantageMonitor Alarm AlarmKind ConjugateGradientMonitor DeadNeuronMonitor"
    " EntropyMonitor FlightRecorder KLMonitor Monitor Severity TrustRegionMonitor TrustRegionWarning ValueFunctionMonitor"
    " WandbMonitor",
    "sb3_trpo_ext.monitoring.dump": "Dump DumpError read_dump write_dump",
    "sb3_trpo_ext.zoo": "config_file hyperparams",
    "sb3_trpo_ext.replay": "DumpError Replayed differences recompute",
    "sb3_trpo_ext.export": "ExportError Exported export_policy",
    "sb3_trpo_ext.core": "NUMERICS_VERSION",
    "sb3_trpo_ext.core.report": "UpdateReport",
    "sb3_trpo_ext.core.status": "BlockStatus CGStatus CriticStatus Diagnostic LineSearchStatus OnPolicyStatus TrialStatus"
    " UpdateStatus",
    "sb3_trpo_ext.core.mlp": "MLPActor",
}
"""Dotted names that stand in people's code, YAML files and pickles. (``zoo.sweep`` can be imported in a sweep only.)"""

OURS: dict[str, Any] = {
    "kl_reduction": None,
    "cg_precision": "mixed",
    "cg_preconditioner": "none",
    "cg_rtol": 1e-10,
    "adaptive_damping": True,
    "cg_damping_range": None,
    "max_critic_updates": None,
    "critic_tolerance": None,
    "min_explained_variance": None,
    "on_stale_batch": "raise",
    "on_nonfinite": "raise",
    "fisher_chunk_size": None,
    "log_folder": None,
    "warn_on_risky": True,
    "final_target_kl": None,
}
"""Arguments of the constructor after sb3-contrib's, with their defaults."""

LOGGED = """
monitor/actor_inactive_1 monitor/actor_inactive_2 monitor/advantage_mean monitor/advantage_std monitor/backtracks
monitor/cg_retries monitor/critic_inactive_1 monitor/critic_inactive_2 monitor/drift_share monitor/entropy_slope
monitor/exploration_left monitor/exploration_lost monitor/extra_critic_epochs monitor/kl_max_share monitor/kl_max_spike
monitor/kl_share monitor/rejected_share monitor/td_bias_share monitor/td_bias_share_by_time monitor/value_loss_trend
train/actor_inactive_units train/advantage_kurtosis train/advantage_top_weight train/behaviour_kl train/cg_damping
train/cg_iterations train/cg_residual train/critic_epochs train/critic_inactive_units train/drift_kl train/entropy
train/expected_improvement train/explained_variance train/explained_variance_after train/explained_variance_mc
train/grad_norm train/is_line_search_success train/kl_divergence_loss train/kl_joint train/kl_max train/learning_rate
train/line_search_backtracks train/n_updates train/policy_objective train/reduction_ratio train/samples_dropped
train/std train/step_scale train/surrogate_improvement train/target_kl train/td_bias train/td_bias_p_by_time
train/td_bias_z train/updates_skipped train/value_loss train/value_loss_after train/value_loss_before
"""

RUN_FILES = {
    *("advantages.npy", "alarms.jsonl", "entropy.npy", "kl.npy", "progress.csv", "updates.jsonl", "vf_loss.npy"),
    *("checkpoints/update_000004/manifest.json", "checkpoints/update_000004/model.zip"),
    "checkpoints/update_000004/state.pkl",
    *("dumps/update_000002_alarm_TR102.json", "dumps/update_000002_alarm_TR102.npz"),
}

FLAGS: dict[str, set[str]] = {
    "train": {"--resume", "--checkpoint-every"},
    "doctor": {"--json", "--html", "--target-kl"},
    "replay": {
        *("--cg-precision", "--cg-preconditioner", "--cg-damping", "--cg-max-steps", "--target-kl", "--sub-sampling-factor"),
        *("--n-critic-updates", "--model"),
    },
    "export": {"-o", "--output", "--normalize", "--channels-last"},
    "convert-config": {"--to", "--env", "-o", "--output", "--force"},
}
SCRIPTS = {"train", "enjoy", "record_video", "plot_train", "all_plots", "plot_from_file"}


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path, repo: Path) -> Path:
    """A copy of what an earlier version has left, in the working directory."""
    for part in (repo / "tests/contract" / getattr(request, "param", "1")).iterdir():
        (shutil.copytree if part.is_dir() else shutil.copy)(part, tmp_path / part.name)
    return tmp_path


# ---------------------------------------------------------------- names, arguments, flags, exit codes


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_where_people_import_it_from(module: str) -> None:
    there = importlib.import_module(module)
    names = MODULES[module].split()
    assert [name for name in names if not hasattr(there, name)] == []
    if module in ("sb3_trpo_ext", "sb3_trpo_ext.monitoring"):
        assert sorted(there.__all__) == sorted(names)


def test_the_constructors_arguments() -> None:
    theirs = list(inspect.signature(sb3_contrib.TRPO.__init__).parameters.values())
    mine = list(inspect.signature(TRPO.__init__).parameters.values())
    assert len(theirs) == 1 + 26
    shared, added = mine[: len(theirs)], mine[len(theirs) :]
    assert [(p.name, p.default, p.kind) for p in shared] == [(p.name, p.default, p.kind) for p in theirs]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in added)
    assert {p.name: p.default for p in added} == OURS
    for method in ("learn", "collect_rollouts", "predict", "save", "load"):
        signatures = [inspect.signature(getattr(cls, method)) for cls in (TRPO, sb3_contrib.TRPO)]
        assert [(p.name, p.default) for p in signatures[0].parameters.values()] == [
            (p.name, p.default) for p in signatures[1].parameters.values()
        ]


def test_every_callback_can_be_made_by_its_name_alone() -> None:
    """The RL Zoo makes them so, from YAML."""
    for name in (
        "Checkpoints",
        *(f"monitoring.{name}" for name in monitoring.__all__ if name.endswith(("Monitor", "Recorder"))),
    ):
        module, _, kind = f"sb3_trpo_ext.{name}".rpartition(".")
        cls = getattr(importlib.import_module(module), kind)
        assert cls is Monitor or cls() is not None


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}


def test_the_flags_of_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, set[str]] = {"train": flags_of(own_flags())}
    for name, main in {
        "doctor": doctor_cli.main,
        "replay": replay_cli.main,
        "export": export_cli.main,
        "convert-config": convert_config.main,
    }.items():

        def seen(parser: argparse.ArgumentParser, *_: Any, name: str = name, **__: Any) -> Any:
            found[name] = flags_of(parser)
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", seen)
            with pytest.raises(SystemExit):
                main([])
    assert found == FLAGS
    assert set(cli.SCRIPTS) == SCRIPTS


def test_exit_codes(old: Path) -> None:
    assert cli.run(["no-such-script"]) == 2
    assert cli.run(["train", "--env", "NoSuchTask-v0"]) == 2
    assert doctor_cli.main([RUN]) in (0, 1, 2)
    assert doctor_cli.main(["nowhere"]) == 3
    assert replay_cli.main(["nowhere.json"]) == 2
    assert export_cli.main(["nowhere.zip", "-o", "policy.pt"]) == 2
    assert convert_config.main(["nowhere.yml", "--to", "mean"]) == 2


@pytest.mark.slow
def test_the_console_finds_the_package(old: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "sb3_trpo_ext", "doctor", RUN, "--json"], capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (said["format"], said["exit_code"]) == (1, done.returncode)


# ---------------------------------------------------------------- what a run writes


def test_what_a_run_writes_is_what_it_always_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_LOGDIR", "")  # so that it is put back
    monkeypatch.setattr(sys, "argv", sys.argv)
    write(tmp_path / "new")
    files = {path.relative_to(RUN).as_posix() for path in Path(RUN).rglob("*") if path.is_file()}
    # Which dumps there are follows from alarms, which may differ between processors.
    assert {name for name in files if not name.startswith("dumps/")} == {n for n in RUN_FILES if not n.startswith("dumps/")}
    columns = Path(RUN, "progress.csv").read_text().splitlines()[0].split(",")
    old = Path(__file__).parent / "contract/1" / RUN / "progress.csv"
    assert columns == old.read_text().splitlines()[0].split(",")
    assert set(columns) - {"time/total_timesteps", "train/status"} <= set(LOGGED.split())
    zoo = {path.name for path in Path(ZOO).rglob("*") if path.is_file()}
    assert {"best_model.zip", f"{TASK}.zip", "config.yml", "args.yml", "vecnormalize.pkl", "evaluations.npz"} <= zoo


def test_the_keys_that_dashboards_read() -> None:
    seen: set[str] = set()

    class Sees(monitoring.KLMonitor):
        def _on_rollout_start(self) -> None:
            super()._on_rollout_start()
            seen.update(self.logger.name_to_value)

    model = TRPO("MlpPolicy", environments(), n_steps=64, batch_size=64, kl_reduction="joint", device="cpu", seed=1)
    # Long enough for the keys that look at a window of updates.
    model.learn(16 * SAMPLES, callback=[*callbacks()[:1], Sees()])
    seen.update(model.logger.name_to_value)
    train = {key for key in seen if key.startswith("train/")}
    # Drops are only counted with on_nonfinite="truncate".
    assert train | {"train/samples_dropped"} == {key for key in LOGGED.split() if key.startswith("train/")}
    assert "train/samples_dropped" in KEYS
    assert {key for key in seen if key.startswith("monitor/")} == {key for key in LOGGED.split() if key.startswith("monitor/")}


# ---------------------------------------------------------------- what an earlier version has left


def test_an_old_zip_loads_here_and_in_sb3_contrib(old: Path) -> None:
    observation = np.array([0.1, -0.2, 0.3], np.float32)
    models = [cls.load("model.zip", device="cpu") for cls in (TRPO, sb3_contrib.TRPO)]
    actions = [model.predict(observation, deterministic=True)[0] for model in models]
    assert np.allclose(*actions)
    assert [(model.num_timesteps, model._n_updates, model.target_kl) for model in models] == [
        (UPDATES * SAMPLES, UPDATES, 0.02)
    ] * 2
    trained = TRPO.load("model.zip", env=environments(), device="cpu").learn(SAMPLES, reset_num_timesteps=False)
    assert trained.last_update.n_updates == UPDATES + 1
    zoo = TRPO.load(f"{ZOO}/trpo/{TASK}_1/best_model.zip", device="cpu")
    assert zoo.predict(observation)[0].shape == (1,)


def monitors_of(given: list[Any]) -> Iterator[Any]:
    for callback in given:
        yield from (part for part in callbacks_in(callback) if isinstance(part, Monitor | FlightRecorder | EvalCallback))


@pytest.mark.parametrize("old", ["1", "2"], indirect=True)
def test_an_old_checkpoint_goes_on_with_the_state_of_every_callback(old: Path) -> None:
    env, given = environments(), callbacks()
    model = TRPO.resume(RUN, env=env, device="cpu")
    assert isinstance(env, VecNormalize)
    assert env.obs_rms.count > UPDATES * SAMPLES
    assert (model.num_timesteps, model.last_update.n_updates) == (UPDATES * SAMPLES, UPDATES)
    score = json.loads(Path(RUN, "checkpoints/update_000004/manifest.json").read_text())["score"]
    before = {type(part).__name__: len(getattr(part, "reports", [])) for part in monitors_of(given)}
    assert set(before.values()) == {0}
    assert len(before) >= 8

    seen: dict[str, Any] = {}

    class Looks(KLMonitor):
        def _on_rollout_start(self) -> None:
            if not seen:
                for part in monitors_of(given):
                    seen[type(part).__name__] = len(part.reports) if hasattr(part, "reports") else part.last_mean_reward

    model.learn((UPDATES + 1) * SAMPLES, callback=[*given, Looks()])
    # The ring of the flight recorder and the window of each monitor hold all updates of the run so far.
    assert {name: kept for name, kept in seen.items() if name != "EvalCallback"} == {
        name: UPDATES for name in before if name != "EvalCallback"
    }
    assert seen["EvalCallback"] == pytest.approx(score)
    assert model.last_update.n_updates == UPDATES + 1
    rows = Path(RUN, "updates.jsonl").read_text().splitlines()
    assert [json.loads(row)["n_updates"] for row in rows] == list(range(1, UPDATES + 2))
    # The alarm was raised before, so it is not raised again.
    alarms = [json.loads(line)["code"] for line in Path(RUN, "alarms.jsonl").read_text().splitlines()]
    assert alarms.count("TR102") == 1


def test_an_old_run_folder_is_read_by_the_doctor(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor_cli.main([RUN, "--json"])
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["n_updates"], run["num_timesteps"], run["algorithm"]) == (UPDATES, UPDATES * SAMPLES, "sb3_trpo_ext")
    assert "TR102" in {finding["code"] for finding in run["findings"]}


def test_an_old_dump_is_replayed(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dump,) = Path(RUN, "dumps").glob("*.json")
    # 1 where another processor rounds otherwise.
    assert replay_cli.main([str(dump)]) in (0, 1)
    assert "Update 2" in capsys.readouterr().out


def test_the_settings_of_an_old_run_of_the_zoo_are_read(old: Path) -> None:
    resumed = read_resumed(Path(ZOO, "trpo", f"{TASK}_1"), TASK)
    assert resumed is not None
    assert resumed.settings["callback"] == "sb3_trpo_ext.monitoring.TrustRegionMonitor"
    assert resumed.settings["kl_reduction"] == "joint"
    assert yaml.safe_load(sb3_trpo_ext.zoo.config_file().read_text(encoding="utf-8"))[TASK]["kl_reduction"] == "joint"
