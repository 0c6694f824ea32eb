"""Which updates of a long run are recorded."""

import math
from typing import Any

import pytest

from sb3_trpo_ext.monitoring import monitor as monitor_module
from sb3_trpo_ext.monitoring import recorded, wandb_monitor
from sb3_trpo_ext.monitoring.monitor import CALM_UPDATES
from sb3_trpo_ext.monitoring.recorded import EVERY_UPDATE_UNTIL, is_recorded
from tests.monitoring.reports import make_report
from tests.monitoring.test_monitor import Told, play


def test_a_run_of_ordinary_length_has_every_update() -> None:
    assert all(map(is_recorded, range(EVERY_UPDATE_UNTIL + 1)))
    assert not is_recorded(EVERY_UPDATE_UNTIL + 1)


@pytest.mark.parametrize("first", [1, 2, 7, 10, 100, 1000])
def test_the_number_of_rows_is_bounded_by_the_logarithm_of_the_length(first: int) -> None:
    rows, last = 0, 0
    for number in range(1, 200 * first + 1):
        if is_recorded(number, first):
            # Never further apart than a small share of the run so far.
            assert number - last == 1 or (number - last) * first <= 2 * number + first
            rows, last = rows + 1, number
        assert rows <= first + (first + 1) / 2 * math.ceil(math.log2(max(1.0, number / first)))
    assert rows > 4 * first


@pytest.mark.parametrize("doublings", [0, 1, 2, 10])
def test_ten_million_updates(doublings: int) -> None:
    """Each doubling adds as many rows, at even distances; looked at in stretches."""
    until, stride = EVERY_UPDATE_UNTIL << doublings, 1 << doublings
    begins = until // 2 if doublings else 0
    for start in range(begins, until - 2 * stride, (until - begins) // 50):
        assert sum(map(is_recorded, range(start + 1, start + 2 * stride + 1))) == 2
    assert (until - begins) // stride == (EVERY_UPDATE_UNTIL // 2 if doublings else EVERY_UPDATE_UNTIL)


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
    monkeypatch.setattr(recorded, "EVERY_UPDATE_UNTIL", 4)
    monitor, run = wandb_monitor.WandbMonitor(histogram_every=0), Run()
    monitor.model, monitor._run = Model(), run  # type: ignore[assignment]
    for number in range(1, 21):
        monitor.model.last_update = make_report(number)
        monitor._look()
    assert run.steps == [1, 2, 3, 4, 6, 8, 12, 16]
    assert run.summaries == 20
