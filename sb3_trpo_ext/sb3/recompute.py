"""
Activation recomputation (Chen et al., "Training deep nets with sublinear memory cost", 2016): where one sample's graph alone
is too much, only the activations between segments of a stack of modules are kept, and the others made again on the way back.

It serves the reverse pass only, which keeps a graph: Jᵀu of a gradient and of a forward + reverse product. (A double vjp or a
double backward makes all of them again at once, and saves nothing: measured in docs/large.md.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
    layers = list(module)
    size = math.ceil(math.sqrt(len(layers)))
    for first in range(0, len(layers), size):
        segment = nn.Sequential(*layers[first : first + size])
        # As they are now: by the time that they are needed again, ``functional_call`` has put the policy's own back.
        tensors = dict(chain(segment.named_parameters(remove_duplicate=False), segment.named_buffers(remove_duplicate=False)))
        run = partial(torch.func.functional_call, segment, tensors, tie_weights=False)
        value = checkpoint(run, value, use_reentrant=False, context_fn=lambda: (nullcontext(), evaluating()))
    return value
