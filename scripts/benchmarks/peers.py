"""The other PyTorch TRPOs: their own classes and their own update code, on the batch that the SB3 sides collected."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.cells import Batch, Cell, overwrite
from benchmarks.watch import Side, Unavailable, Watch

PEERS = ("tianshou", "skrl", "pfrl")


class PeerSide:
    """
    What the peers have in common.

    :param name: for the tables
    :param cell: what is measured
    :param batch: the data
    :param actor: its actor's parameters: log std, then weight and bias of each layer
    :param critic: its critic's parameters: weight and bias of each layer
    :param optimizer: the critic's
    :param validates: whether it leaves torch's checks of distributions on
    """

    def __init__(
        self,
        name: str,
        cell: Cell,
        batch: Batch,
        actor: tuple[nn.Parameter, ...],
        critic: tuple[nn.Parameter, ...],
        optimizer: torch.optim.Optimizer,
        validates: bool = True,
    ):
        self.name, self.cell, self.batch, self.validates = name, cell, batch, validates
        self.watch = Watch()
        self._actor, self._critic, self._optimizer = actor, critic, optimizer
        self.reset()

    def reset(self) -> None:
        """Everything as it was before the first update."""
        overwrite(self._actor, self.batch.actor)
        overwrite(self._critic, self.batch.critic)
        self._optimizer.state.clear()

    def actor(self) -> tuple[Tensor, ...]:
        """Parameters of the actor now."""
        return self._actor

    def critic(self) -> tuple[Tensor, ...]:
        """Parameters of the critic now."""
        return self._critic


def stack(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """
    Make SB3's default network: two hidden layers of 64, tanh.

    :param n_inputs: width of the input
    :param n_outputs: width of the output
    :return: the network
    """
    return nn.Sequential(nn.Linear(n_inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n_outputs))


def make_peer(name: str, cell: Cell, batch: Batch) -> Side:
    """
    Make a peer's side.

    :param name: one of ``PEERS``
    :param cell: what is measured
    :param batch: the data
    :return: the side
    :raises Unavailable: if it is not installed, or can't do this cell
    """
    if importlib.util.find_spec(name) is None:
        raise Unavailable("not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they use is old here and there
        module = importlib.import_module(f"benchmarks.{name}_side")
    # SB3 keeps MuJoCo's float64 and casts in every forward pass; the peers keep what their networks take.
    side: Side = module.make_side(cell, replace(batch, observations=batch.observations.float()))
    return side
