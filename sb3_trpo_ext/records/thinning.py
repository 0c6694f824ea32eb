"""
Which updates are recorded: every one for a long time, then every second, every fourth, and so on.

So files grow with the logarithm of a run's length, are only ever appended to, and are the same in a run that was resumed: the
choice depends on the update's number alone. What goes wrong is not recorded more often than what goes well, or shares of it
would be read off the files wrongly; monitors see every update, and their alarms and dumps have records of their own.
"""

from __future__ import annotations

EVERY_UPDATE_UNTIL = 10_000
"""20 million steps in batches of 2,048; some 85 MB (docs/checkpoints.md). The longest run here has 1,221 updates."""


def is_recorded(number: int, every_until: int | None = None) -> bool:
    """
    Choose: all up to N, every 2nd up to 2N, every 4th up to 4N, every 8th up to 8N …: N (1 + log2(T / N) / 2) of T = 2^k N.

    :param number: of the update, or of whatever else is counted from 1
    :param every_until: N, at least 1; None: ``EVERY_UPDATE_UNTIL``
    :return: whether it is recorded
    """
    doublings = (max(number - 1, 0) // (every_until or EVERY_UPDATE_UNTIL)).bit_length()
    return number % (1 << doublings) == 0
