"""Calls into something that may be broken or hang: they end in time, say so once, and never raise."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

GIVE_UP_AFTER = 3
"""Failures in a row after which nothing is tried any more."""

KEY_VARIABLES = ("WANDB_API_KEY",)
"""Environment variables whose values are written nowhere."""

HIDDEN = "[key]"


def without_keys(text: str) -> str:
    """
    Take credentials out of a text.

    :param text: any text that leaves the process
    :return: the same, without the values of ``KEY_VARIABLES``
    """
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key:
            text = text.replace(key, HIDDEN)
    return text


def say(text: str, stacklevel: int = 2) -> None:
    """
    Warn, without credentials.

    :param text: the message, which may quote others
    :param stacklevel: as of ``warnings.warn``, counted from here
    """
    warnings.warn(without_keys(text), UserWarning, stacklevel=stacklevel + 1)


class BoundedCalls:
    """
    Makes calls that may fail, each in a thread that is waited for only so long.

    In a thread also for another reason: a signal that arrives meanwhile is handled in the main thread, which then holds none
    of the other side's locks.

    :param name: who is called, for messages
    :param seconds: what a call may take
    """

    def __init__(self, name: str, seconds: float):
        self.name = name
        self.seconds = seconds
        self.given_up = False
        self._failures = 0
        self._said = False

    def try_to(self, what: str, call: Callable[[], Any], seconds: float | None = None) -> Any:
        """
        Call, unless it was given up.

        :param what: what the call is for, for a message
        :param call: without arguments
        :param seconds: what it may take; None: what all may
        :return: its result; None if it failed, or took too long
        """
        if self.given_up:
            return None
        limit = self.seconds if seconds is None else seconds
        outcome: list[Any] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                outcome.append(call())
            except BaseException as error:  # also SystemExit: nothing of it may reach the training
                errors.append(error)

        thread = threading.Thread(target=work, name=f"{self.name}: {what}", daemon=True)
        thread.start()
        thread.join(limit)
        if thread.is_alive():
            self.given_up = True
            self._say(f"{what} took more than {limit:g} s")
            return None
        if errors:
            self._failures += 1
            self.given_up = self._failures >= GIVE_UP_AFTER
            self._say(f"{what} failed ({type(errors[0]).__name__}: {errors[0]})")
            return None
        self._failures = 0
        return outcome[0]

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            say(f"{self.name}: {what}. Training goes on; its CSV and TensorBoard files are complete.", stacklevel=4)
