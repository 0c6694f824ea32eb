"""
What an iteration on R ranks takes, of what a rank does and what the ranks say to one another.

    T = samples · (rollout + update) + fixed + collectives · latency · rounds(R) + bytes · share(R) / bandwidth

``samples`` are those of a rank. A ring (gloo's) makes 2 (R - 1) rounds of an all-reduce and sends each byte 2 (R - 1) / R
times; a tree (nccl's, for small messages) makes 2 log2 R rounds and sends it twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        self,
        ranks: int,
        samples: float,
        said: tuple[float, float],
        network: Network | None = None,
        slowness: float = 1.0,
    ) -> float:
        """
        Time an iteration.

        :param ranks: R
        :param samples: of each rank
        :param said: collectives of an iteration, and bytes that a rank gives to them
        :param network: None: the measured one
        :param slowness: of ranks that share a core
        :return: seconds
        """
        return slowness * self.compute(samples) + (network or self.network).seconds(ranks, *said)


def fit(cases: Sequence[Case]) -> tuple[dict[int, Model], float]:
    """
    Fit the constants, each by least squares of relative errors, none of them below 0.

    What a rank does by itself, of each width, from the cases of one rank; then, from those of several, the network, which is
    the same for all widths, and how much slower a rank is while its neighbour works: processors may share a core, or caches.

    :param cases: with one and with several ranks, of several sizes
    :return: the model of each width, for ranks with a core each; and the slowness here, 1 for none
    """
    alone, several = [case for case in cases if case.ranks == 1], [case for case in cases if case.ranks > 1]
    compute: dict[int, tuple[float, float, float]] = {}
    for width in sorted({case.width for case in cases}):
        own = [case for case in alone if case.width == width]
        per_sample, fixed = _solve([[case.samples, 1.0] for case in own], [case.seconds for case in own])
        collect = min(float(np.mean([case.collect / case.samples for case in own])), per_sample)
        compute[width] = collect, per_sample - collect, fixed
    slowness, latency, per_byte = _solve([_terms(case, compute) for case in several], [case.seconds for case in several])
    network = Network("here", latency, 1.0 / per_byte if per_byte > 0.0 else math.inf)
    return {width: Model(*constants, network) for width, constants in compute.items()}, slowness


def _terms(case: Case, compute: Mapping[int, tuple[float, float, float]]) -> list[float]:
    collect, update, fixed = compute[case.width]
    rounds, share = 2 * (case.ranks - 1), 2 * (case.ranks - 1) / case.ranks
    return [case.samples * (collect + update) + fixed, case.collectives * rounds, case.bytes * share]


def _solve(terms: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Least squares of relative errors; a constant that would be below 0 is 0."""
    scaled = np.array(terms) / np.array(seconds)[:, None]
    free = list(range(scaled.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(scaled[:, free], np.ones(len(scaled)), rcond=None)
        if (found >= 0).all():
            break
        free.pop(int(found.argmin()))
    constants = np.zeros(scaled.shape[1])
    constants[free] = found
    return tuple(float(constant) for constant in constants)
