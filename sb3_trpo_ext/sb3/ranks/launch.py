"""
What the environment says about a process that is one of several: who it is, how long it waits, by what it reaches the others.

``torchrun`` says so by variables; nothing here talks to anybody.
"""

from __future__ import annotations

import os
from contextlib import suppress

import torch
import torch.distributed as dist

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun puts into the environment, and ``init_process_group`` needs."""

TIMEOUT_VARIABLE, TIMEOUT = "TRPO_RANK_TIMEOUT", 600.0
"""Seconds that ranks wait for one another: longer than an evaluation or a checkpoint of rank 0, during which others wait."""


def place() -> tuple[int, int]:
    """
    Find out who this process is, without talking to anybody.

    :return: rank and number of ranks; 0 and 1 for a process that nobody launched as one of several
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if not dist.is_available() or any(name not in os.environ for name in LAUNCHED):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def use_own_gpu() -> None:
    """Let "cuda" mean this rank's own GPU, where there is one for each rank of this host."""
    if place()[1] > 1 and _gpu_each():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _gpu_each() -> bool:
    local = os.environ.get("LOCAL_WORLD_SIZE")
    return local is not None and "LOCAL_RANK" in os.environ and torch.cuda.device_count() >= int(local)


def timeout_seconds() -> float:
    """
    Read how long ranks wait for one another.

    :return: seconds
    :raises ValueError: if the environment says anything but a number above 0
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT))
    with suppress(ValueError):
        if 0.0 < float(text) < float("inf"):
            return float(text)
    raise ValueError(f"TRPO: {TIMEOUT_VARIABLE}={text!r} is impossible: it must be a number of seconds above 0")


def backend() -> str:
    """
    Choose what reduces: nccl on GPUs, if each rank of this host has one.

    :return: torch.distributed's name for it
    """
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() and _gpu_each() else "gloo"


def of_this_start(store: dist.Store) -> dist.Store:
    """
    A part of the store for each time that torchrun starts the ranks.

    It gives restarted ranks the same store: what killed ones have left in it would have the new ones wait for the dead. (On
    several hosts each counts restarts of its own: there the store itself must be new; ``docs/scaling.md`` says how.)

    :param store: of torchrun
    :return: the part
    """
    starts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else "0"
    return dist.PrefixStore(f"trpo/start/{starts}", store)
