"""Words for messages: values that fit into a line, the nearest right name, and what YAML has made of a number."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 120
"""Characters of a value in a message."""

OTHER_NAMES = {
    **{"n_epochs": "n_critic_updates", "vf_iters": "n_critic_updates", "lr": "learning_rate", "lam": "gae_lambda"},
    **{"max_kl": "target_kl", "delta": "target_kl", "step_size": "target_kl", "damping": "cg_damping"},
    **{"cg_iters": "cg_max_steps", "cg_iterations": "cg_max_steps", "backtrack_iters": "line_search_max_iter"},
    **{"cg_steps": "cg_max_steps", "hidden_sizes": "net_arch", "layers": "net_arch", "gpu": "cuda", "torch": "th"},
}
"""What other libraries call it."""


def shown(value: Any) -> str:
    """
    Write a value as Python would, in one short line.

    :param value: anything
    :return: text
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a stranger's __repr__, or an integer of more digits than Python writes
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def maybe(name: object, names: Iterable[str]) -> str:
    """
    Find the name that somebody meant.

    :param name: what was written
    :param names: what could have been
    :return: "; did you mean …?", or nothing
    """
    wanted = OTHER_NAMES.get(str(name), str(name))
    candidates = {other.lower(): other for other in names}
    close = difflib.get_close_matches(wanted.lower(), candidates, n=1)
    return f"; did you mean {candidates[close[0]]}?" if close else ""


def text_hint(value: object) -> str:
    """
    Explain a number that is text.

    :param value: what should be something else
    :return: how to write it, or nothing
    """
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f"; {value!r} is text (YAML takes 1e-2 for text): write {number!r}, without quotes and with a point"
