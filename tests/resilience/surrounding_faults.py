"""Faults of what surrounds an update: exceptions in the middle, and modes of torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tests.resilience import networks
from tests.resilience.faults import Interrupted, OutOfMemory, around, before, group, throughout

group("Exceptions in the middle")


@contextmanager
def _in_forward(model: Any, number: int, error: BaseException) -> Iterator[None]:
    calls: list[None] = []

    def raising(*_: Any) -> None:
        calls.append(None)
        if len(calls) == number:
            raise error

    handle = model.policy.action_net.register_forward_hook(raising)
    try:
        yield
    finally:
        handle.remove()


@around("out of memory", theirs=OutOfMemory)
def out_of_memory_at_the_first_forward_pass(model: Any) -> Any:
    """The first forward pass of the update runs out of memory."""
    return _in_forward(model, 1, OutOfMemory("out of memory"))


@around("out of memory", theirs=OutOfMemory)
def out_of_memory_in_the_line_search(model: Any) -> Any:
    """A later forward pass of the actor runs out of memory."""
    return _in_forward(model, 3, OutOfMemory("out of memory"))


@around("Interrupted", theirs=Interrupted)
def interrupted_in_the_line_search(model: Any) -> Any:
    """Ctrl-C while candidates are judged."""
    return _in_forward(model, 3, Interrupted())


@contextmanager
def _in_value_net(model: Any) -> Iterator[None]:
    calls: list[None] = []

    def raising(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 4:
            raise Interrupted

    handle = model.policy.value_net.register_forward_hook(raising)
    try:
        yield
    finally:
        handle.remove()


@around("Interrupted", theirs=Interrupted)
def interrupted_in_a_critic_epoch(model: Any) -> Any:
    """Ctrl-C in the middle of the critic's epochs."""
    return _in_value_net(model)


class _Interrupting(torch.autograd.Function):
    countdown = -1

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        _Interrupting.countdown -= 1
        if _Interrupting.countdown == 0:
            raise Interrupted
        return grad.clone()


class InterruptedBackward(networks.Plain):
    """Raises at some backward pass."""

    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return _Interrupting.apply(hidden)


@contextmanager
def _countdown(number: int) -> Iterator[None]:
    _Interrupting.countdown = number
    try:
        yield
    finally:
        _Interrupting.countdown = -1


@around("Interrupted|accepted", theirs=Interrupted, extractor=InterruptedBackward)
def interrupted_in_conjugate_gradient(model: Any) -> Any:
    """Ctrl-C in a Fisher product."""
    return _countdown(6)


@around("Bug", theirs=ZeroDivisionError)
@contextmanager
def logger_raises(model: Any) -> Iterator[None]:
    """The logger raises after everything has been computed."""
    honest = model.logger.record

    def record(key: str, *args: Any, **kwargs: Any) -> None:
        if key == "train/explained_variance":
            raise ZeroDivisionError("Bug")
        honest(key, *args, **kwargs)

    model.logger.record = record
    try:
        yield
    finally:
        del model.logger.record


group("Modes of torch")


@throughout()
def deterministic_algorithms(model: Any) -> Any:
    """torch.use_deterministic_algorithms."""
    return _switched(torch.use_deterministic_algorithms, True, False)


@contextmanager
def _switched(switch: Any, on: Any, off: Any) -> Iterator[None]:
    switch(on)
    try:
        yield
    finally:
        switch(off)


@throughout()
def default_dtype_float64(model: Any) -> Any:
    """torch.set_default_dtype(float64), after the model was made."""
    return _switched(torch.set_default_dtype, torch.float64, torch.float32)


@throughout("accepted|StaleBatchError: |too deterministic")
def autocast_to_bfloat16(model: Any) -> Any:
    """Everything under torch.autocast."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


@throughout()
def without_gradients(model: Any) -> Any:
    """Everything under torch.no_grad."""
    return torch.no_grad()


@throughout()
def in_inference_mode(model: Any) -> Any:
    """Everything under torch.inference_mode."""
    return torch.inference_mode()


@throughout()
def anomaly_mode(model: Any) -> Any:
    """torch.autograd.detect_anomaly."""
    return torch.autograd.set_detect_anomaly(True)


def _to_dtype(model: Any, dtype: torch.dtype) -> None:
    model.policy.to(dtype)
    nn.Module.to(model.policy, dtype)


@before("accepted|StaleBatchError|line_search", extractor=networks.Plain)
def policy_in_float64(model: Any) -> None:
    """The policy's parameters are float64."""
    _to_dtype(model, torch.float64)


@before("accepted|StaleBatchError|line_search", extractor=networks.Plain)
def policy_in_float16(model: Any) -> None:
    """The policy's parameters are float16."""
    _to_dtype(model, torch.float16)
