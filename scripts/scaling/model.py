"""
What an iteration on R ranks takes, of what a rank does and what the ranks say to one another.

    T = samples · (rollout + update) + fixed + collectives · latency · rounds(R) + bytes · share(R) / bandwidth

``samples`` are those of a rank. A ring (gloo's) makes 2 (R - 1) rounds of an all-reduce and sends each byte 2 (R - 1) / R
times; a tree (nccl's, for small messages) makes 2 log2 R rounds and sends it twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """
    One measured training.

    :param ranks: R
    :param samples: of each rank, an update
    :param width: of both hidden layers
    :param parameters: of actor and critic
    :param seconds: of an iteration
    :param collect: seconds of it, in this rank's own rollout
    :param communication: seconds of it, waiting for others included
    :param collectives: an iteration
    :param bytes: that a rank gave to them
    """

    ranks: int
    samples: int
    width: int
    parameters: int
    seconds: float
    collect: float
    communication: float
    collectives: float
    bytes: float


@dataclass(frozen=True)
class Network:
    """
    What connects the ranks.

    :param name: for the table
    :param latency: seconds of one round
    :param bandwidth: bytes a second
    :param tree: whether small messages go through a tree
    """

    name: str
    latency: float
    bandwidth: float
    tree: bool = False

    def seconds(self, ranks: int, collectives: float, n_bytes: float) -> float:
        """
        Time an iteration's communication.

        :param ranks: R
        :param collectives: an iteration
        :param n_bytes: that a rank gives to them
        :return: seconds
        """
        if ranks == 1:
            return 0.0
        if self.tree:
            return collectives * 2 * math.log2(ranks) * self.latency + 2 * n_bytes / self.bandwidth
        return collectives * 2 * (ranks - 1) * self.latency + 2 * (ranks - 1) / ranks * n_bytes / self.bandwidth


@dataclass(frozen=True)
class Model:
    """
    The constants of a network of one width, on one kind of processor.

    :param collect: seconds a sample of a rollout
    :param update: seconds a sample of an update
    :param fixed: seconds an update
    :param network: of the measured machine
    """

    collect: float
    update: float
    fixed: float
    network: Network

    def compute(self, samples: float) -> float:
        """
        Time what a rank does by itself.

        :param samples: of the rank
        :return: seconds
        """
        return samples * (self.collect + self.update) + self.fixed

    def iteration(
        self, ranks: int, samples: float, collectives: float, n_bytes: float, network: Network | None = None
    ) -> float:
        """
        Time an iteration.

        :param ranks: R
        :param samples: of each rank
        :param collectives: an iteration
        :param n_bytes: that a rank gives to them
        :param network: None: the measured one
        :return: seconds
        """
        return self.compute(samples) + (network or self.network).seconds(ranks, collectives, n_bytes)


def fit(cases: Sequence[Case]) -> Model:
    """
    Fit the constants: least squares of relative errors, none of them below 0.

    :param cases: of one width, with one and with several ranks, of several sizes
    :return: the model
    """
    rows = np.array([_terms(case) for case in cases])
    seconds = np.array([case.seconds for case in cases])
    scaled = rows / seconds[:, None]
    free = list(range(rows.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(scaled[:, free], np.ones(len(cases)), rcond=None)
        if (found >= 0).all():
            break
        free.pop(int(found.argmin()))
    constants = np.zeros(rows.shape[1])
    constants[free] = found
    per_sample, fixed, latency, per_byte = constants
    share = float(np.mean([case.collect / case.samples for case in cases])) / per_sample
    collect = per_sample * min(share, 1.0)
    bandwidth = 1.0 / per_byte if per_byte > 0.0 else math.inf
    return Model(collect, per_sample - collect, fixed, Network("here", latency, bandwidth))


def _terms(case: Case) -> list[float]:
    ranks = case.ranks
    rounds, share = 2 * (ranks - 1), 2 * (ranks - 1) / ranks
    return [case.samples, 1.0, case.collectives * rounds, case.bytes * share]
