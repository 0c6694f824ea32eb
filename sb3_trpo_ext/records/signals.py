"""
Signals that end a process: something that is done first, or an end at a better moment.

Handlers of both kinds may lie over each other, in any order: whoever is asked to stop gracefully comes before those that act
because the process ends.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

PATIENCE = 30.0
"""Seconds without a training step after which a stop that was asked for is forced: most evaluations take less."""

LOOKS_EVERY = 0.25
"""Seconds between two looks at the progress of a training that was asked to stop."""


def say(text: str) -> None:
    """
    Write a line to stderr at once, from a signal handler too: no buffer may be in the middle of being written.

    :param text: the line, in ASCII
    """
    with contextlib.suppress(OSError):  # nobody may be reading
        os.write(2, f"\nTRPO: {text}\n".encode("ascii", "replace"))


class _Handlers:
    r"""
    Handlers over those that were there.

    Nothing is changed outside the main thread (Python allows handlers only there), and where a signal is ignored or handled by
    something that is not Python.

    :param \*numbers: of the signals
    """

    def __init__(self, *numbers: int):
        self._numbers = numbers
        self._previous: dict[int, Any] = {}
        self._process: int | None = None
        self.active = False

    def install(self) -> None:
        """Begin to act; done twice it is done once."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._numbers:
            previous = signal.getsignal(number)
            # Still in the row, under somebody else's: it acts again from where it is.
            if number in self._previous or previous in (None, signal.SIG_IGN):
                continue
            self._previous[number] = previous
            signal.signal(number, self._handle)
        self.active, self._process = True, os.getpid()

    def remove(self) -> None:
        """Act no more, and put the earlier handler back; while somebody else's lies over ours, ours only hands on."""
        self.active = False
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._numbers:
            owner = _owner(signal.getsignal(number))
            while owner is not None and not owner.active:
                signal.signal(number, owner._previous.pop(number))
                owner = _owner(signal.getsignal(number))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not (self.active and os.getpid() == self._process and self._act(number)):
            self._hand_on(number, frame)

    def _act(self, number: int) -> bool:
        """Whether that was all."""
        raise NotImplementedError

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
            return
        # The default: end by the signal itself, so that who waits for the process sees why it ended.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _owner(handler: Any) -> _Handlers | None:
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, _Handlers) else None


class BeforeSigterm(_Handlers):
    """
    Does something at SIGTERM, then what would have been done without us.

    Nothing is done in processes that are forked off later.

    :param action: what is done first, in a bounded time: SIGTERM is ignored meanwhile; it may not raise
    """

    def __init__(self, action: Callable[[], None]):
        super().__init__(signal.SIGTERM)
        self._action = action

    def _act(self, number: int) -> bool:
        if self._stops_gracefully(number):
            return True
        # A second SIGTERM would end the process in the middle of the action.
        installed = signal.signal(number, signal.SIG_IGN)
        try:
            self._action()
        finally:
            signal.signal(number, installed)
        return False

    def _stops_gracefully(self, number: int) -> bool:
        below = _owner(self._previous[number])
        while below is not None:
            if isinstance(below, GracefulStop):
                return below.take(number)
            below = _owner(below._previous[number])
        return False


class GracefulStop(_Handlers):
    """
    Takes the first SIGTERM or Ctrl-C as a request; the second does what it would have done without us.

    A training that makes no progress after the request can't come to the place where it would stop by itself. After
    ``PATIENCE`` the stop is forced: SystemExit(143) or KeyboardInterrupt is raised in the main thread, whatever runs there.

    :param ask: called with the number of the signal, from its handler
    :param promise: what happens after the request, for the person who made it
    :param progress: what changes as training makes progress; None: it is in something that must be finished. It is called in
        another thread, too. Without this function no stop is forced
    """

    # Held while the signal is sent again: it must not meet the handler that was there before ours.
    _sending: ClassVar[Any] = threading.Lock()

    def __init__(
        self, ask: Callable[[int], None], promise: str = "training stops soon", progress: Callable[[], Any] | None = None
    ):
        super().__init__(signal.SIGTERM, signal.SIGINT)
        self._ask, self._promise, self._progress = ask, promise, progress
        self._asked = self._resent = False
        self._seen: Any = None
        self._since = 0.0

    def install(self) -> None:
        """Begin to act; done twice it is done once."""
        self._asked = self._asked and self.active
        super().install()

    def remove(self) -> None:
        """Stop acting, and put the earlier handlers back."""
        with self._sending:
            super().remove()

    def take(self, number: int) -> bool:
        """
        Take a signal, if it is the first, or was sent again by ourselves.

        :param number: which
        :return: whether it was taken
        :raises SystemExit: 143, if a stop by SIGTERM is forced
        :raises KeyboardInterrupt: if a stop by Ctrl-C is
        """
        if not self.active or os.getpid() != self._process:
            return False
        if self._resent:
            self._resent = False
            if self._stalls():
                self._force(number)
            return True
        if self._asked:
            return False
        self._asked = True
        say(f"{signal.Signals(number).name} received: {self._promise}; a second one stops immediately")
        self._ask(number)
        if self._progress is not None:
            self._seen, self._since = None, time.monotonic()
            # Not by a Thread, whose locks the code that was interrupted may hold.
            _thread.start_new_thread(self._wait, (number,))
        return True

    def _stalls(self) -> bool:
        assert self._progress is not None
        seen, now = self._progress(), time.monotonic()
        if seen is None or seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= PATIENCE

    def _wait(self, number: int) -> None:
        while self.active and self._asked:
            time.sleep(LOOKS_EVERY)
            with self._sending:
                if self.active and self._stalls():
                    self._resent = True
                    _send_to_main_thread(number)

    def _force(self, number: int) -> None:
        # The clean-up that this sets off gets as much time again.
        self._since = time.monotonic()
        say(f"no training step was made for {PATIENCE:g} s: the training is stopped where it is")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)  # by this function: W&B listens to it

    def _act(self, number: int) -> bool:
        return self.take(number)


def _send_to_main_thread(number: int) -> None:
    """A real signal where the system has signals: it also ends a wait in the operating system."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        _thread.interrupt_main(signal.Signals(number))
