"""One study, many workers: the Zoo's ``--storage``, and what it names."""

import argparse
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest

import sb3_trpo_ext
from sb3_trpo_ext.zoo import cli
from sb3_trpo_ext.zoo.search_space import ZOO_SPACE
from sb3_trpo_ext.zoo.study import NO_FINISHED_TRIAL, check_trial
from sb3_trpo_ext.zoo.yaml_files import ConfigError

STORAGES = ["study.log", "sqlite:///study.db"]
WORKER = ["train", "--env", "CartPole-v1", "-n", "2100", "-optimize", "--n-evaluations", "1", "--eval-episodes", "1"]
SEARCH = ["--study-name", "s", "--max-total-trials", "6", "--n-startup-trials", "3", "--no-optim-plots"]


def opened(storage: str) -> optuna.storages.BaseStorage:
    if storage.endswith(".log"):
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    return optuna.storages.RDBStorage(storage)


def named(trial_id: int | None, storage: str | None = None, study_name: str | None = "s") -> argparse.Namespace:
    return argparse.Namespace(trial_id=trial_id, storage=storage, study_name=study_name)


def worker(storage: str, seed: int) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sb3_trpo_ext", *WORKER, *SEARCH, "--storage", storage, "--seed", str(seed)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES, ids=["journal", "sqlite"])
def test_two_workers_share_one_study(storage: str) -> None:
    # A study's tables are made by the first who comes: two at once may both try (Optuna's own advice is to make it first).
    optuna.create_study(storage=opened(storage), study_name="s", direction="maximize")
    workers = [worker(storage, seed) for seed in (1, 2)]
    outputs = [process.communicate(timeout=240)[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0], "\n".join(outputs)

    trials = optuna.load_study(study_name="s", storage=opened(storage)).trials
    # Two that begin a trial at once may both see one place left
    assert len(trials) in (6, 7)
    assert all(trial.state.is_finished() for trial in trials)
    assert all(set(trial.params) == set(ZOO_SPACE) for trial in trials)
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials)
    # Both took part: each says which trials were its own
    ended = [Counter(line.split()[-1] for line in text.splitlines() if "finished with value" in line) for text in outputs]
    assert all(ended), outputs
    check_trial(named(len(trials) - 1, storage))


@pytest.fixture(params=STORAGES, ids=["journal", "sqlite"])
def study_of_three(request: pytest.FixtureRequest) -> str:
    study = optuna.create_study(storage=opened(request.param), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    return str(request.param)


def test_a_trial_that_is_there_passes(study_of_three: str) -> None:
    check_trial(named(None))
    check_trial(named(2, study_of_three))


@pytest.mark.parametrize("trial", [3, -1])
def test_a_trial_that_is_not_there(study_of_three: str, trial: int) -> None:
    with pytest.raises(ConfigError, match=f"--trial-id {trial}: study s has the trials 1 to 2 and 0"):
        check_trial(named(trial, study_of_three))


def test_a_study_that_is_not_there(study_of_three: str) -> None:
    with pytest.raises(ConfigError, match=rf"--study-name t: no such study in --storage {study_of_three} \(it has: s\)"):
        check_trial(named(1, study_of_three, "t"))


@pytest.mark.parametrize("storage", STORAGES, ids=["journal", "sqlite"])
def test_a_file_that_is_not_there_is_not_made(storage: str) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        check_trial(named(1, storage))
    assert list(Path().iterdir()) == []


def test_what_is_no_storage() -> None:
    Path("study.log").write_text("no journal\nat all\n")
    with pytest.raises(ConfigError, match=r"--storage study\.log: can't be read"):
        check_trial(named(1, "study.log"))
    with pytest.raises(ConfigError, match="--storage nosql://x: can't be read"):
        check_trial(named(1, "nosql://x"))


@pytest.mark.parametrize(("storage", "study_name"), [(None, "s"), ("study.log", None)])
def test_half_a_name_is_no_reason_to_train_something_else(storage: str | None, study_name: str | None) -> None:
    with pytest.raises(ConfigError, match="--trial-id 1: needs --storage and --study-name"):
        check_trial(named(1, storage, study_name))


def test_the_zoo_reads_0_as_none(study_of_three: str) -> None:
    with pytest.raises(ConfigError, match="--trial-id 0: the RL Zoo reads 0 as none"):
        check_trial(named(0, study_of_three))


def test_a_worker_that_came_too_late_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study(storage=opened("late.log"), study_name="s", direction="maximize")
    study.ask()  # somebody else's: running
    monkeypatch.setattr(sys, "argv", sys.argv)
    flags = [*WORKER, "--study-name", "s", "--max-total-trials", "1", "--no-optim-plots", "--storage", "late.log"]
    assert cli.run(flags) == 2
    assert NO_FINISHED_TRIAL in capsys.readouterr().err
