"""What decides about the last bits of a result: versions of packages, and the processor."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

PACKAGES = ("sb3-trpo-ext", "torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium")


def build(cpu_capability: str, threads: int) -> dict[str, Any]:
    """
    Say what decides about the last bits of a result on this machine.

    :param cpu_capability: vector units that torch uses (``torch.backends.cpu.get_cpu_capability()``)
    :param threads: that torch uses (``torch.get_num_threads()``)
    :return: versions, processor, number of threads
    """
    return {**_fixed(), "cpu_capability": cpu_capability, "threads": threads}


@lru_cache(maxsize=1)
def _fixed() -> dict[str, Any]:
    """Looked up once, because every checkpoint contains it."""
    return {
        "python": platform.python_version(),
        **versions(PACKAGES),
        "machine": platform.machine(),
        "processor": _processor(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """
    Look up which versions are installed.

    :param packages: their names
    :return: by name; None if a package is not installed
    """
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
