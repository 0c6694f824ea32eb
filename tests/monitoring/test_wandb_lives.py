"""Which run is told of which training: models, runs and deaths that follow each other. W&B is one that only listens."""

import sys
import tempfile
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import writer as torch_writer

from sb3_trpo_ext import TRPO, UpdateReport
from sb3_trpo_ext.monitoring import FlightRecorder, Monitor, WandbMonitor, wandb_files, wandb_monitor
from sb3_trpo_ext.monitoring.alarm import Evidence
from sb3_trpo_ext.monitoring.wandb_rows import binned
from sb3_trpo_ext.records.trials import TRIAL_CALLBACK
from tests.monitoring.wandb_runs import FAKE_KEY

STEPS = 64


class Listens(types.SimpleNamespace):
    """A run."""

    def __init__(self, module: Any) -> None:
        super().__init__(
            id="x", module=module, told=[], rows=[], alerts=[], artifacts=[], exit_codes=[], summaries=[], dead=False
        )
        self.settings = types.SimpleNamespace(sync_tensorboard=False)
        self.config = types.SimpleNamespace(update=lambda *_, **__: self.told.append("config"))
        self.summary = types.SimpleNamespace(update=self.summaries.append)

    def define_metric(self, *_: Any, **__: Any) -> None:
        self.told.append("metric")

    def log(self, row: dict[str, Any]) -> None:
        if self.dead:
            raise RuntimeError("the run is finished")
        self.rows.append(row)

    def alert(self, **alert: Any) -> None:
        self.alerts.append(alert)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int | None = None) -> None:
        self.dead, self.module.run = True, None
        self.exit_codes.append(exit_code)

    def steps(self) -> list[int]:
        return [row["global_step"] for row in self.rows if "train/kl_joint" in row]


class Artifact(types.SimpleNamespace):
    def __init__(self, name: str, **_: Any) -> None:
        super().__init__(name=name, files=[])

    def add_file(self, file: str, name: str) -> None:
        self.files.append(name)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("wandb")
    module.run, module.runs, module.patched = None, [], {"tensorboard": []}

    class Settings(types.SimpleNamespace):
        model_fields: dict[str, Any] = {}

    def init(**_: Any) -> Listens:
        module.run = Listens(module)
        module.runs.append(module.run)
        return module.run

    module.init, module.Settings, module.Artifact = init, Settings, Artifact
    module.Histogram = lambda np_histogram: np_histogram
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return module


def model() -> TRPO:
    return TRPO("MlpPolicy", "CartPole-v1", n_steps=STEPS, batch_size=STEPS, seed=0, device="cpu", log_folder="run")


class At(BaseCallback):
    """Does something in the middle."""

    def __init__(self, step: int, act: Any):
        super().__init__()
        self.step, self.act = step, act

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.act()
        return True


class TrialEvalCallback(BaseCallback):
    """As the Zoo's is named."""

    def _on_step(self) -> bool:
        return True


class Told(Monitor):
    """In trouble from the second update on."""

    def judge(self, report: UpdateReport) -> Iterator[tuple[str, Evidence]]:
        if report.n_updates >= 2:
            yield "TR101", {"kl_max": report.kl_max}


def fails(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError(f"ours {FAKE_KEY}")


# ---------------------------------------------------------------- one after another


def test_a_second_model_is_followed_from_its_first_update(wandb: Any) -> None:
    monitor = WandbMonitor(histogram_every=0)
    for _ in range(2):
        model().learn(STEPS, callback=monitor)
    assert [run.steps() for run in wandb.runs] == [[STEPS], [STEPS]]
    assert [[artifact.name for artifact in run.artifacts] for run in wandb.runs] == [["model-x"], ["model-x"]]
    assert [run.exit_codes for run in wandb.runs] == [[None], [None]]


def test_a_second_models_alarms_and_summaries_are_its_own(wandb: Any) -> None:
    monitor = WandbMonitor(histogram_every=0, artifacts=False)
    model().learn(3 * STEPS, callback=[monitor, Told()])
    monitor.summaries.best_return = 1e9
    model().learn(3 * STEPS, callback=[monitor, Told()])
    assert [len(run.alerts) for run in wandb.runs] == [1, 1]
    assert wandb.runs[1].summaries[-1]["trpo/best_return"] < 1e9


def test_the_same_model_goes_on_in_its_run_and_says_nothing_again(wandb: Any) -> None:
    monitor, told = WandbMonitor(histogram_every=0, artifacts=False, finish=False), Told()
    trained = model().learn(2 * STEPS, callback=[monitor, told])
    monitor.summaries.best_return = 1e9
    trained.learn(2 * STEPS, callback=[monitor, told], reset_num_timesteps=False)
    [run] = wandb.runs
    assert run.steps() == [STEPS * update for update in range(1, 5)]
    assert len(run.alerts) == 1
    assert run.summaries[-1]["trpo/best_return"] == 1e9


@pytest.mark.filterwarnings("ignore:W&B.*the run is finished")
def test_a_run_that_the_user_has_finished_is_not_told_for_ever(wandb: Any) -> None:
    monitor = WandbMonitor(histogram_every=0, artifacts=False)
    first = wandb.init()
    model().learn(6 * STEPS, callback=[monitor, At(STEPS + 1, first.finish)])
    second = wandb.init()
    model().learn(2 * STEPS, callback=monitor)
    assert first.steps() == [STEPS]
    assert second.steps() == [STEPS, 2 * STEPS]
    assert second.exit_codes == []
    own = WandbMonitor(histogram_every=0, artifacts=False, finish=False)
    second.finish()
    trained = model().learn(STEPS, callback=own)
    wandb.run.finish()
    trained.learn(STEPS, callback=own, reset_num_timesteps=False)
    assert [run.steps() for run in wandb.runs[2:]] == [[STEPS], [2 * STEPS]]


def test_a_training_that_died_finishes_its_own_run_with_its_dumps(wandb: Any) -> None:
    # The recorder comes after it, and dumps first.
    with pytest.raises(ZeroDivisionError):
        model().learn(4 * STEPS, callback=[WandbMonitor(), FlightRecorder(), At(3 * STEPS - 1, fails)])
    [run] = wandb.runs
    assert run.exit_codes == [1]
    assert run.steps() == [STEPS, 2 * STEPS]
    assert [artifact.name for artifact in run.artifacts] == ["dumps-x"]
    assert any("died" in name for name in run.artifacts[0].files)
    model().learn(STEPS, callback=WandbMonitor(artifacts=False))
    assert len(wandb.runs) == 2


def test_a_run_of_the_users_outlives_a_training_that_died(wandb: Any) -> None:
    run = wandb.init()
    with pytest.raises(ZeroDivisionError):
        model().learn(4 * STEPS, callback=[WandbMonitor(), At(3 * STEPS - 1, fails)])
    assert run.exit_codes == []


def test_trials_of_a_search_are_not_followed(wandb: Any) -> None:
    model().learn(2 * STEPS, callback=[WandbMonitor(), TrialEvalCallback()])
    assert wandb.runs == []
    run = wandb.init()
    model().learn(2 * STEPS, callback=[WandbMonitor(), TrialEvalCallback()])
    assert (run.told, run.rows, run.artifacts) == ([], [], [])
    assert TRIAL_CALLBACK == TrialEvalCallback.__name__


# ---------------------------------------------------------------- TensorBoard


class Reads(event_file_writer.EventFileWriter):
    """In the place where W&B puts its own."""


@pytest.mark.parametrize("by", ["settings", "patch", "neither"])
def test_a_writer_that_wandb_reads_is_told_everything_once(by: str, wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = wandb.init()
    run.settings.sync_tensorboard = by == "settings"
    wandb.patched["tensorboard"] = [["module", "name"]] if by == "patch" else []
    monkeypatch.setattr(torch_writer, "EventFileWriter", Reads)
    trained = model()
    trained.set_logger(configure("tb", ["tensorboard"]))
    trained.learn(2 * STEPS, callback=WandbMonitor(artifacts=False))
    assert run.steps() == ([] if by != "neither" else [STEPS, 2 * STEPS])


@pytest.mark.parametrize("how", ["before the class was replaced", "before the run"])
def test_a_writer_that_is_older_than_the_run_is_said(how: str, wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model()
    if how == "before the run":
        monkeypatch.setattr(torch_writer, "EventFileWriter", Reads)
    trained.set_logger(configure("tb", ["tensorboard"]))
    monkeypatch.setattr(torch_writer, "EventFileWriter", Reads)
    run = wandb.init()
    run.start_time = time.time() + (10 if how == "before the run" else 0)
    run.settings.sync_tensorboard = True
    with pytest.warns(UserWarning, match="TensorBoard writer is older than the run"):
        trained.learn(2 * STEPS, callback=WandbMonitor(artifacts=False, histogram_every=0))
    assert run.steps() == [STEPS, 2 * STEPS]


# ---------------------------------------------------------------- what goes wrong in ourselves


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((wandb_monitor, name) for name in ("run_config", "update_row", "histograms")),
        *((wandb_files, name) for name in ("dump_files", "save_model")),
        (tempfile, "TemporaryDirectory"),
    ],
)
def test_a_fault_of_the_monitor_ends_no_training(module: Any, name: str, wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setattr(module, name, fails)
    with pytest.warns(UserWarning, match="W&B: .*can't be followed .*ours.*training goes on") as said:
        trained = model().learn(3 * STEPS, callback=WandbMonitor(histogram_every=1))
    assert trained.num_timesteps == 3 * STEPS
    [warning] = [str(warning.message) for warning in said if str(warning.message).startswith("W&B")]
    assert FAKE_KEY not in warning
    [run] = wandb.runs
    assert (run.exit_codes, run.told[:2]) == ([None], ["metric", "metric"])


@pytest.mark.parametrize("values", [[0.1 + 0.2, 0.3], [0.3, 0.3], [0.0, 5e-324], [1e300, -1e300], [-2.0, 3.0]])
def test_any_values_are_counted(values: list[float]) -> None:
    counts, edges = binned(np.array(values), 64)
    assert counts.sum() == len(values)
    assert np.all(np.diff(edges) > 0)
