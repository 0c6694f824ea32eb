"""The critic's minibatches on several ranks: each has its own samples, and every rank makes the same steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from sb3_trpo_ext.core.flat import flatten, unflatten
from sb3_trpo_ext.core.reduce import chunked
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.critic import Share
from sb3_trpo_ext.sb3.ranks.group import Ranks


def share_of_minibatches(batch: RolloutBatch, batch_size: int, buffer: object, ranks: Ranks) -> Share | None:
    """
    Make what averages the critic's minibatches over ranks.

    :param batch: this rank's rollout
    :param batch_size: samples of this rank in a minibatch
    :param buffer: where the rollout comes from, for the message
    :param ranks: the processes
    :return: for ``Critic``; None: this process is alone
    :raises ValueError: for several ranks and a buffer that makes its own minibatches
    """
    if ranks.size == 1:
        return None
    if batch.n_steps is None:
        raise ValueError(
            f"TRPO: {type(buffer).__name__} makes its own minibatches, and ranks need as many each: use RolloutBuffer"
        )
    return partial(averaged, sizes_of_minibatches(len(batch), batch_size, ranks), ranks)


def sizes_of_minibatches(n_samples: int, batch_size: int, ranks: Ranks) -> list[int]:
    """
    Count the samples that this rank has for each minibatch of an epoch.

    A rank with fewer samples than another, some having been dropped, gives nothing to the minibatches that it does not have.

    :param n_samples: of this rank
    :param batch_size: of this rank's minibatches
    :param ranks: the processes
    :return: as many on each rank
    """
    sizes = [rows.stop - rows.start for rows in chunked(n_samples, batch_size)]
    most = int(ranks.reduce(torch.tensor(float(len(sizes)), dtype=torch.float64), "max"))
    return sizes + [0] * (most - len(sizes))


def averaged(sizes: Sequence[int], ranks: Ranks, losses: Iterator[Tensor], parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    """
    Average each minibatch over ranks, every sample counting once: losses and gradients in one reduction.

    :param sizes: of this rank's minibatches, as many on each rank; 0: it has no samples for that one
    :param ranks: the processes
    :param losses: of this rank's minibatches; with each its gradient stands in the parameters' ``grad``
    :param parameters: the critic's
    :yields: the loss of each minibatch of all ranks, its gradient in ``grad``
    """
    for size in sizes:
        loss = next(losses) if size > 0 else parameters[0].new_zeros(())
        gradients = [
            parameter.grad if size > 0 and parameter.grad is not None else torch.zeros_like(parameter)
            for parameter in parameters
        ]
        own = torch.cat([size * flatten(gradients), torch.stack([size * loss, loss.new_tensor(size)]).to(gradients[0])])
        total = ranks.reduce(own)
        count = total[-1]
        for parameter, mean in zip(parameters, unflatten(total[:-2] / count, parameters), strict=True):
            parameter.grad = mean.to(parameter.dtype)
        yield total[-2] / count
