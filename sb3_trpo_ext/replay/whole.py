"""Whether a dump can be one: everything that NumPy and torch would trust is looked at before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from sb3_trpo_ext.records.dump import Dump, DumpError

HEADER: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("n_updates", "num_timesteps", "n_envs", "updates_skipped"), int),
    **dict.fromkeys(("policy", "settings", "spaces", "random", "optimizer", "build"), dict),
    **{"reasons": list, "device": str, "ordered": bool, "error": (str, type(None)), "report": (dict, type(None))},
}
"""What a header must hold."""

MT19937_WORDS = 624

COUNTS = ("cg_max_steps", "line_search_max_iter", "n_critic_updates", "max_critic_updates")
LARGEST_COUNT = 10_000
"""Of what an update repeats."""

SLACK = 2**16
"""Numbers that a policy may make for itself beside its parameters."""


class NoLarger(TorchFunctionMode):
    """
    While a policy is built from a description: refuse tensors that the dump has no room for.

    :param held: the policy's parameters and buffers, from the dump
    """

    def __init__(self, held: dict[str, np.ndarray]):
        super().__init__()
        self._left = 2 * sum(array.size for array in held.values()) + SLACK

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (torch.empty, torch.ones, torch.zeros):
            sizes = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
            self._left -= math.prod(int(size) for size in sizes)
            if self._left < 0:
                raise DumpError("the dump describes a larger policy than it holds: it does not hold together")
        return func(*args, **(kwargs or {}))


def check(dump: Dump) -> None:
    """
    Refuse what can't be right, before anything is made of it: NumPy and torch trust sizes and positions that they are given.

    :param dump: the dump
    :raises DumpError: saying what is wrong
    """
    for name, kind in HEADER.items():
        if not isinstance(dump.header.get(name), kind):
            raise DumpError(f"the dump's {name} is {type(dump.header.get(name)).__name__}: it does not hold together")
    if dump.header.get("n_ranks", 1) != 1:
        raise DumpError(
            f"the dump holds rank 0's share of an update of {dump.header['n_ranks']} ranks: alone it can't be done again"
        )
    held = dump.part("before")
    largest = max((size for array in held.values() for size in array.shape), default=0)
    n_samples = len(dump.arrays.get("batch/advantages", ()))
    if "batch/places" in dump.arrays:
        n_samples = _n_collected(dump, n_samples)
    settings = dump.header["settings"]
    if settings.get("n_steps") != n_samples / max(1, dump.header["n_envs"]):
        raise DumpError(f"the dump has {n_samples} samples of {dump.header['n_envs']} environments: it does not hold together")
    described = [dump.header["policy"].get("kwargs"), dump.header["spaces"]]
    try:
        too_large = any(number > largest for number in _integers(described))
    except RecursionError as error:
        raise DumpError("the dump's policy or spaces are nested too deeply: it does not hold together") from error
    if too_large:
        raise DumpError("the dump describes larger networks or spaces than its parameters have: it does not hold together")
    for name in COUNTS:
        if isinstance(settings.get(name), int) and settings[name] > LARGEST_COUNT:
            raise DumpError(f"the dump's {name} is {settings[name]}, more than {LARGEST_COUNT}: it would not end")
    _check_streams(dump)


def _n_collected(dump: Dump, n_kept: int) -> int:
    """Samples of a rollout of which some were dropped."""
    places, n_collected = dump.arrays["batch/places"], dump.arrays["batch/episode_starts"].size
    within = places.dtype == np.int64 and places.shape == (n_kept,) and bool(((places >= 0) & (places < n_collected)).all())
    if not within or not bool((np.diff(places) > 0).all()):
        raise DumpError("the dump's places of samples are none: it does not hold together")
    return n_collected


def _check_streams(dump: Dump) -> None:
    state = dump.header["random"].get("numpy")
    name, position, has_gauss, cached = state if isinstance(state, list) and len(state) == 4 else [None] * 4
    keys = dump.arrays.get("random/numpy", np.zeros(0))
    whole = isinstance(position, int) and 0 <= position <= MT19937_WORDS and has_gauss in (0, 1) and isinstance(cached, float)
    if name != "MT19937" or not whole or keys.dtype != np.uint32 or keys.shape != (MT19937_WORDS,):
        raise DumpError("the dump's state of NumPy's generator is none: it does not hold together")


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _integers(part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
