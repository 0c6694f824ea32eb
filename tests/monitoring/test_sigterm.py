"""Who acts on a signal, in what order, and what is left when training is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sb3_trpo_ext.monitoring.sigterm import BeforeSigterm, GracefulStop

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
