"""``python -m sb3_trpo_ext train`` on a disk that takes no more, and beside another run that has just begun."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_zoo3 import exp_manager

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.checkpoints.files import newest_whole
from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.endings import EndedError, told_in_one_line

TASK = "Pendulum-v1"
TRAIN = [
    *("train", "--env", TASK, "-n", "768", "--checkpoint-every", "1", "--verbose", "0", "--eval-episodes", "1"),
    *("-params", "n_steps:128", "n_envs:1", "normalize:True"),
]


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_ends_a_training_is_one_line_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)  # EvalCallback's, in the middle of a rollout
        assert run([*TRAIN, "--eval-freq", "300"]) == 1
    said = capsys.readouterr().err
    folder = Path("logs/trpo", f"{TASK}_1")
    line = "sb3_trpo_ext: training has ended: [Errno 28] No space left on device (in _on_step, callbacks.py line "
    assert line in said
    resume = f"`python -m sb3_trpo_ext train --env {TASK} --resume {folder}` resumes from it."
    assert f"Make room first. The newest checkpoint is of update 2 (256 steps): {resume}" in said
    assert "Traceback" not in said
    assert run([*TRAIN, "--resume", str(folder)]) == 0
    assert (folder / f"{TASK}.zip").exists()


def test_a_model_that_cannot_be_saved(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save = TRPO.save

    def named(self: TRPO, path: Any, *more: Any, **named: Any) -> None:
        full() if isinstance(path, str) else save(self, path, *more, **named)

    monkeypatch.setattr(TRPO, "save", named)
    assert run([*TRAIN, "--eval-freq", "-1"]) == 1
    assert "The newest checkpoint is of update 6 (768 steps): `python -m sb3_trpo_ext" in capsys.readouterr().err


def test_without_a_checkpoint_and_other_errors(tmp_path: Path) -> None:
    with pytest.raises(EndedError, match="has no checkpoint: begin a new run"), told_in_one_line(TASK, tmp_path):
        full()
    with pytest.raises(FileNotFoundError), told_in_one_line(TASK, tmp_path):
        Path(tmp_path, "nothing").read_text()


def test_two_runs_that_begin_together_have_a_folder_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exp_manager, "get_latest_run_id", lambda *_: 0)  # the Zoo's count, from before either has begun
    for _ in range(2):
        assert run([*TRAIN, "--eval-freq", "-1"]) == 0
    for number in (1, 2):
        folder = Path("logs/trpo", f"{TASK}_{number}")
        assert (folder / TASK / "config.yml").exists()
        assert (folder / "0.monitor.csv").exists()
        found = newest_whole(folder)[0]
        assert found is not None
        assert found.n_updates == 6
        assert len((folder / "updates.jsonl").read_text().splitlines()) == 6
