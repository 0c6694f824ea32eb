"""Two processes never train in one run's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import ConvertCallback

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.sb3.checkpoints import lock as checkpoint_lock
from sb3_trpo_ext.sb3.checkpoints.lock import claim, release
from tests.sb3.checkpoints.restorable import BATCH, trpo, walks

HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(flush=True); input()"


def holder(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def free(folder: Path) -> bool:
    """Seen from another process, which a fork is."""
    child = os.fork()
    if child == 0:
        try:
            claim(folder)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_run_that_another_process_trains_is_not_touched(tmp_path: Path) -> None:
    trpo(walks(tmp_path), tmp_path).learn(BATCH, [Checkpoints()])
    with holder(tmp_path / "checkpoints") as other:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        model = TRPO.resume(tmp_path, walks(None))
        with pytest.raises(ValueError, match="another process trains in this run's folder"):
            model.learn(2 * BATCH, [Checkpoints()])
        with pytest.raises(ValueError, match="another process trains in this run's folder"):
            trpo(walks(None), tmp_path).learn(BATCH, [Checkpoints()])
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        other.kill()
    assert TRPO.resume(tmp_path, walks(None)).learn(2 * BATCH, [Checkpoints()]).num_timesteps == 2 * BATCH
    assert free(tmp_path / "checkpoints")


def test_given_back_also_where_training_dies(tmp_path: Path) -> None:
    def fail(*_: object) -> bool:
        assert not free(tmp_path / "checkpoints")
        raise RuntimeError("as planned")

    with pytest.raises(RuntimeError, match="as planned"):
        trpo(walks(None), tmp_path).learn(2 * BATCH, [Checkpoints(), ConvertCallback(fail)])
    assert free(tmp_path / "checkpoints")


def test_twice_is_once(tmp_path: Path) -> None:
    claim(tmp_path)
    claim(tmp_path)
    assert not free(tmp_path)
    release(tmp_path)
    assert free(tmp_path)
    release(tmp_path)


@pytest.mark.parametrize("why", ["no locks", "a file", "not supported"])
def test_nothing_is_locked_where_nothing_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no locks":
        monkeypatch.setattr(checkpoint_lock, "fcntl", None)
    elif why == "a file":
        (tmp_path / "checkpoints").touch()
    else:
        monkeypatch.setattr(checkpoint_lock.fcntl, "flock", lambda *_: os.open("/proc/nothing", os.O_RDONLY))
    folder = (tmp_path / "checkpoints").absolute()
    claim(folder)
    assert folder not in checkpoint_lock._held, "nobody is told that it is locked"
    release(folder)
    monkeypatch.undo()
    if why != "a file":
        assert free(folder)
