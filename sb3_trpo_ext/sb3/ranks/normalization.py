"""
VecNormalize on several ranks: all hold the same statistics, of everything that any of them has seen.

During a rollout each goes on with its own. At its end the *increments* since the last merge are merged with what was common
then (Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979), in the order of ranks:
nothing is counted twice, and every rank does the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize


@dataclass(frozen=True)
class Moments:
    """
    Count, mean and sum of squared deviations of some samples.

    :param count: how many, >= 0 (SB3's begin with 1e-4 of a sample)
    :param mean: their mean, any shape
    :param squares: sum of their squared deviations from it, same shape
    """

    count: float
    mean: Any
    squares: Any

    @classmethod
    def of(cls, statistics: Any) -> Moments:
        """
        Copy running statistics.

        :param statistics: SB3's RunningMeanStd
        :return: their moments
        """
        mean, var = np.asarray(statistics.mean, np.float64), np.asarray(statistics.var, np.float64)
        return cls(float(statistics.count), mean.copy(), var * statistics.count)

    def write(self, statistics: Any) -> None:
        """
        Set running statistics.

        :param statistics: SB3's RunningMeanStd
        """
        statistics.count = self.count
        statistics.mean, statistics.var = np.array(self.mean), np.asarray(self.squares / self.count)

    def with_(self, other: Moments) -> Moments:
        """
        Merge.

        :param other: moments of other samples
        :return: of all of them
        """
        if other.count == 0.0:
            return self
        count, delta = self.count + other.count, other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + np.square(delta) * (self.count * other.count / count))

    def since(self, before: Moments) -> Moments:
        """
        Take apart what was merged: the inverse of ``with_``.

        :param before: moments of a part of these samples
        :return: of the others; none if there are none
        """
        count = self.count - before.count
        if count <= 0.0:
            return Moments(0.0, before.mean, np.zeros_like(before.squares))
        delta = (self.mean - before.mean) * (self.count / count)
        squares = self.squares - before.squares - np.square(delta) * (before.count * count / self.count)
        return Moments(count, before.mean + delta, np.maximum(squares, 0.0))


def running_statistics(env: VecEnv) -> list[Any]:
    """
    Find what VecNormalize keeps, in a fixed order.

    :param env: the outermost of a stack
    :return: SB3's RunningMeanStd of observations (of each key, if they are a dictionary) and returns, of each layer
    """
    found: list[Any] = []
    layer: Any = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            of_observations = getattr(layer, "obs_rms", None)  # without norm_obs there is none
            by_key = of_observations if isinstance(of_observations, dict) else {"": of_observations}
            found += [each for _, each in sorted(by_key.items()) if each is not None] + [layer.ret_rms]
        layer = layer.venv
    return found


def moments_of(env: VecEnv) -> list[Moments]:
    """
    Copy what VecNormalize keeps.

    :param env: the outermost of a stack
    :return: moments, in the order of ``running_statistics``
    """
    return [Moments.of(statistics) for statistics in running_statistics(env)]


def write_moments(env: VecEnv, moments: Iterable[Moments]) -> None:
    """
    Set what VecNormalize keeps.

    :param env: the outermost of a stack
    :param moments: of ``moments_of``
    """
    for statistics, each in zip(running_statistics(env), moments, strict=True):
        each.write(statistics)


def merged(common: Sequence[Moments], now: Sequence[Sequence[Moments]]) -> list[Moments]:
    """
    Merge what the ranks have seen since they last had the same statistics.

    :param common: these
    :param now: of each rank
    :return: the new common ones
    """
    return [
        reduce(Moments.with_, (theirs.since(before) for theirs in each), before)
        for before, *each in zip(common, *now, strict=True)
    ]
