"""Faults of the critic, the settings, and what surrounds an update."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tests.resilience import networks
from tests.resilience.faults import Interrupted, OutOfMemory, around, before, between, group, throughout

NAN, INF = float("nan"), float("inf")


@torch.no_grad()
def fill_critic(model: Any, value: float) -> None:
    model.policy.value_net.weight[0, 0] = value


group("Critic and optimiser")


@between("NonFiniteError: .*'value_net.weight'")
def nan_weight_of_the_critic(model: Any) -> None:
    """A weight of the critic is NaN."""
    fill_critic(model, NAN)


@before("NonFiniteError: |critic ")
def critic_of_1e30(model: Any) -> None:
    """A weight of the critic is 1e30: values beyond what can be squared."""
    fill_critic(model, 1e30)


@between("critic non_finite|NonFiniteError")
def critic_that_overflows(model: Any) -> None:
    """Two layers of the critic of the size of 1e25: its values are infinite."""
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if "value" in name and parameter.ndim == 2:
                parameter.mul_(1e25)


@between("critic non_finite", n_critic_updates=1, batch_size=1)
def return_of_1e19(model: Any) -> None:
    """A return whose square float32 holds, and whose gradient squared it does not: Adam's second moment is infinite."""
    model.rollout_buffer.returns[9, 1] = 1.2e19
    with torch.no_grad():
        model.policy.value_net.weight.mul_(1e3)


@between("critic non_finite")
def learning_rate_of_1e30(model: Any) -> None:
    """The learning rate explodes."""
    model.lr_schedule = lambda _: 1e30


@between("TRPO: .*learning_rate")
def learning_rate_nan(model: Any) -> None:
    """The schedule of the learning rate gives NaN."""
    model.lr_schedule = lambda _: NAN


@between("TRPO: .*learning_rate")
def learning_rate_negative(model: Any) -> None:
    """The schedule of the learning rate gives -0.1."""
    model.lr_schedule = lambda _: -0.1


@between("Bug", theirs=ZeroDivisionError)
def learning_rate_raises(model: Any) -> None:
    """The schedule of the learning rate raises."""

    def schedule(_: float) -> float:
        raise ZeroDivisionError("Bug")

    model.lr_schedule = schedule


def _moments(model: Any, value: float) -> None:
    optimizer = model.policy.optimizer
    critic = [p for name, p in model.policy.named_parameters() if "value" in name and p in optimizer.state]
    for parameter in critic[:1]:
        for name, tensor in optimizer.state[parameter].items():
            if name.startswith(("exp_avg", "momentum")):
                tensor.view(-1)[0] = value


@between("NonFiniteError: .*optimi[sz]er")
def nan_moments(model: Any) -> None:
    """Adam's moments of the critic hold a NaN."""
    _moments(model, NAN)


@between("NonFiniteError: .*optimi[sz]er")
def infinite_moments(model: Any) -> None:
    """Adam's moments of the critic are infinite: it would stand still for ever, and nothing would be seen of it."""
    _moments(model, INF)


@between(policy_kwargs={"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 0.1}})
def gradients_left_over(model: Any) -> None:
    """Somebody has left gradients behind, and the optimiser has momentum and weight decay."""
    for parameter in model.policy.parameters():
        parameter.grad = torch.ones_like(parameter)


class MovesEverything(torch.optim.Adam):
    """Moves every parameter, whether it has a gradient or not."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for parameter_group in self.param_groups:
            for parameter in parameter_group["params"]:
                parameter.add_(0.1)


@between(policy_kwargs={"optimizer_class": MovesEverything})
def optimiser_that_moves_everything(model: Any) -> None:
    """An optimiser that moves parameters without gradients, the actor's too."""


@between("Bug", theirs=ZeroDivisionError)
def optimiser_raises(model: Any) -> None:
    """The optimiser raises at its second step."""
    _at_call(model.policy.optimizer, "step", 2, ZeroDivisionError("Bug"))


@between(n_critic_updates=0)
def no_critic_epochs(model: Any) -> None:
    """n_critic_updates=0."""


group("Settings that a callback changes")


@between("TRPO: target_kl=nan is impossible")
def target_kl_nan(model: Any) -> None:
    """A schedule of the KL gives NaN."""
    model.target_kl = NAN


@between("TRPO: target_kl=-0.01 is impossible")
def target_kl_negative(model: Any) -> None:
    """A schedule of the KL goes below zero."""
    model.target_kl = -0.01


@between("TRPO: cg_damping=nan is impossible")
def damping_nan(model: Any) -> None:
    """The damping becomes NaN."""
    model.cg_damping = NAN


@between("TRPO: cg_damping=-10.0 is impossible")
def damping_negative(model: Any) -> None:
    """The damping becomes negative."""
    model.cg_damping = -10.0


@between("TRPO: cg_max_steps=0 is impossible")
def no_cg_steps(model: Any) -> None:
    """cg_max_steps=0."""
    model.cg_max_steps = 0


@between("TRPO: line_search_max_iter=0 is impossible")
def no_candidates(model: Any) -> None:
    """line_search_max_iter=0."""
    model.line_search_max_iter = 0


@between()
def target_kl_on_a_schedule(model: Any) -> None:
    """The KL's bound is lowered between updates, soundly."""
    model.target_kl = 1e-4


@between(line_search_max_iter=1)
def target_kl_that_no_step_keeps(model: Any) -> None:
    """A bound so wide that the quadratic model fails, and one candidate."""
    model.target_kl = 50.0


group("Exceptions in the middle")


def _at_call(owner: Any, name: str, number: int, error: BaseException) -> None:
    honest, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            raise error
        return honest(*args, **kwargs)

    setattr(owner, name, counted)


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
