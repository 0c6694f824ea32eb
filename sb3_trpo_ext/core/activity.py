"""
Which units of a network still do something: activity layer by layer, from one forward pass.

A unit is inactive if the slope of its activation is next to nothing for every sample (in a convolution, whose units are its
channels, also at every place): on these data nothing is learnt through it. Where the activation rises without bound, as the
ReLU family does, such a unit is called dead; where it is bounded, as tanh and sigmoid are, saturated.

What can be told:

- Activation modules, torch's and anybody's, by the slope of what they compute elementwise.
- Functional activations, where a layer's outputs become the next layer's inputs by one of ``FUNCTIONS``.

What can't: a functional activation that is none of them, with something in between that changes the number of entries
(pooling), or behind the last layer; what happens inside recurrent and attention modules. Such layers are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sb3_trpo_ext.core.layers import activation_of

Function = Callable[[Tensor], Tensor]

SLOPE_FLOOR = 5e-3
"""A slope below it is none: half of LeakyReLU's 0.01 below zero, which is meant to keep a unit alive."""

FAR = 20.0
"""So far right, the slope of the ReLU family is 1, and that of bounded activations 0."""

PLACES = (-FAR, -1.0, 0.5, 2.0, FAR)
"""A function with the same slope at all of them is taken for linear."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)

NOT_ELEMENTWISE = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.GLU)
"""Torch's own that are no function of one entry."""

FUNCTIONS: tuple[Function, ...] = (
    F.relu,
    torch.tanh,
    torch.sigmoid,
    F.elu,
    F.leaky_relu,
    F.gelu,
    F.silu,
    F.softplus,
    F.selu,
    F.relu6,
    F.mish,
)
"""Functional activations that are recognised, with torch's default arguments."""


@dataclass(frozen=True)
class LayerActivity:
    """
    One activation.

    :param name: of its module, or of the layer that its function follows
    :param units: how many (of a convolution: channels)
    :param inactive: share of the units whose slope is below ``SLOPE_FLOOR`` for every sample, in [0, 1]
    :param rectifier: whether it rises without bound: inactive units are dead then, else saturated
    """

    name: str
    units: int
    inactive: float
    rectifier: bool

    @property
    def dead(self) -> float:
        """Share of dead units."""
        return self.inactive if self.rectifier else 0.0

    @property
    def saturated(self) -> float:
        """Share of saturated units."""
        return 0.0 if self.rectifier else self.inactive


@dataclass(frozen=True)
class _Seen:
    """What went into an activation module or a layer, or came out of a layer."""

    name: str
    module: nn.Module
    values: Tensor
    is_output: bool

    @property
    def is_layer(self) -> bool:
        return isinstance(self.module, LAYERS)


def layer_activity(modules: Iterable[tuple[str, nn.Module]], forward: Callable[[], object]) -> tuple[LayerActivity, ...]:
    """
    Measure the activity of every activation that a forward pass runs through.

    :param modules: names and modules, as ``nn.Module.named_modules`` gives them; in eval mode
    :param forward: one forward pass over some samples
    :return: one record an activation, in the order of execution
    """
    seen: list[_Seen] = []
    with ExitStack() as stack, torch.no_grad():
        for name, module in modules:
            if isinstance(module, LAYERS):
                stack.callback(module.register_forward_hook(partial(_after, seen, name)).remove)
            if isinstance(module, LAYERS) or _may_be_activation(module):
                stack.callback(module.register_forward_pre_hook(partial(_before, seen, name)).remove)
        forward()
    found: list[LayerActivity] = []
    layer: nn.Module | None = None
    for now, then in zip(seen, chain(seen[1:], [None]), strict=False):
        layer = now.module if now.is_layer else layer
        # Before the first layer there are observations, and no units.
        function = None if layer is None else _function(now, then)
        if function is not None:
            found.append(_measure(now, function, isinstance(layer, CONVOLUTIONS)))
    return tuple(found)


def evenly(n_samples: int, at_most: int) -> Tensor:
    """
    Choose samples that are spread evenly over a batch.

    :param n_samples: size of the batch, >= 1
    :param at_most: largest number of samples, >= 1
    :return: indices, shape (min(n_samples, at_most),), int64, rising
    """
    kept = min(n_samples, at_most)
    return torch.arange(kept) * n_samples // kept


def _may_be_activation(module: nn.Module) -> bool:
    """Torch's own, or anybody's module without parameters and buffers; none that consists of others."""
    if next(module.children(), None) is not None:
        return False
    if _is_torchs_activation(module):
        return True
    return not module._parameters and not module._buffers and not type(module).__module__.startswith("torch.")


def _is_torchs_activation(module: nn.Module) -> bool:
    return type(module).__module__ == nn.ReLU.__module__


def _before(seen: list[_Seen], name: str, module: nn.Module, args: tuple[object, ...]) -> None:
    if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and args[0].ndim > 1:
        # A copy: activations may overwrite what they are given.
        seen.append(_Seen(name, module, args[0].clone(), is_output=False))


def _after(seen: list[_Seen], name: str, module: nn.Module, _: object, output: Tensor) -> None:
    if output.ndim > 1:
        seen.append(_Seen(name, module, output.clone(), is_output=True))


def _function(now: _Seen, then: _Seen | None) -> Function | None:
    """The activation that the recorded values went through; None if there is none, or it can't be told."""
    if not now.is_layer:
        return now.module if _elementwise(now.module, now.values) else None
    if not now.is_output or then is None or not then.is_layer or then.is_output or len(then.values) != len(now.values):
        return None
    if then.values.numel() != now.values.numel() or then.values.dtype is not now.values.dtype:
        return None
    received = then.values.reshape(now.values.shape)
    if torch.equal(received, now.values):
        return None
    return next((known for known in FUNCTIONS if torch.allclose(known(now.values), received, rtol=1e-5, atol=1e-6)), None)


@torch.no_grad()
def _elementwise(module: nn.Module, values: Tensor) -> bool:
    """Whether a module treats each entry by itself (softmax does not) and is no linear function, such as a change of scale."""
    if _is_torchs_activation(module):
        return not isinstance(module, NOT_ELEMENTWISE)
    # One sample tells.
    values = values[:1]
    result = module(values.clone())
    if not isinstance(result, Tensor) or result.shape != values.shape:
        return False
    if not torch.allclose(module(values[:, :1].clone()), result[:, :1], rtol=1e-5, atol=1e-6):
        return False
    slopes = torch.stack([_slopes(module, torch.full_like(values, place)) for place in PLACES])
    return bool((slopes != slopes[0]).any())


def _measure(seen: _Seen, function: Function, convolution: bool) -> LayerActivity:
    values = seen.values
    # One more sample, far to the right, tells what kind it is.
    slopes = _slopes(function, torch.cat([values, torch.full_like(values[:1], FAR)])).abs()
    units = 1 if values.ndim == 2 or convolution else values.ndim - 1
    steepest = slopes[:-1].amax(dim=[dim for dim in range(values.ndim) if dim != units])
    inactive, at_right = torch.stack([(steepest < SLOPE_FLOOR).double().mean(), slopes[-1].double().mean()]).tolist()
    return LayerActivity(seen.name, len(steepest), inactive, at_right > SLOPE_FLOOR)


def _slopes(function: Function, values: Tensor) -> Tensor:
    closed_form = activation_of(function) if isinstance(function, nn.Module) else None
    if closed_form is not None:
        return closed_form.slope(closed_form.apply(values.clone())).expand_as(values)
    with torch.enable_grad():
        inputs = values.detach().requires_grad_()
        # A copy: an activation that works in place may not overwrite a leaf.
        total = function(inputs.clone()).sum()
    (slopes,) = torch.autograd.grad(total, inputs)
    return slopes
