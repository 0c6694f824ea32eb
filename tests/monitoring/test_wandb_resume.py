"""A training that goes on from a checkpoint goes on with its W&B run, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.monitoring import WandbMonitor
from sb3_trpo_ext.sb3.checkpoint_files import newest_whole
from tests.monitoring.wandb_runs import read_run
from tests.sb3.restorable import BATCH, trpo, walks

pytest.importorskip("wandb")


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    checkpoints = Checkpoints(every_updates=1, every_seconds=None)
    trpo(walks(None), folder).learn(2 * BATCH, [checkpoints, WandbMonitor(artifacts=False)])
    first = next(path for path in Path("wandb").glob("offline-run-*"))
    found, _ = newest_whole(folder)
    assert found is not None
    assert first.name.endswith(str(found.about["wandb_run"]))
    monitor = WandbMonitor(artifacts=False)
    TRPO.resume(folder, walks(None)).learn(4 * BATCH, [Checkpoints(), monitor])
    # W&B joins them when they are sent: `wandb sync` of a run whose id it knows.
    ids = {path.name.rpartition("-")[2] for path in Path("wandb").glob("offline-run-*")}
    assert ids == {found.about["wandb_run"]}
    steps = [
        [step for step, _ in read_run(next(path.glob("*.wandb"))).column("train/kl_joint")]
        for path in sorted(Path("wandb").glob("offline-run-*"))
    ]
    assert sorted(step for each in steps for step in each) == [BATCH, 2 * BATCH, 3 * BATCH, 4 * BATCH]
