"""``python -m sb3_trpo_ext`` and the Zoo's own scripts, run as a person runs them."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.vec_env import VecNormalize

import sb3_trpo_ext
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo.cli import SCRIPTS, run
from sb3_trpo_ext.zoo.search_space import convert_trpo_params
from tests.monitoring.wandb_runs import only_run

TINY = ["-n", "300", "-params", "n_steps:64", "batch_size:64", "n_critic_updates:10"]
QUICK = ["--seed", "1", "--eval-freq", "-1"]


def python(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


WHICH_WRAPPERS = """
from rl_zoo3.exp_manager import ExperimentManager
from sb3_trpo_ext.zoo.cli import run
learn = ExperimentManager.learn
def watched(self, model):
    print(type(model.env.unwrapped).__name__, type(model.env).__name__)
ExperimentManager.learn = watched
run(["train", "--env", "Acrobot-v1", "-n", "64", "-f", "watched"])
"""


def saved(kind: str, env_id: str = "CartPole-v1", number: int = 1) -> dict[str, object]:
    return yaml.unsafe_load(Path(f"logs/trpo/{env_id}_{number}/{env_id}/{kind}.yml").read_text())


def test_train_enjoy_and_record_video() -> None:
    done = python("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", *QUICK, *TINY)
    assert "Loading hyperparameters from: sb3_trpo_ext.zoo" in done.stdout
    config = saved("config")
    assert (config["kl_reduction"], config["target_kl"], config["n_steps"]) == ("joint", 0.01, 64)

    done = python("-m", "sb3_trpo_ext", "enjoy", "--env", "CartPole-v1", "--no-render", "-n", "300", "--device", "cpu")
    assert "Mean reward" in done.stdout
    python("-m", "sb3_trpo_ext", "record_video", "--env", "CartPole-v1", "-n", "20")
    assert [film.stat().st_size > 1000 for film in Path("logs/trpo/CartPole-v1_1/videos").glob("*.mp4")] == [True]


def test_the_users_own_flags_win() -> None:
    Path("mine.yml").write_text("default: {policy: MlpPolicy, n_timesteps: 100, n_steps: 32, kl_reduction: mean}\n")
    python("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", *QUICK, "--conf-file", "mine.yml", "-f", "elsewhere")
    config = yaml.unsafe_load(Path("elsewhere/trpo/CartPole-v1_1/CartPole-v1/config.yml").read_text())
    assert config["kl_reduction"] == "mean"
    # Another algorithm gets neither our YAML nor our algorithm
    python("-m", "sb3_trpo_ext", "train", "--algo", "ppo", "--env", "Pendulum-v1", *QUICK, "-n", "64", "-params", "n_steps:16")
    assert "kl_reduction" not in yaml.unsafe_load(Path("logs/ppo/Pendulum-v1_1/Pendulum-v1/config.yml").read_text())


def test_train_runs_in_our_wrappers_and_leaves_files_that_are_sb3s() -> None:
    python("-m", "sb3_trpo_ext", "train", "--env", "Acrobot-v1", *QUICK, "-n", "128", "-params", "n_steps:64")
    folder = Path("logs/trpo/Acrobot-v1_1/Acrobot-v1")
    # What a run leaves does not show whose wrappers it ran in: look where the Zoo takes them from.
    assert "FastDummyVecEnv FastVecNormalize\n" in python("-c", WHICH_WRAPPERS).stdout
    statistics = (folder / "vecnormalize.pkl").read_bytes()
    assert b"sb3_trpo_ext" not in statistics
    assert type(pickle.loads(statistics)) is VecNormalize
    report = json.loads((folder.parent / "updates.jsonl").read_text().splitlines()[-1])
    assert report["collection"] == "actor alone"


def test_environments_in_processes_of_their_own() -> None:
    python("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", *QUICK, *TINY, "--vec-env", "subproc")
    assert Path("logs/trpo/CartPole-v1_1/CartPole-v1.zip").is_file()
    assert len(Path("logs/trpo/CartPole-v1_1/updates.jsonl").read_text().splitlines()) == 3


def test_the_zoos_progress_bar_shows_the_last_update() -> None:
    done = python("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", *QUICK, *TINY, "-P", "--verbose", "0")
    (bar,) = [line for line in done.stdout.splitlines() if "it/s" in line]
    report = json.loads(Path("logs/trpo/CartPole-v1_1/updates.jsonl").read_text().splitlines()[-1])
    assert report["n_updates"] == 3
    assert f"{report['kl'] / report['target_kl']:.2f}δ".removeprefix("0") in bar
    assert re.search(r" H ?[\d.]+ +R ?[\d.]+ ", bar)


def test_optimize_then_trial_id_trains_with_exactly_what_was_sampled() -> None:
    study = ["--storage", "study.log", "--study-name", "s"]
    zoo = ["-m", "rl_zoo3.train", "--algo", "trpo", "--gym-packages", "sb3_trpo_ext.zoo", "--conf-file", "sb3_trpo_ext.zoo"]
    budget = ["-n", "300", "--n-evaluations", "1", "--eval-episodes", "1"]
    search = ["-optimize", "--n-trials", "2", "--n-startup-trials", "2", "--sampler", "random", "--no-optim-plots"]
    python(*zoo, "--env", "CartPole-v1", "--seed", "9", *budget, *search, *study)
    # Trials log nothing, and leave nothing
    assert list(Path().rglob("updates.jsonl")) == []
    # 1, not 0: the Zoo takes trial 0 for no trial
    python(*zoo, "--env", "CartPole-v1", *QUICK, "-n", "300", "--trial-id", "1", *study)
    backend = optuna.storages.journal.JournalFileBackend("study.log")
    trials = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    config = saved("config", number=2)  # the search has taken 1
    assert {key: config[key] for key in convert_trpo_params(trials[1].params)} == convert_trpo_params(trials[1].params)


def test_monitors_watch_the_trials_of_a_search() -> None:
    # A limit that is passed at once, so that every trial says so.
    Path("mine.yml").write_text(
        "CartPole-v1: {policy: MlpPolicy, n_timesteps: 300, callback: "
        "[{sb3_trpo_ext.monitoring.TrustRegionMonitor: {cg: {failures: 0}}}]}\n"
    )
    zoo = ["-m", "rl_zoo3.train", "--algo", "trpo", "--gym-packages", "sb3_trpo_ext.zoo", "--conf-file", "mine.yml"]
    search = ["-optimize", "--n-trials", "2", "--n-startup-trials", "2", "--sampler", "random", "--no-optim-plots"]
    budget = ["-n", "300", "--n-evaluations", "1", "--eval-episodes", "1"]
    done = python(*zoo, "--env", "CartPole-v1", "--seed", "9", *budget, *search)
    assert done.stderr.count("TrustRegionWarning: TRPO: TR401") == 2
    assert not Path("wandb").exists()
    assert not list(Path().rglob("alarms.jsonl"))


def test_the_zoo_tracks_our_keys_offline() -> None:
    zoo = ["-m", "rl_zoo3.train", "--algo", "trpo", "--gym-packages", "sb3_trpo_ext.zoo", "--conf-file", "sb3_trpo_ext.zoo"]
    python(*zoo, "--env", "Pendulum-v1", *QUICK, *TINY, "--track")
    keys = {key for row in only_run(Path()).rows for key in row}
    assert {"train/kl_divergence_loss", "train/value_loss", "train/explained_variance", "global_step"} <= keys
    assert {"train/kl_joint", "train/cg_residual", "train/critic_epochs"} <= keys


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fly"], "unknown script 'fly'"),
        (["train", "--env", "CartPol-v1"], "did you mean CartPole-v1?"),
        (["enjoy", "--env", "CartPole-v1"], "logs/trpo folder was not found"),
        (["record_video", "--env", "CartPole-v1", "--exp-id", "7"], "CartPole-v1_7 folder was not found"),
        (["enjoy", "--env", "Hopper-v5"], "(a trained Hopper-v5 comes with this package: --pretrained)"),
        (["enjoy", "--env", "Hopper-v5", "--exp-id", "3"], "(a trained Hopper-v5 comes with this package: --pretrained)"),
        (["enjoy", "--env", "Ant-v5", "--pretrained"], "no trained Ant-v5 comes with this package, only Hopper-v5"),
        (["enjoy", "--env", "Hopper-v5", "--pretrained", "--load-best", "--algo", "ppo"], "drop --load-best, --algo"),
        (["enjoy", "--env", "Hopper-v5", "--pretrained", "--no-render", "-f", "logs"], "drop --folder"),
        (["enjoy", "--env", "Hopper-v5", "--pretrained", "--no-render", "-flogs"], "drop --folder"),
        (["record_video", "--env", "Hopper-v5", "--pretrained", "--load-l"], "drop --load-last-checkpoint"),
        (["record_video", "--env", "Hopper-v5", "--pretrained", "--exp=7"], "drop --exp-id"),
        (["enjoy", "--env", "Hopper-v5", "--pretrained", "--load-checkpoint"], "drop --load-checkpoint"),
        (["record_video", "--pretrained"], "no trained CartPole-v1 comes with this package, only Hopper-v5"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert run(command) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_an_error_inside_the_zoo_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ExperimentManager, model: object) -> None:
        raise ValueError("in the middle of it")

    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(ExperimentManager, "learn", broken)
    with pytest.raises(ValueError, match="in the middle of it"):
        run(["train", "--env", "CartPole-v1", "-f", "logs", *QUICK, "-n", "64"])


def test_plots_name_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setitem(sys.modules, "seaborn", None)
    for name in [name for name in sys.modules if name.startswith("rl_zoo3.plots")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(["plot_train", "-e", "CartPole-v1"]) == 2
    assert "pip install 'rl-zoo3[plots]'" in capsys.readouterr().err


def test_help_lists_every_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-h"]) == run([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in [*SCRIPTS, "convert-config"])


WITHOUT_EXTRAS = """
import runpy, sys
for module in ("rl_zoo3", "rich", "yaml", "plotly", "tensorboard", "wandb", "optuna"):
    sys.modules[module] = None
sys.argv[1:] = {words}
runpy.run_module("sb3_trpo_ext", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--env", "CartPole-v1"], "The RL Zoo is missing: pip install 'sb3-trpo-ext[zoo]'\n"),
        (["replay", "dump.json"], "replay needs rich: pip install 'sb3-trpo-ext[doctor]'\n"),
    ],
    ids=["train", "replay"],
)
def test_without_its_extra_one_line_says_so(words: list[str], told: str) -> None:
    assert python("-c", WITHOUT_EXTRAS.format(words=words), expect=2).stderr == told


def test_torchscript_needs_no_extra() -> None:
    TRPO("MlpPolicy", "CartPole-v1", device="cpu").save("model.zip")
    python("-c", WITHOUT_EXTRAS.format(words=["export", "model.zip", "-o", "policy.pt"]))
    assert Path("policy.pt").is_file()
