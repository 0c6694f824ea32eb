"""
An ActorCriticPolicy seen as a function (theta, samples) -> distribution parameters phi, in any precision.

The policy's own code runs, with other tensors in place of its parameters (``torch.func.functional_call``), and with copies
of its buffers, fresh for each evaluation: the policy stays as it was, whatever its modules write into them. For float64:

1. Observations still go through SB3's float32 preprocessing; the first module that holds parameters casts up. So the
   float64 actor sees exactly what the policy sees.
2. Attention is evaluated by its plain formula: fused kernels can't be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.reduce import Rows
from sb3_trpo_ext.sb3.problem.action_distributions import DistributionParameters
from sb3_trpo_ext.sb3.problem.recompute import recomputing

REPEATS = 1e-5
"""Two evaluations of the same samples agree to this: some CUDA kernels add in another order each time."""


def refuse_scripted_modules(policy: ActorCriticPolicy) -> None:
    """
    Raise if a policy holds TorchScript modules: other tensors can't be put in place of their parameters.

    :param policy: the policy
    :raises TypeError: naming the module
    """
    for name, module in policy.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"TRPO: the policy's module {name!r} is TorchScript, which has no float64 twin: use plain nn.Module"
            )


def leaves_of(output: Tensor) -> set[int]:
    """
    Find the leaf tensors that an output is connected to in autograd's graph, whatever their gradients are.

    :param output: any tensor
    :return: ``id`` of each leaf that requires a gradient
    """
    found: set[int] = set()
    seen: set[Any] = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        pending.extend(parent for parent, _ in node.next_functions)
    return found


class PolicyFunction:
    """
    The actor of a policy as a function of its parameters.

    :param policy: the policy, in eval mode; it is never changed
    :param observations: the batch, on the policy's device, as SB3's buffer gives it
    :param device: where theta and the results live; the policy's own, unless that has no float64
    """

    def __init__(self, policy: ActorCriticPolicy, observations: PyTorchObs, device: torch.device):
        self.policy = policy
        self.observations = observations
        self.device = device
        self.parameters: tuple[nn.Parameter, ...] = ()
        self.modules: tuple[nn.Module, ...] = ()
        self.recomputes = False  # activations between segments alone are kept: slower, for want of memory
        self._module = DistributionParameters(policy)
        self._places = _places(self._module)
        self._buffers = {id(buffer) for buffer in policy.buffers()}
        self._others: dict[torch.dtype, dict[str, Tensor]] = {}
        self._moved_observations = map_tensors(lambda tensor: tensor.to(device), observations)

    def own(self, chunks: Sequence[slice]) -> Tensor:
        """
        Evaluate the batch as the policy itself would, and learn what the actor consists of.

        Actor parameters are those *connected* to phi: the KL's gradient is zero at theta_k, and names say nothing.

        :param chunks: samples that are evaluated together
        :return: phi in the policy's own dtype, shape (n_samples, n_parameters), on the computing device, detached
        """
        executed: list[nn.Module] = []
        connected: set[int] = set()
        parts = []
        with ExitStack() as stack, torch.enable_grad():
            for module in self.policy.modules():
                handle = module.register_forward_hook(lambda module, *_: executed.append(module))
                stack.callback(handle.remove)
            for rows in chunks:
                phi = self.own_forward(rows)
                connected |= leaves_of(phi)
                parts.append(phi.detach().to(self.device))
        self.parameters = tuple(p for p in self._module.parameters() if id(p) in connected)
        self.modules = tuple(dict.fromkeys(executed))
        return torch.cat(parts)

    def own_forward(self, rows: slice) -> Tensor:
        """
        Evaluate some samples as the policy itself would.

        :param rows: which samples
        :return: phi in the policy's own dtype, with its graph if gradients are on
        """
        observations = map_tensors(lambda tensor: tensor[rows], self.observations)
        if not self._buffers:
            phi: Tensor = self._module(observations)
            return phi
        copies = self._fresh({place: tensor for place, tensor in self._places.items() if id(tensor) in self._buffers})
        phi = torch.func.functional_call(self._module, copies, (observations,), tie_weights=False)
        return phi

    def own_phi(self, chunks: Sequence[slice]) -> Tensor:
        """
        Evaluate the batch as the policy itself would.

        :param chunks: samples that are evaluated together
        :return: phi in the policy's own dtype, shape (n_samples, n_parameters), on the computing device, without a graph
        """
        with torch.no_grad():
            return torch.cat([self.own_forward(rows) for rows in chunks]).to(self.device)

    def repeats(self, rows: slice) -> bool:
        """
        Find out whether the policy is a function of the observations at all: not with dropout that ignores eval mode.

        :param rows: samples to try
        :return: whether two evaluations agree up to rounding
        """
        with torch.no_grad():
            return torch.allclose(self.own_forward(rows), self.own_forward(rows), rtol=REPEATS, atol=REPEATS, equal_nan=True)

    def runs_in(self, dtype: torch.dtype) -> bool:
        """
        Find out whether the policy's modules can be evaluated in a precision, on two samples.

        :param dtype: precision
        :return: whether they can
        """
        try:
            with torch.no_grad():
                return self(self.theta(dtype), slice(0, 2)).dtype is dtype
        except (RuntimeError, TypeError, ValueError):
            return False

    def theta(self, dtype: torch.dtype) -> Parameters:
        """
        Copy the actor's parameters.

        :param dtype: precision
        :return: copies on the computing device
        """
        # Moved before it is cast: the policy's device may have no float64.
        return tuple(parameter.detach().to(self.device).to(dtype, copy=True) for parameter in self.parameters)

    def __call__(self, theta: Parameters, rows: Rows) -> Tensor:
        """
        Evaluate the actor.

        :param theta: its parameters, all of one dtype
        :param rows: which samples
        :return: phi, shape (n_rows, n_parameters), dtype of theta
        """
        dtype = theta[0].dtype
        replaced = {id(parameter): tensor for parameter, tensor in zip(self.parameters, theta, strict=True)}
        others = self._others_in(dtype)
        buffers = {place: others[place] for place, tensor in self._places.items() if id(tensor) in self._buffers}
        tensors = {place: replaced.get(id(tensor), others.get(place, tensor)) for place, tensor in self._places.items()}
        tensors |= self._fresh(buffers)
        evaluating = partial(_evaluating, self.policy, dtype)
        with ExitStack() as stack:
            stack.enter_context(evaluating())
            if self.recomputes and torch.is_grad_enabled():
                stack.enter_context(recomputing(self.policy, evaluating))
            phi: Tensor = torch.func.functional_call(self._module, tensors, (self.observed(rows),), tie_weights=False)
        return phi

    @staticmethod
    def _fresh(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies for one evaluation: a module that writes into its buffers in eval mode, too, shall change nothing by it."""
        copies = {id(buffer): buffer.clone() for buffer in buffers.values()}
        return {place: copies[id(buffer)] for place, buffer in buffers.items()}

    def observed(self, rows: Rows) -> PyTorchObs:
        """
        Give some of the observations.

        :param rows: which samples
        :return: as SB3's buffer gives them, on the computing device
        """
        observations: PyTorchObs = map_tensors(lambda tensor: tensor[rows], self._moved_observations)
        return observations

    def _others_in(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Everything that is not the actor's, in a precision: frozen parameters and buffers."""
        if dtype not in self._others:
            of_actor = {id(parameter) for parameter in self.parameters}
            self._others[dtype] = {
                place: tensor.detach().to(self.device).to(dtype if tensor.is_floating_point() else tensor.dtype)
                for place, tensor in self._places.items()
                if id(tensor) not in of_actor
            }
        return self._others[dtype]


def _places(root: nn.Module) -> dict[str, Tensor]:
    """
    Every place that holds a parameter or buffer, a module once: SB3's shared extractors are one module under three names.

    (``functional_call`` would swap such a module three times, and put its own tensors back as the originals.) A parameter
    that two modules share has two places.
    """
    places: dict[str, Tensor] = {}
    for path, module in root.named_modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    places[f"{path}.{name}" if path else name] = tensor
    return places


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """
    Apply a function to every tensor in nested dicts, lists and tuples.

    :param function: tensor -> tensor
    :param tree: tensors in containers; anything else is passed through
    :return: the same containers around the results
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


@contextmanager
def _evaluating(policy: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While active, the policy's modules run in the dtype, and can be differentiated twice."""
    with _casting_inputs(policy, dtype), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _casting_inputs(policy: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While active, modules that hold parameters or buffers cast floating inputs to the dtype (hooks of this policy only)."""

    def cast(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, (args, kwargs))

    with ExitStack() as stack:
        for module in policy.modules():
            if module is not policy and (module._parameters or module._buffers):
                stack.callback(module.register_forward_pre_hook(cast, with_kwargs=True).remove)
        yield
