"""Something that has to be done before SIGTERM ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class BeforeSigterm:
    """
    Does something at SIGTERM, then what would have been done without us.

    Nothing is changed outside the main thread (Python allows handlers only there), where SIGTERM is ignored or handled by
    something that is not Python, and in processes that are forked off later.

    :param action: what is done first, in a bounded time: SIGTERM is ignored meanwhile; it may not raise
    """

    def __init__(self, action: Callable[[], None]):
        self._action = action
        self._previous: Any = None
        self._process: int | None = None

    def install(self) -> None:
        """Begin to act; done twice it is done once."""
        if threading.current_thread() is not threading.main_thread():
            return
        if self._previous is None:
            previous = signal.getsignal(signal.SIGTERM)
            if previous in (None, signal.SIG_IGN):
                return
            self._previous = previous
            signal.signal(signal.SIGTERM, self._handle)
        self._process = os.getpid()

    def remove(self) -> None:
        """
        Act no longer, and put the earlier handler back, in whatever order several of ours are removed.

        Under a handler that somebody else has put over it, ours stays and only passes on: that one may still call it.
        """
        if self._previous is None or threading.current_thread() is not threading.main_thread():
            return
        self._process = None
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
        elif (above := self._above()) is not None:
            above._previous, self._previous = self._previous, None

    def _above(self) -> BeforeSigterm | None:
        """The one of ours that calls this one; None if it can't be told."""
        handler = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        while isinstance(handler, BeforeSigterm):
            if handler._previous == self._handle:
                return handler
            handler = getattr(handler._previous, "__self__", None)
        return None

    def _act_undisturbed(self) -> None:
        """A second SIGTERM would end the process in the middle of the action."""
        installed = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            self._action()
        finally:
            signal.signal(signal.SIGTERM, installed)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self._act_undisturbed()
        if callable(self._previous):
            self._previous(number, frame)
            return
        # The default: end by the signal itself, so that who waits for the process sees why it ended.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
