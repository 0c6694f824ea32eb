"""The callbacks of a training as a tree."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback


def every_callback(callback: BaseCallback) -> list[BaseCallback]:
    """
    List a callback and those that it holds, in whatever attribute.

    :param callback: the root of a tree
    :return: each once, the root first
    """
    found: list[BaseCallback] = []
    waiting = [callback]
    while waiting:
        part = waiting.pop()
        if any(part is known for known in found):
            continue
        found.append(part)
        held = vars(part).values()
        children = (
            child
            for value in held
            for child in (value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value])
            if isinstance(child, BaseCallback)
        )
        waiting.extend(reversed(list(children)))
    return found
