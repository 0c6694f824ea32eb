"""Which alarms and updates of a long run observers keep."""

from typing import Any

import pytest

from sb3_trpo_ext.monitoring import monitor as monitor_module
from sb3_trpo_ext.monitoring import wandb_monitor
from sb3_trpo_ext.monitoring.monitor import CALM_UPDATES
from sb3_trpo_ext.records import thinning
from sb3_trpo_ext.records.thinning import is_recorded
from tests.monitoring.reports import make_report
from tests.monitoring.test_monitor import Told, play


def test_alarms_that_come_and_go_for_ever_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "EVERY_ALARM_UNTIL", 8)
    apart, troubles = CALM_UPDATES + 1, 40
    monitor = Told(*range(1, apart * troubles, apart))
    raised = play(monitor, apart * troubles)
    numbers = [1 + (update - 1) // apart for update in raised]
    assert numbers == [number for number in range(1, troubles + 1) if is_recorded(number, 8)]
    assert len(monitor.alarms) == 8 + 4 + 4 + 1
    again = Told()
    again.load_state_dict(monitor.state_dict())
    assert again.state_dict() == monitor.state_dict()
    assert again.state_dict()["raised"] == {"TR102": troubles}


class Run:
    """As much of a run of W&B's as updates are told."""

    def __init__(self) -> None:
        self.is_open = True
        self.steps: list[int] = []
        self.summaries = 0

    def log(self, row: dict[str, float], drawn: Any) -> None:
        self.steps.append(int(row["train/n_updates"]))

    def summarise(self, values: dict[str, float]) -> None:
        self.summaries += 1


class Model:
    """As much of a model as ``WandbMonitor`` reads."""

    ep_info_buffer = ep_success_buffer = ()
    last_update: Any = None


def test_wandb_has_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "EVERY_UPDATE_UNTIL", 4)
    monitor, run = wandb_monitor.WandbMonitor(histogram_every=0), Run()
    monitor.model, monitor._run = Model(), run  # type: ignore[assignment]
    for number in range(1, 21):
        monitor.model.last_update = make_report(number)
        monitor._look()
    assert run.steps == [1, 2, 3, 4, 6, 8, 12, 16]
    assert run.summaries == 20
