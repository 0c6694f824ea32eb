"""Statistics of values and returns in float64, over all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_trpo_ext.core.reduce import Reducer, single_process


def computing_device(device: torch.device) -> torch.device:
    """
    Choose where the policy step runs.

    :param device: the policy's
    :return: the same, or the CPU where it has no float64 (Apple's mps)
    """
    return torch.device("cpu") if device.type == "mps" else device


def explained_variance(values: Tensor, returns: Tensor, reducer: Reducer = single_process) -> float | None:
    """
    Share of the returns' variance that values explain: 1 - Var(returns - values) / Var(returns).

    :param values: predicted, shape (n,)
    :param returns: targets, shape (n,)
    :param reducer: combines those of all processes
    :return: at most 1; None if the returns don't vary
    """
    values, returns = in_float64(values), in_float64(returns)
    if not reducer.alone:
        return _explained_everywhere(values, returns, reducer)
    variance = float(returns.var(correction=0))
    if variance == 0.0:
        return None
    return 1.0 - float((returns - values).var(correction=0)) / variance


def _explained_everywhere(values: Tensor, returns: Tensor, reducer: Reducer) -> float | None:
    """The same over processes, around one of the returns: constant ones give exactly 0."""
    some = reducer(returns[:1], "max")
    both = torch.stack([returns - some, returns - values])
    *sums, count = reducer(torch.cat([both.sum(dim=1), both.new_tensor([len(returns)])])).tolist()
    centres = both.new_tensor(sums).unsqueeze(-1) / count
    variance, unexplained = reducer((both - centres).square().sum(dim=1)).tolist()
    return None if variance == 0.0 else 1.0 - unexplained / variance


def mean_squared_error(values: Tensor, returns: Tensor, reducer: Reducer = single_process) -> float:
    """
    Mean over the samples of all processes of (returns - values)^2.

    :param values: predicted, shape (n,)
    :param returns: targets, shape (n,)
    :param reducer: combines those of all processes
    :return: the mean, in float64
    """
    errors = (in_float64(returns) - in_float64(values)).square()
    if reducer.alone:
        return float(errors.mean())
    total, count = reducer(torch.stack([errors.sum(), errors.new_tensor(len(errors))])).tolist()
    return float(total / count)


def in_float64(tensor: Tensor) -> Tensor:
    """
    Cast to float64, on a device that has it: moved before it is cast.

    :param tensor: any tensor
    :return: the same numbers
    """
    return tensor.to(computing_device(tensor.device)).double()
