"""A training that goes on from a checkpoint goes on with its W&B run, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.monitoring import WandbMonitor
from tests.monitoring.wandb_runs import read_run
from tests.sb3.checkpoints.restorable import BATCH, trpo, walks

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def no_service_is_left() -> Iterator[None]:
    """Processes that later tests start would take this one's W&B service over, and look for their files in its folder."""
    yield
    wandb.teardown()


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # The last checkpoint is written when the run is already finished.
    trpo(walks(None), folder).learn(2 * BATCH, [WandbMonitor(artifacts=False), Checkpoints()])
    [first] = Path("wandb").glob("offline-run-*")
    time.sleep(1.1)  # W&B names folders by the second
    TRPO.resume(folder, walks(None)).learn(4 * BATCH, [WandbMonitor(artifacts=False), Checkpoints()])
    # W&B joins them when they are sent: `wandb sync` of a run whose id it knows.
    ids = {path.name.rpartition("-")[2] for path in Path("wandb").glob("offline-run-*")}
    assert ids == {first.name.rpartition("-")[2]}
    steps = [
        [step for step, _ in read_run(next(path.glob("*.wandb"))).column("train/kl_joint")]
        for path in sorted(Path("wandb").glob("offline-run-*"))
    ]
    assert sorted(step for each in steps for step in each) == [BATCH, 2 * BATCH, 3 * BATCH, 4 * BATCH]
