"""The callbacks of a training: SB3 hands the root of their tree to each of them, as ``locals["callback"]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback

from sb3_trpo_ext.monitoring.alarm import Alarm


def callbacks_in(root: Any) -> Iterator[BaseCallback]:
    """
    Walk a tree of callbacks.

    :param root: its root; anything that is no callback is an empty tree
    :yields: the root, and what it and its children hold in SB3's two ways
    """
    if not isinstance(root, BaseCallback):
        return
    yield root
    children: list[BaseCallback | None] = [*root.callbacks] if isinstance(root, CallbackList) else []
    if isinstance(root, EventCallback):
        children.append(root.callback)
    for child in children:
        yield from callbacks_in(child)


def alarms_in(root: Any) -> list[Alarm]:
    """
    Give what the monitors of a training have raised so far.

    :param root: of its callbacks
    :return: monitor by monitor
    """
    # A list of monitors has none of its own; somebody else's callback may call anything its alarms.
    parts = (getattr(part, "alarms", None) for part in callbacks_in(root) if not isinstance(part, CallbackList))
    return [alarm for alarms in parts if isinstance(alarms, list) for alarm in alarms if isinstance(alarm, Alarm)]
