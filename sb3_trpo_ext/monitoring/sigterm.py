"""
Signals that end a process: something that is done first, or an end at a better moment.

Handlers of both kinds may lie over each other, in any order: whoever is asked to stop gracefully comes before those that act
because the process ends.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

AGAIN = b"\nTRPO: this update is finished and a checkpoint written, then training ends (once more: at once)\n"


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

    :param ask: called with the number of the signal, from its handler
    """

    def __init__(self, ask: Callable[[int], None]):
        super().__init__(signal.SIGTERM, signal.SIGINT)
        self._ask = ask
        self._asked = False

    def install(self) -> None:
        """Begin to act; done twice it is done once."""
        self._asked = self._asked and self.active
        super().install()

    def take(self, number: int) -> bool:
        """
        Take a signal, if it is the first.

        :param number: which
        :return: whether it was taken
        """
        if self._asked or not self.active or os.getpid() != self._process:
            return False
        self._asked = True
        os.write(2, AGAIN)  # nothing that could be in the middle of writing
        self._ask(number)
        return True

    def _act(self, number: int) -> bool:
        return self.take(number)
