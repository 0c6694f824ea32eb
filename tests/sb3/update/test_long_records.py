"""A run that is so long that not every update is recorded: all of its files say the same, also when it was resumed."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.records import thinning
from tests.sb3.checkpoints import test_checkpoint as checkpoints
from tests.sb3.checkpoints.restorable import BATCH, numbers, trpo, walks
from tests.sb3.update.test_logging import logged

N_UPDATES = 22
RECORDED = [1, 2, 3, 4, 6, 8, 12, 16]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four updates are long here."""
    monkeypatch.setattr(thinning, "EVERY_UPDATE_UNTIL", 4)


def train(model: TRPO) -> TRPO:
    return model.learn(N_UPDATES * BATCH, [TrustRegionMonitor(recorder=False), checkpoints.every_update()])


def in_our_csv(path: Path) -> list[int]:
    with (path / "progress.csv").open(newline="") as file:
        found = [int(row["train/n_updates"]) for row in csv.DictReader(file)]
    assert (path / "updates.jsonl").read_text().count("\n") == len(np.load(path / "kl.npy")) == len(found)
    return found


def in_sb3s_csv(path: Path) -> list[int]:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/n_updates"]]
    return [int(row["train/n_updates"]) for row in rows]


def in_tensorboard(folder: Path) -> list[int]:
    """By the step: SB3 writes an update's figures with the next rollout."""
    return [step // BATCH - 1 for step, _ in checkpoints.scalars(folder)["train/kl_divergence_loss"]]


def test_all_files_have_the_same_updates(tmp_path: Path) -> None:
    model = trpo(walks(tmp_path), tmp_path)
    model.set_logger(configure(str(tmp_path / "sb3"), ["csv", "tensorboard"]))
    train(model)
    assert model.last_update.n_updates == N_UPDATES
    assert in_our_csv(tmp_path) == in_sb3s_csv(tmp_path / "sb3/progress.csv") == RECORDED
    assert in_tensorboard(tmp_path / "sb3") == RECORDED
    run = read_run(tmp_path)
    assert (run.judged, run.n_updates) == (len(RECORDED), 16)
    assert not [finding for finding in run.findings if finding.code.startswith("DR00")]


# 4 and 8 are the last updates before a stride doubles, 9 is the first behind, 16 the last that is recorded at all.
@pytest.mark.parametrize("at", [3, 4, 8, 9, 13, 16])
def test_a_resumed_run_has_the_same_rows(tmp_path: Path, at: int) -> None:
    folder = tmp_path / "run"
    whole = trpo(walks(folder), folder)
    whole.set_logger(configure(str(folder / "sb3"), ["csv", "tensorboard"]))
    train(whole)
    copy = checkpoints.broken_off(folder, at)
    resumed = train(TRPO.resume(copy, walks(copy, append=True), log_folder=str(copy)))
    assert torch.equal(numbers(whole), numbers(resumed))
    for name in checkpoints.SAME_FILES:
        assert (folder / name).read_bytes() == (copy / name).read_bytes(), name
    assert in_sb3s_csv(copy / "sb3/progress.csv") == RECORDED
    assert checkpoints.scalars(folder / "sb3") == checkpoints.scalars(copy / "sb3")
    assert not list(copy.glob("previous_*"))


def written(rows: list[tuple[int, dict[str, Any], Any]]) -> list[int]:
    return [values["train/n_updates"] for _, values, _ in rows if "train/n_updates" in values]


def test_a_longer_log_interval_is_long_later() -> None:
    rows = written(logged(trpo(walks(None), None), 40 * BATCH, log_interval=3))
    # One update behind what was logged: SB3 writes before it trains.
    assert rows == [2, 5, 8, 11, 14, 20, 26, 38]


@pytest.mark.parametrize("at", [14, 20])
def test_a_longer_log_interval_goes_on_where_it_was(tmp_path: Path, at: int) -> None:
    folder = tmp_path / "run"
    whole = trpo(walks(folder), folder)
    whole.set_logger(configure(str(folder / "sb3"), ["csv"]))
    whole.learn(40 * BATCH, [checkpoints.every_update()], log_interval=3)
    copy = checkpoints.broken_off(folder, at)
    resumed = TRPO.resume(copy, walks(copy, append=True), log_folder=str(copy))
    resumed.learn(40 * BATCH, [checkpoints.every_update()], log_interval=3)
    assert in_sb3s_csv(folder / "sb3/progress.csv") == in_sb3s_csv(copy / "sb3/progress.csv") == [2, 5, 8, 11, 14, 20, 26, 38]
    assert in_our_csv(folder) == in_our_csv(copy) == [*RECORDED, 24, 32]


def test_many_calls_of_learn_are_one_run() -> None:
    model = trpo(walks(None), None)
    rows = written([row for _ in range(N_UPDATES) for row in logged(model, BATCH, reset_num_timesteps=False)])
    assert rows == RECORDED
