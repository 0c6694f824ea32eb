"""Start a training in a checkout, in a process of its own, and read what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1]


class TrainingFailed(Exception):
    """A training ended with an error; the text is the end of what it printed."""


def environment(tree: Path) -> dict[str, str]:
    """
    Make the environment of a process that imports the package of one tree.

    :param tree: root of a checkout
    :return: variables
    """
    # This tree's scripts run in both.
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(SCRIPTS)]), "OMP_NUM_THREADS": "1"}


def train(name: str, ranks: int, tree: Path) -> list[dict[str, Any]]:
    """
    Train a case in a folder of its own.

    :param name: a key of ``CASES``
    :param ranks: its processes
    :param tree: root of a checkout
    :return: what each rank found: "reports" and "values"
    :raises TrainingFailed: if it fails
    """
    alone = [sys.executable, "-m", "trees.train"]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "trees.train"]
    with tempfile.TemporaryDirectory() as folder:
        result = str(Path(folder) / "result")
        command = [*(alone if ranks == 1 else several), name, str(tree), result]
        # An empty working directory, from which Python imports first.
        (work := Path(folder) / "work").mkdir()
        done = subprocess.run(command, cwd=work, env=environment(tree), capture_output=True, text=True)
        if done.returncode != 0:
            raise TrainingFailed(f"{name} in {tree}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return [json.loads(Path(f"{result}.{rank}").read_text()) for rank in range(ranks)]
