"""Where a run's folder is, and what is in it while a run goes on, is killed and is resumed."""

import csv
import functools
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger, configure
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor, VecNormalize

from sb3_trpo_ext import TRPO, UpdateReport
from sb3_trpo_ext.records.run_folder import RunFolder
from sb3_trpo_ext.sb3.update import run_log
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, RandomEnv, make_env, make_model


def check_run_folder(folder: Path, n_updates: int, csv_name: str = "progress.csv") -> list[UpdateReport]:
    """One row an update in every file, and all of them say the same."""
    reports = [UpdateReport.from_json(line) for line in (folder / "updates.jsonl").read_text().splitlines()]
    assert [report.n_updates for report in reports] == list(range(1, n_updates + 1))
    with (folder / csv_name).open() as file:
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
    batch = model.session.update_inputs.batch
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
    model.learn(128, callback=EvalCallback(make_env(n_envs=1), eval_freq=32, n_eval_episodes=1, verbose=0))
    model.logger.close()
    check_run_folder(Path("same"), 2, "updates.csv")
    with Path("same/progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train/n_updates"] for row in rows if row["train/n_updates"]] == ["1", "2"]
    assert "rollout/ep_rew_mean" in rows[0]
    assert "train/status" not in rows[0]


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
    check_run_folder(Path("same"), 3, "updates.csv")


def test_another_csv_logger_elsewhere_does_not_take_ours_away() -> None:
    model = make_model(log_folder="ours")
    model.set_logger(configure("theirs", ["csv"]))
    model.learn(64)
    check_run_folder(Path("ours"), 1)


def monitored(vec_env_cls: Any = None, monitor_dir: str | None = "monitors") -> Any:
    spaces_of = {"observation_space": OBSERVATIONS["vector"][0], "action_space": ACTIONS["box"][0]}
    return make_vec_env(RandomEnv, n_envs=2, seed=0, env_kwargs=spaces_of, monitor_dir=monitor_dir, vec_env_cls=vec_env_cls)


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_the_monitor_files_of_other_processes_are_found_too(start_method: str) -> None:
    other = monitored(monitor_dir="another_run")  # whose open files a forked worker inherits
    env = monitored(functools.partial(SubprocVecEnv, start_method=start_method))
    try:
        make_model(env=VecNormalize(env)).learn(128)
    finally:
        env.close()
        other.close()
    check_run_folder(Path("monitors"), 2)
    assert not Path("another_run/updates.jsonl").exists()


def test_the_monitor_file_of_all_environments_together_is_found() -> None:
    make_model(env=VecMonitor(monitored(monitor_dir=None), "together/all")).learn(64)
    check_run_folder(Path("together"), 1)


def test_the_folder_is_looked_for_once_a_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = run_log.find_run_folder
    monkeypatch.setattr(run_log, "find_run_folder", lambda *args: calls.append(args) or real(*args))
    model = make_model(verbose=1)
    model.learn(192)
    assert len(calls) == 1
    model.learn(64, reset_num_timesteps=False)
    assert len(calls) == 2
    check_run_folder(model.session.run_log.path, 4)


def test_a_run_that_logs_nothing_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = make_model()
    model.learn(128)
    assert model.last_update.n_updates == 2
    assert model.session.run_log.path is None
    assert Path(model.logger.dir).parent == tmp_path  # SB3 makes that folder for every run
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(64)
    assert not Path("trpo_runs").exists()


def test_a_run_that_only_prints_gets_a_folder_of_its_own_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    models = [make_model(verbose=1) for _ in range(2)]
    for model in models:
        model.learn(128)
    model.learn(64, reset_num_timesteps=False)
    folders = sorted(Path("trpo_runs").iterdir())
    assert [len(check_run_folder(folder, n)) for folder, n in zip(folders, (2, 3), strict=True)] == [2, 3]
    said = [line for line in capsys.readouterr().out.splitlines() if "run folder" in line]
    assert said == [f"TRPO: run folder {folder.absolute()}" for folder in folders]
    assert [file for file in (tmp_path / "temporary").rglob("*") if file.is_file()] == []


def test_a_run_whose_logger_has_no_folder_gets_one_of_its_own() -> None:
    model = make_model()
    model.set_logger(Logger(folder=None, output_formats=[HumanOutputFormat(sys.stdout)]))
    model.learn(128)
    (folder,) = Path("trpo_runs").iterdir()
    check_run_folder(folder, 2)


def test_a_temporary_folder_in_which_sb3_logs_is_the_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = make_model()
    model.set_logger(configure(None, ["json"]))
    model.learn(64)
    check_run_folder(Path(model.logger.dir), 1)


def test_a_tensorboard_run_has_its_folder_there_and_goes_on_there() -> None:
    model = make_model(tensorboard_log="boards")
    model.learn(128)
    model.learn(64, reset_num_timesteps=False)
    check_run_folder(Path("boards/TRPO_1"), 3)


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(log_folder="run")
    model.learn(64)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model.learn(64, reset_num_timesteps=False)
    check_run_folder(tmp_path / "run", 2)


def test_evaluations_between_updates_do_not_cost_a_row() -> None:
    # SB3's own row would lose its keys to the evaluation's dump.
    model = make_model(log_folder="run")
    model.learn(192, callback=EvalCallback(make_env(n_envs=1), eval_freq=8, n_eval_episodes=1, verbose=0))
    check_run_folder(Path("run"), 3)


def test_a_skipped_update_has_a_row_too() -> None:
    model = make_model(log_folder="run", min_explained_variance=0.999)
    model.learn(128)
    reports = check_run_folder(Path("run"), 2)
    assert {report.status for report in reports} == {"low_explained_variance"}
    assert reports[-1].updates_skipped == 2


def test_a_full_disk_is_said_once_and_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    model = make_model(log_folder="run")
    for _ in range(2):  # room in between: then it is news again
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(RunFolder, "write", full)
            model.learn(192)
        messages = [str(warning.message) for warning in caught if "run folder" in str(warning.message)]
        assert len(messages) == 1
        assert re.search("run can't be written .*No space left", messages[0])
        assert model.last_update.accepted
        model.learn(64)


class Full(KVWriter):
    """An output of SB3's logger on a disk that is full, now and then."""

    def __init__(self, error: type[OSError] = OSError) -> None:
        self.full, self.error, self.seen = True, error, 0

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        if self.full:
            raise self.error(28, "No space left on device")
        self.seen += 1

    def close(self) -> None:
        pass


def test_sb3s_log_on_a_full_disk_is_said_once_and_does_not_stop_a_run() -> None:
    model, output = make_model(), Full()
    model.set_logger(Logger("run", [output]))
    for _ in range(2):
        output.full = True
        with pytest.warns(UserWarning, match="SB3's log can't be written") as caught:
            model.learn(192, reset_num_timesteps=False)
        messages = [str(warning.message) for warning in caught if "SB3's log" in str(warning.message)]
        assert len(messages) == 1
        assert re.search("SB3's log can't be written .*No space left.*training goes on", messages[0])
        output.full = False
        model.learn(64, reset_num_timesteps=False)
    assert output.seen == 4
    assert model.last_update.n_updates == 8


class Unread(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_run_whose_table_nobody_reads_goes_on_without_it() -> None:
    model, first, last = make_model(), Full(), Full()
    first.full = last.full = False
    model.set_logger(Logger("run", [first, HumanOutputFormat(Unread()), last]))
    with pytest.warns(UserWarning, match="nobody reads what this run prints any more") as caught:
        model.learn(192)
    assert len([warning for warning in caught if "nobody reads" in str(warning.message)]) == 1
    assert model.logger.output_formats == [first, last]
    # Three updates, and the last one's own row at the end.
    assert (first.seen, last.seen) == (4, 4)


def test_an_output_of_somebody_elses_whose_reader_is_gone_is_said_once() -> None:
    model = make_model()
    model.set_logger(Logger("run", [Full(BrokenPipeError)]))
    with pytest.warns(UserWarning, match="SB3's log can't be written"):
        model.learn(128)
    assert model.last_update.n_updates == 2


@pytest.mark.parametrize("obstacle", ["a file", "read-only"])
def test_a_folder_that_can_not_be_made(obstacle: str) -> None:
    if obstacle == "a file":
        Path("run").write_text("")
    else:
        Path("run").mkdir(mode=0o500)
        if os.access("run", os.W_OK):
            pytest.skip("root may write anywhere")
    with pytest.warns(UserWarning, match="can't be written"):
        model = make_model(log_folder="run").learn(128)
    assert model.last_update.n_updates == 2


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


# ---------------------------------------------------------------- killed and resumed

TRAINING = """
import sys
from pathlib import Path
from stable_baselines3.common.callbacks import BaseCallback
from sb3_trpo_ext import TRPO
from tests.sb3.spaces import make_env, make_model

class Checkpoint(BaseCallback):
    def _on_step(self):
        return True
    def _on_rollout_start(self):
        if self.model._n_updates % 3 == 2:
            self.model.save("new.zip")
            Path("new.zip").replace("model.zip")
        print(self.model._n_updates, flush=True)

if Path("model.zip").exists():
    model = TRPO.load("model.zip", env=make_env(), device="cpu")
else:
    model = make_model(log_folder="run")
model.learn(int(sys.argv[1]) - model.num_timesteps, callback=Checkpoint(), reset_num_timesteps=not model.num_timesteps)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_and_resumed_has_every_update_once(repo: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    rng, n_updates = np.random.default_rng(0), 0
    for _ in range(6):
        command = [sys.executable, "-c", TRAINING, "1000000"]
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # By updates, not by seconds alone: a busy machine needs many of them for one.
            begun = int(process.stdout.readline())
            goal = n_updates + rng.integers(3, 10)
            while int(process.stdout.readline()) < goal:
                pass
            time.sleep(rng.uniform(0.0, 0.1))
            process.send_signal(signal.SIGKILL)
        # What a reader finds in the middle of everything.
        lengths = [len(np.load(f"run/{name}.npy")) for name in ("advantages", "vf_loss", "kl", "entropy")]
        lengths += [len(Path("run", name).read_text().splitlines()) for name in ("updates.jsonl", "progress.csv")]
        assert max(lengths) - min(lengths[:-1]) <= 1
        assert begun <= n_updates
        assert begun > 0 or n_updates == 0  # it went on, and did not begin anew
        n_updates = max(lengths)
    zip_of = TRPO.load("model.zip", device="cpu")
    steps = zip_of.num_timesteps + 3 * 64
    subprocess.run([sys.executable, "-c", TRAINING, str(steps)], env=environ, check=True, stdout=subprocess.DEVNULL)
    reports = check_run_folder(Path("run"), zip_of._n_updates + 3)
    assert [report.num_timesteps for report in reports] == [64 * (n + 1) for n in range(len(reports))]
