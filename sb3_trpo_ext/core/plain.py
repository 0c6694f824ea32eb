"""Plain data from a file, against the annotations of the dataclass that it is to become."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

LARGEST_INTEGER = 2**53
"""That may stand for a float: larger ones are none exactly."""


def refuse_constant(name: str) -> None:
    """
    Refuse what Python takes for JSON and what is none; for ``json.loads(…, parse_constant=…)``.

    :param name: NaN, Infinity or -Infinity
    :raises ValueError: always
    """
    raise ValueError(f"{name} is no JSON, and no number")


def refuse_other_types(cls: type, values: Mapping[str, Any]) -> None:
    """
    Make sure that each field is given what its annotation says.

    :param cls: a dataclass of numbers, texts, None, and tuples of them
    :param values: by field
    :raises ValueError: naming the first field that is something else, or a number that is not finite
    """
    for name, (kinds, inner) in _kinds_by_field(cls).items():
        value = values[name]
        fits = _fits(value, kinds) if inner is None else isinstance(value, tuple) and all(_fits(part, inner) for part in value)
        if not fits:
            raise ValueError(f"{name} can't be {str(value)[:40]!r}")


def _fits(value: Any, kinds: frozenset[type]) -> bool:
    if type(value) not in kinds:
        return False
    if isinstance(value, int):
        return float not in kinds or abs(value) <= LARGEST_INTEGER
    if isinstance(value, str):
        # What JSON's escapes can say and no file can hold
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, float) or math.isfinite(value)


@cache
def _kinds_by_field(cls: type) -> dict[str, tuple[frozenset[type], frozenset[type] | None]]:
    hints = typing.get_type_hints(cls)
    return {
        name: (_kinds(hint), _kinds(typing.get_args(hint)[0]) if typing.get_origin(hint) is tuple else None)
        for name, hint in hints.items()
    }


def _kinds(hint: Any) -> frozenset[type]:
    parts = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    return frozenset(parts | ({int} if float in parts else set()))
