"""
The one reducer: every mean of an update is a weighted mean over chunks of the batch and over ranks.

With weights w_i and samples x_i, mean(x) = sum_i w_i x_i / sum_i w_i. Unequal chunks, dropped transitions (w_i = 0)
and ranks of unequal size are then no special cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Rows = slice | Tensor
"""Which samples of the batch: a slice, or a vector of int64 indices."""


class Combine(Protocol):
    """What combines one process's partial result with those of all others."""

    def __call__(self, partial: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """
        Reduce elementwise over processes.

        :param partial: this process's sum or maximum, any shape
        :param op: how to combine
        :return: the same on every process, same shape
        """


@dataclass(frozen=True)
class Reducer:
    """
    Combines one process's partial result with those of all others.

    :param combine: how
    :param alone: whether there are no others, and each partial result is the whole
    """

    combine: Combine
    alone: bool = False

    def __call__(self, partial: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """
        Reduce elementwise over processes.

        :param partial: this process's sum or maximum, any shape
        :param op: how to combine
        :return: the same on every process, same shape
        """
        return self.combine(partial, op)


def _itself(partial: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
    return partial


single_process = Reducer(_itself, alone=True)
"""Reduces over one process: nothing to do."""


def everywhere(flag: bool, reducer: Reducer) -> bool:
    """
    Agree on a decision: what depends on a process's own samples may differ, what is done about it may not.

    :param flag: this process's verdict
    :param reducer: combines those of all
    :return: whether it is True on all of them
    """
    if reducer.alone:
        return flag
    return not bool(reducer(torch.tensor(0.0 if flag else 1.0, dtype=torch.float64), "max"))


def chunked(n_samples: int, size: int) -> tuple[slice, ...]:
    """
    Cut a batch into consecutive chunks.

    :param n_samples: number of samples, >= 1
    :param size: largest number of samples in a chunk, >= 1
    :return: slices that cover the batch, the last one may be shorter
    """
    return tuple(slice(start, min(start + size, n_samples)) for start in range(0, n_samples, size))


@dataclass(frozen=True)
class WeightedMean:
    """
    Weighted mean over the chunks of a batch.

    :param weights: sample weights, shape (n_samples,), float64, >= 0, not all zero over all processes
    :param chunks: which samples are evaluated together; samples in no chunk don't take part
    :param reducer: combines partial results over processes
    """

    weights: Tensor
    chunks: tuple[Rows, ...]
    reducer: Reducer = single_process
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Sum the weights once."""
        partial = sum((self.weights[rows].sum() for rows in self.chunks), self.weights.new_zeros(()))
        object.__setattr__(self, "total", self.reducer(partial))

    def of_sums(self, weighted_sum: Callable[[Rows, Tensor], Tensor]) -> Tensor:
        """
        Mean of what is summed over a chunk by its producer, as a vector-Jacobian product does.

        :param weighted_sum: rows, their weights of shape (n_rows,) -> sum_i w_i x_i, any one shape
        :return: the mean, in that shape
        """
        first, *rest = self.chunks
        partial = weighted_sum(first, self.weights[first])
        for rows in rest:
            partial = partial + weighted_sum(rows, self.weights[rows])
        total = self.total.to(dtype=partial.dtype, device=partial.device)
        return self.reducer(partial) / total

    def of(self, values: Callable[[Rows], Tensor]) -> Tensor:
        """
        Mean of values a sample.

        :param values: rows -> values, shape (n_rows, ...)
        :return: the mean, shape (...)
        """
        return self.of_sums(lambda rows, weights: torch.tensordot(weights, values(rows).to(weights.dtype), dims=1))

    def with_maximum(self, values: Callable[[Rows], Tensor]) -> tuple[Tensor, Tensor]:
        """
        Mean and maximum in one pass; samples of weight zero count in neither.

        :param values: rows -> values, shape (n_rows, k)
        :return: mean and maximum, shape (k,) each; NaN in a value gives NaN in both
        """
        maxima = []

        def remember(rows: Rows) -> Tensor:
            chunk = values(rows).to(self.weights.dtype)
            counted = (self.weights[rows] > 0).unsqueeze(-1)
            maxima.append(torch.where(counted, chunk, -torch.inf).amax(dim=0))
            return chunk

        mean = self.of(remember)
        return mean, self.reducer(torch.stack(maxima).amax(dim=0), "max")

    def subsample(self, rows: Tensor, chunk_size: int) -> WeightedMean:
        """
        The same mean over some of the samples.

        :param rows: indices of the samples, shape (n_rows,), int64
        :param chunk_size: largest number of samples in a chunk
        :return: mean over those samples, with their weights
        """
        return WeightedMean(self.weights, tuple(rows.split(chunk_size)), self.reducer)
