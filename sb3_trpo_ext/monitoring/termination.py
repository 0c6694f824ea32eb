"""SIGTERM as an exit: a training that is told to end unwinds as with Ctrl-C, so that what must be written is written."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
"""As a shell counts."""


class ExitOnSigterm:
    """While installed, SIGTERM raises ``SystemExit`` in the main thread, unless somebody handles it already."""

    def __init__(self) -> None:
        self._installed = False

    def install(self) -> None:
        """Begin; nothing happens in another thread, or where the signal has a handler."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _exit)
            self._installed = True

    def remove(self) -> None:
        """End; a handler that somebody has put in since stays."""
        if self._installed and signal.getsignal(signal.SIGTERM) is _exit:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._installed = False


def _exit(_signal: int, _frame: FrameType | None) -> Any:
    raise SystemExit(EXIT_CODE)
