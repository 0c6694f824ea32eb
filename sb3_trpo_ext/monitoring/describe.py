"""A model in plain data: settings, spaces, policy, machine. Written by the flight recorder, read by ``replay``."""

from __future__ import annotations

import importlib.metadata
import inspect
import platform
from typing import Any

import numpy as np
import torch

PACKAGES = ("sb3-trpo-ext", "torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium")

CLASS = "$class"
"""Key of an object that stands for a class, by its name; what has no plain form stands under ``UNKNOWN``."""
UNKNOWN = "$unknown"

NOT_SETTINGS = frozenset(
    {
        *("policy", "policy_kwargs", "env", "learning_rate", "rollout_buffer_class"),
        *("device", "verbose", "tensorboard_log", "log_folder"),
    }
)
"""Arguments that are described elsewhere, or say nothing about an update."""


def plain(value: Any) -> Any:
    """
    Put a value into JSON's terms; nothing is lost silently.

    :param value: anything
    :return: numbers, text, lists and dicts; a class as {"$class": name}, anything else as {"$unknown": its type}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        # JSON has no infinities: as text, which float() reads.
        return float(value) if np.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, type):
        return {CLASS: f"{value.__module__}.{value.__qualname__}"}
    return {UNKNOWN: f"{type(value).__module__}.{type(value).__qualname__}"}


def settings_of(model: Any) -> dict[str, Any]:
    """
    Give the constructor's arguments, as the model has them now.

    :param model: the model
    :return: plain values by name
    """
    names: dict[str, None] = {}
    for cls in reversed(type(model).__mro__):
        if cls is not object:
            names |= dict.fromkeys(inspect.signature(cls).parameters)
    return {name: plain(getattr(model, name)) for name in names if hasattr(model, name) and name not in NOT_SETTINGS}


def space_of(space: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """
    Describe a space of gymnasium's.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict of such
    :param name: prefix of its arrays
    :param arrays: gets the bounds of a Box
    :return: what it is made of
    """
    kind = type(space).__name__
    described: dict[str, Any] = {"space": kind}
    if kind == "Dict":
        described["spaces"] = {key: space_of(part, f"{name}/{key}", arrays) for key, part in space.spaces.items()}
    elif kind == "Box":
        described["dtype"] = str(space.dtype)
        arrays[f"{name}/low"], arrays[f"{name}/high"] = space.low, space.high
    elif kind == "Discrete":
        described |= {"n": int(space.n), "start": int(space.start)}
    elif kind == "MultiDiscrete":
        described |= {"nvec": space.nvec.tolist(), "dtype": str(space.dtype)}
    elif kind == "MultiBinary":
        described["n"] = plain(space.n)
    return described


def build() -> dict[str, Any]:
    """
    Say what decides about the last bits of a result on this machine.

    :return: versions, processor, number of threads
    """
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
