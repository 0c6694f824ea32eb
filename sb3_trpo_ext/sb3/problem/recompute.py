"""
Activation recomputation (Chen et al., "Training deep nets with sublinear memory cost", 2016): where one sample's graph alone
is too much, only the activations between segments of a stack of modules are kept, and the others made again on the way back.

It serves the reverse pass only, which keeps a graph: Jᵀu of a gradient and of a forward + reverse product. (A double vjp or a
double backward makes all of them again at once, and saves little where chunks are large: measured in docs/large.md.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Evaluating = Callable[[], AbstractContextManager[None]]
"""What must be active while modules run: also while they run again, later."""


@contextmanager
def recomputing(root: nn.Module, evaluating: Evaluating) -> Iterator[None]:
    """
    While active, every outermost ``nn.Sequential`` runs in about sqrt(n) segments, whose insides keep nothing.

    :param root: modules whose parameters may have been swapped: with those that they have now they also run again
    :param evaluating: entered again for that
    :yields: nothing
    """
    with ExitStack() as stack:
        for module in _stacks(root):
            vars(module)["forward"] = partial(_in_segments, module, evaluating)
            stack.callback(vars(module).pop, "forward")
        yield


def _stacks(module: nn.Module) -> Iterator[nn.Sequential]:
    """Outermost stacks of more than one module, none of which has a forward of its own."""
    if type(module) is nn.Sequential and len(module) > 1 and "forward" not in vars(module):
        yield module
        return
    for child in module.children():
        yield from _stacks(child)


def _in_segments(module: nn.Sequential, evaluating: Evaluating, value: Tensor) -> Tensor:
    for segment in _segments(list(module)):
        # As they are now: by the time that they are needed again, ``functional_call`` has put the policy's own back.
        tensors = dict(chain(segment.named_parameters(remove_duplicate=False), segment.named_buffers(remove_duplicate=False)))
        run = partial(_evaluated, segment, tensors, evaluating)
        value = run(value) if _overwrites(segment[0]) else checkpoint(run, value, use_reentrant=False)
    return value


def _evaluated(segment: nn.Sequential, tensors: dict[str, Tensor], evaluating: Evaluating, value: Tensor) -> Tensor:
    with evaluating():
        result: Tensor = torch.func.functional_call(segment, tensors, (value,), tie_weights=False)
    return result


def _segments(layers: list[nn.Module]) -> list[nn.Sequential]:
    """None but the first begins with a layer that overwrites its input: what a segment begins with is kept."""
    size = math.ceil(math.sqrt(len(layers)))
    parts: list[list[nn.Module]] = []
    for layer in layers:
        if not parts or (len(parts[-1]) >= size and not _overwrites(layer)):
            parts.append([])
        parts[-1].append(layer)
    return [nn.Sequential(*part) for part in parts]


def _overwrites(layer: nn.Module) -> bool:
    return bool(getattr(layer, "inplace", False))
