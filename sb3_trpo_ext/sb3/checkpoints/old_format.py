"""
States of format 2: pickled instances of our classes, under the names of the modules that these were in at that time.

They are read as names and values, so that no class has to stay where it was.
"""

from __future__ import annotations

import io
import pickle
from types import SimpleNamespace
from typing import Any

from sb3_trpo_ext.sb3.checkpoints.callback_states import stable_name
from sb3_trpo_ext.sb3.checkpoints.files import FORMAT

PLACE = "sb3_trpo_ext.sb3."
CLASSES = ("TrainingState", "RandomStates", "EnvironmentState", "LogPositions", "Output")
"""Which classes stood in them, and in which package."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look a class up: one of ours is read as the names and values of its attributes."""
        return SimpleNamespace if module.startswith(PLACE) and name in CLASSES else super().find_class(module, name)


def unpickled(content: bytes) -> Any:
    """
    Unpickle a state of either format.

    :param content: the pickle
    :return: a state of format 2 in the plain form of today; anything else as it is
    :raises Exception: whatever unpickling raises
    """
    state = _Unpickler(io.BytesIO(content)).load()
    if not isinstance(state, SimpleNamespace):
        return state
    parts = {name: vars(getattr(state, name)) for name in ("streams", "environment", "logs")}
    parts["logs"]["outputs"] = tuple(map(vars, state.logs.outputs))
    # A callback was named by its module, too.
    callbacks = {stable_name(name): held for name, held in state.callbacks.items()}
    if len(callbacks) < len(state.callbacks):
        raise ValueError("two of its callbacks have classes of one name")
    return {"format": FORMAT, **vars(state), **parts, "callbacks": callbacks}
