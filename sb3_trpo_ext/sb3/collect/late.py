"""Numbers that our loop computes after the last step: until then, reading them raises one clear error, and never gives 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_trpo_ext.sb3.collect.callback_needs import DECLARATION
from sb3_trpo_ext.sb3.errors import TooEarlyError

LATE_ARRAYS = ("values", "log_probs", "rewards")
"""Arrays of a rollout buffer that are complete only after the last step."""


class Late:
    """
    Stands in for an array until it is computed; whatever is done with it raises ``TooEarlyError``.

    :param name: what it stands in for, as in "the buffer's values"
    """

    def __init__(self, name: str):
        self._name = name

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TooEarlyError(
            f"TRPO: {self._name} are computed when the rollout is complete: read them in _on_rollout_end, or let SB3's loop "
            f"compute them at each step, with a callback whose class says {DECLARATION} = True."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python and NumPy look for protocols in this way
            raise AttributeError(name)
        self._refuse()

    def __repr__(self) -> str:
        return f"<{self._name}: not computed yet>"

    __hash__ = object.__hash__
    __array__ = __len__ = __iter__ = __getitem__ = __setitem__ = __contains__ = _refuse
    __bool__ = __int__ = __float__ = __index__ = __format__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __neg__ = __abs__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse


@contextmanager
def late(buffer: RolloutBuffer) -> Iterator[dict[str, np.ndarray]]:
    """
    Let nobody read a buffer's values, log-probabilities and rewards while it is filled.

    :param buffer: a rollout buffer that was reset
    :yields: the arrays by name, shape (n_steps, n_envs), to be completed. Afterwards all of them are the buffer's again. If
        the body raised, only the rewards are: what was never computed can't be read then, either
    """
    arrays = {name: getattr(buffer, name) for name in LATE_ARRAYS}
    for name in LATE_ARRAYS:
        setattr(buffer, name, Late(f"the rollout buffer's {name}"))
    try:
        yield arrays
    except BaseException:
        buffer.rewards = arrays["rewards"]
        raise
    for name, array in arrays.items():
        setattr(buffer, name, array)
