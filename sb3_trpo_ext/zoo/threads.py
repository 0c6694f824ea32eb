"""
How many threads torch uses when the command line trains: one for a small network on a CPU, unless the user says otherwise.

An operation on a small network takes microseconds. Divided among threads it takes no less, and where other work keeps the
processors busy, each thread waits for the slowest, and a training takes several times as long.
"""

from __future__ import annotations

import os
import sys

import torch
from stable_baselines3.common.policies import BasePolicy
from torch.nn.modules.conv import _ConvNd

from sb3_trpo_ext.sb3.ranks.launch import place

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables from which torch takes its number of threads."""

SMALL = 500_000
"""Parameters of the largest policy that is called small: above every one that we ship (two networks of 256x256 units on the
widest observations have 310,000). Chosen by that count, not measured. Larger ones keep torch's number."""


def is_small(policy: BasePolicy) -> bool:
    """
    Tell whether threads would only wait for one another.

    :param policy: of any size
    :return: True for at most ``SMALL`` parameters on a CPU, and no convolution among its layers
    """
    convolves = any(isinstance(part, _ConvNd) for part in policy.modules())
    return policy.device.type == "cpu" and not convolves and sum(part.numel() for part in policy.parameters()) <= SMALL


def choose_threads(policy: BasePolicy, asked: int) -> None:
    """
    Use one thread for a small network from here on, in worker processes too, and say so in one line.

    :param policy: what will be trained
    :param asked: number of threads from the command line; -1: nothing was said
    """
    said = asked > 0 or any(os.environ.get(name) for name in VARIABLES)
    if said or torch.get_num_threads() == 1 or not is_small(policy):
        return
    torch.set_num_threads(1)
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    if place()[0] == 0:
        print(
            "sb3_trpo_ext: the network is small: torch uses one thread (--num-threads N or OMP_NUM_THREADS=N for more)",
            file=sys.stderr,
        )
