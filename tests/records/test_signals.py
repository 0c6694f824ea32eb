"""Who acts on a signal, in what order, and what is left when training is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sb3_trpo_ext.records import signals
from sb3_trpo_ext.records.signals import BeforeSigterm, GracefulStop

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def called() -> Iterator[list[str]]:
    said: list[str] = []
    before = {number: signal.getsignal(number) for number in BOTH}
    for number in BOTH:
        signal.signal(number, lambda number, frame: said.append("earlier"))
    yield said
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_is_a_request_and_the_second_is_not(called: list[str], number: int) -> None:
    stop = GracefulStop(lambda which: called.append(f"asked {which:d}"))
    stop.install()
    send(number)
    assert called == [f"asked {number:d}"]
    send(number)
    assert called == [f"asked {number:d}", "earlier"]
    stop.remove()
    send(number)
    assert called[2:] == ["earlier"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_a_request_comes_before_those_who_act_at_the_end_of_the_process(called: list[str], order: tuple[int, ...]) -> None:
    stop = GracefulStop(lambda _: called.append("asked"))
    handlers = [BeforeSigterm(lambda: called.append("recorder")), stop, BeforeSigterm(lambda: called.append("W&B"))]
    for index in order:
        handlers[index].install()
    send()
    assert called == ["asked"]
    send()
    assert called[-1] == "earlier"
    assert sorted(called[1:-1]) == ["W&B", "recorder"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_nothing_is_left_whatever_the_order(called: list[str], order: tuple[int, ...]) -> None:
    before = [signal.getsignal(number) for number in BOTH]
    handlers = [BeforeSigterm(lambda: None), GracefulStop(lambda _: None), BeforeSigterm(lambda: None)]
    for _ in range(2):  # a second training of the same process
        for handler in handlers:
            handler.install()
        for index in order:
            handlers[index].remove()
        assert [signal.getsignal(number) for number in BOTH] == before


def test_one_training_after_the_other(called: list[str]) -> None:
    stop = GracefulStop(lambda _: called.append("asked"))
    for _ in range(2):
        stop.install()
        send()
        stop.remove()
    assert called == ["asked", "asked"]


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = GracefulStop(lambda _: None)
    stop.install()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    stop.remove()


def test_a_process_that_is_forked_off_only_ends(called: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop = GracefulStop(lambda _: Path("asked").touch())
    stop.install()
    child = os.fork()
    if child == 0:
        send()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert not Path("asked").exists()
    stop.remove()


PATIENCE = 0.3


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", PATIENCE)
    monkeypatch.setattr(signals, "LOOKS_EVERY", 0.02)


def asked(number: int, progress: Callable[[], Any], seconds: float, over: BeforeSigterm | None = None) -> float:
    """Be asked to stop, and run on for some seconds; for how long it did."""
    stop, begun = GracefulStop(lambda _: None, "it will stop", progress), time.monotonic()
    stop.install()
    if over is not None:
        over.install()
    try:
        send(number)
        while time.monotonic() - begun < seconds:
            time.sleep(0.01)
    except (KeyboardInterrupt, SystemExit) as error:
        if (128 + number) != (130 if isinstance(error, KeyboardInterrupt) else error.code):
            raise
    finally:
        for each in (stop, over):
            if each is not None:
                each.remove()
    return time.monotonic() - begun


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", BOTH)
def test_a_stop_without_progress_is_forced(number: int, called: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert PATIENCE <= asked(number, lambda: 7, 10.0) < 5.0
    assert called == []
    first, second = capfd.readouterr().err.split("\n\n")
    assert first.strip() == (f"TRPO: {signal.Signals(number).name} received: it will stop; a second one stops immediately")
    assert second.strip() == "TRPO: no training step was made for 0.3 s: the training is stopped where it is"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("progress", [time.monotonic, lambda: None], ids=["steps are made", "an update runs"])
def test_what_makes_progress_is_finished(progress: Callable[[], Any], called: list[str]) -> None:
    assert asked(signal.SIGTERM, progress, 3 * PATIENCE) >= 3 * PATIENCE
    assert called == []


@pytest.mark.usefixtures("impatient")
def test_an_update_is_finished_and_what_hangs_after_it_is_not_waited_for() -> None:
    until = time.monotonic() + 2 * PATIENCE
    took = asked(signal.SIGTERM, lambda: None if time.monotonic() < until else 1, 10.0)
    assert 2 * PATIENCE + PATIENCE <= took + 0.1 < 5.0


@pytest.mark.usefixtures("impatient")
def test_forced_below_another_handler(called: list[str]) -> None:
    """Who acts at the end of the process is told by the training that dies."""
    over = BeforeSigterm(lambda: called.append("W&B"))
    assert asked(signal.SIGTERM, lambda: 7, 10.0, over) < 5.0
    assert called == []


@pytest.mark.usefixtures("impatient")
def test_a_force_that_is_swallowed_comes_again() -> None:
    stop, n_forced = GracefulStop(lambda _: None, progress=lambda: 7), 0
    stop.install()
    send()
    while n_forced < 2:
        try:
            time.sleep(10)
        except SystemExit:
            n_forced += 1
    assert stop.active
    stop.remove()
    assert not stop.active


@pytest.mark.usefixtures("impatient")
def test_nothing_is_forced_once_it_is_over(called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", 3.0)
    assert asked(signal.SIGTERM, lambda: 7, 0.0) < 3.0
    monkeypatch.setattr(signals, "PATIENCE", 0.0)  # whoever still waited would act at once
    time.sleep(0.3)
    assert called == []
