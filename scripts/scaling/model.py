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


def fit(cases: Sequence[Case]) -> dict[int, Model]:
    """
    Fit the constants: least squares of relative errors, none of them below 0; one network for all widths.

    :param cases: with one and with several ranks, of several sizes
    :return: the model of each width
    """
    widths = sorted({case.width for case in cases})
    rows = np.array([_terms(case, widths) for case in cases])
    scaled = rows / np.array([case.seconds for case in cases])[:, None]
    free = list(range(rows.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(scaled[:, free], np.ones(len(cases)), rcond=None)
        if (found >= 0).all():
            break
        free.pop(int(found.argmin()))
    constants = np.zeros(rows.shape[1])
    constants[free] = found
    latency, per_byte = constants[-2:]
    network = Network("here", latency, 1.0 / per_byte if per_byte > 0.0 else math.inf)
    models = {}
    for width, per_sample, fixed in zip(widths, constants[::2], constants[1::2], strict=False):
        share = np.mean([case.collect / case.samples for case in cases if case.width == width and case.ranks == 1])
        collect = min(float(share), per_sample)
        models[width] = Model(collect, per_sample - collect, fixed, network)
    return models


def _terms(case: Case, widths: Sequence[int]) -> list[float]:
    """Of the seconds a sample and the fixed ones of each width, the latency, and the seconds a byte."""
    rounds, share = 2 * (case.ranks - 1), 2 * (case.ranks - 1) / case.ranks
    of_widths = [term * (case.width == width) for width in widths for term in (case.samples, 1.0)]
    return [*of_widths, case.collectives * rounds, case.bytes * share]
