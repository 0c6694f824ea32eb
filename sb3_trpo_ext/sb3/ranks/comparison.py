"""What must be the same on all ranks of a training, and how it is compared: settings before an update, checksums after it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.records.build import build
from sb3_trpo_ext.sb3.errors import RanksError
from sb3_trpo_ext.sb3.ranks.launch import timeout_seconds
from sb3_trpo_ext.sb3.ranks.normalization import running_statistics


def checksums_of(policy: ActorCriticPolicy, env: VecEnv | None, counts: tuple[int, ...]) -> dict[str, int]:
    """
    Sum up what must be the same on all ranks after an update.

    :param policy: the policy with its optimiser
    :param env: the environment; None: there is none
    :param counts: of steps
    :return: by name
    """
    learning_rates = [group["lr"] for group in policy.optimizer.param_groups]
    moments = [] if env is None else running_statistics(env)
    return {
        "the policy": _of_tensors(policy.parameters()),
        "the optimiser's state": _of_tensors(_tensors_in(policy.optimizer.state_dict())),
        "VecNormalize's statistics": checksum(b"".join(map(_bytes_of, moments))),
        "the learning rate": checksum(repr(learning_rates).encode()),
        "counts of steps": checksum(repr(counts).encode()),
    }


def circumstances_of(
    policy: ActorCriticPolicy, env: VecEnv, settings: Mapping[str, str], counts: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Collect what must be the same when a training begins; other versions, vector units or thread counts round otherwise.

    :param policy: the policy
    :param env: the environment
    :param settings: what decides about an update, by name
    :param counts: of steps and updates, by name
    :return: by name
    """
    here = build(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    versions = {name: value for name, value in here.items() if name != "processor"}
    return {
        **settings,
        **versions,
        "NUMERICS_VERSION": NUMERICS_VERSION,
        **counts,
        "the policy's parameters": [(name, tuple(part.shape), str(part.dtype)) for name, part in policy.named_parameters()],
        "VecNormalize's layers": len(running_statistics(env)),
        "time-out": timeout_seconds(),
    }


def refuse_unlike(found: list[dict[str, Any]]) -> None:
    """
    Compare ranks with rank 0.

    :param found: of each rank, by the same names
    :raises RanksError: naming the first thing that differs, and where
    """
    for name, value in found[0].items():
        for rank, theirs in enumerate(found):
            if theirs.get(name) != value:
                raise RanksError(
                    f"TRPO: the ranks don't train the same: {name} is {value!r} on rank 0 and {theirs.get(name)!r} on rank "
                    f"{rank}. Start all with the same script, arguments, packages, processors and OMP_NUM_THREADS."
                )


def _tensors_in(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors_in(part)]


def _of_tensors(tensors: Iterable[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _bytes_of(statistics: Any) -> bytes:
    return b"".join(np.asarray(each).tobytes() for each in (statistics.mean, statistics.var, statistics.count))


def checksum(content: bytes) -> int:
    """
    Give a number that other contents hardly have.

    :param content: bytes
    :return: their CRC-32
    """
    return zlib.crc32(content)
