"""``kill -9`` at any moment: always resumable, at most one interval lost, and in the end the numbers of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def kill(n_kills: int, n_updates: int, seed: int, repo: Path) -> str:
    environ = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sb3.checkpoints.killed_training", *map(str, (n_kills, n_updates, seed))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ten_kills(repo: Path) -> None:
    assert " kills (" in kill(10, 16, 1, repo)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills(repo: Path) -> None:
    assert int(kill(200, 60, 7, repo).split()[0]) >= 200
