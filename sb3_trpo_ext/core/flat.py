"""Parameters <-> one flat vector, and bit-exact snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = tuple[Tensor, ...]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """
    Concatenate tensors of one dtype into one vector.

    :param tensors: tensors of any shapes
    :return: vector of shape (n,), their dtype
    """
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> Parameters:
    """
    Cut a vector into tensors of given shapes, as views.

    :param vector: shape (n,), any dtype
    :param like: tensors whose shapes are taken, n elements in all
    :return: views into the vector, in the vector's dtype
    """
    pieces = vector.split([tensor.numel() for tensor in like])
    return tuple(piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True))


def as_deployed(vector: Tensor, parameters: Sequence[Tensor]) -> Parameters:
    """
    Round a float64 candidate to what the policy would really hold.

    :param vector: flat candidate, shape (n,), float64
    :param parameters: the policy's parameters, for shapes and dtypes
    :return: tensors in the parameters' dtypes, on the vector's device
    """
    return tuple(piece.to(parameter.dtype) for piece, parameter in zip(unflatten(vector, parameters), parameters, strict=True))


def assign(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """
    Copy values into parameters in place; nothing is rounded if the dtypes agree.

    :param parameters: tensors to overwrite
    :param values: tensors of the same shapes
    """
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """
    Look for NaN and infinity, with one read for all: on an accelerator each waits for it.

    :param tensors: tensors on any devices
    :return: whether there is none
    """
    verdicts = [torch.isfinite(tensor).all() for tensor in tensors]
    device = next((verdict.device for verdict in verdicts if verdict.device.type != "cpu"), None)
    return not verdicts or bool(torch.stack([verdict.to(device) for verdict in verdicts]).all())


@dataclass(frozen=True)
class Snapshot:
    """
    Copies of tensors, to be restored bit for bit.

    :param tensors: the live tensors
    :param copies: what they held when the snapshot was taken
    """

    tensors: Parameters
    copies: Parameters

    @classmethod
    def take(cls, tensors: Iterable[Tensor]) -> Snapshot:
        """
        Copy tensors.

        :param tensors: live tensors, any dtypes and devices
        :return: the snapshot
        """
        live = tuple(tensors)
        return cls(live, tuple(tensor.detach().clone() for tensor in live))

    def restore(self) -> None:
        """Write the copies back into the live tensors."""
        assign(self.tensors, self.copies)

    def changed(self) -> bool:
        """
        Compare.

        :return: whether a live tensor is not what it was; NaN counts as changed
        """
        return not all(torch.equal(now, before) for now, before in zip(self.tensors, self.copies, strict=True))


@contextmanager
def unchanged(tensors: Iterable[Tensor]) -> Iterator[None]:
    """
    Whatever the body writes into them, they are what they were: for buffers of modules that are only evaluated.

    :param tensors: live tensors
    :yields: nothing
    """
    snapshot = Snapshot.take(tensors)
    try:
        yield
    finally:
        snapshot.restore()
