"""Callbacks to which a step says nothing: they look at updates, so that a rollout of a thousand steps costs them one."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList


class QuietList(CallbackList):
    """
    A list of callbacks that are called at the first step of each rollout only, and whose local variables are those of then.

    :param callbacks: they read nothing of a step, and answer the same at each step of a rollout
    """

    def __init__(self, callbacks: list[BaseCallback]):
        super().__init__(callbacks)
        self._answer: bool | None = None

    def _on_rollout_start(self) -> None:
        self._answer = None
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        if self._answer is None:
            super().update_child_locals(self.locals)
            self._answer = super()._on_step()
        return self._answer

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """
        Keep a step's local variables from them.

        :param locals_: as in SB3
        """
