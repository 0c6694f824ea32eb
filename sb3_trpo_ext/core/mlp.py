"""
A stack of Linear layers and elementwise activations in closed form: values, J v and Jᵀ u without autograd.

With a_0 the inputs and a_l = s_l(z_l), z_l = W_l a_{l-1} + b_l:

    J v:   dz_l = W_l da_{l-1} + dW_l a_{l-1} + db_l,   da_l = s_l'(z_l) * dz_l   (R-operator: Pearlmutter, "Fast exact
                                                                                  multiplication by the Hessian", 1994)
    Jᵀ u:  backpropagation of u

What autograd adds to these matrix products, graphs and temporaries, costs as much as they do. Here values and slopes are kept
from one forward pass, samples go through both passes in blocks that stay in the processor's cache, and every product
writes into the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sb3_trpo_ext.core.flat import Parameters, unflatten
from sb3_trpo_ext.core.reduce import Rows, chunked

BLOCK = 1024
"""Samples that go through both passes together: 64 wide, a layer is half a MiB in float64."""


@dataclass(frozen=True)
class Activation:
    """
    An elementwise function whose slope follows from its value.

    :param apply: z -> s(z), in place
    :param slope: s(z) -> s'(z)
    """

    apply: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """
    One Linear layer and what follows it.

    :param weight: place of its weight, shape (n_out, n_in), in theta
    :param bias: place of its bias, shape (n_out,), in theta; None without one
    :param activation: None: the identity
    """

    weight: int
    bias: int | None
    activation: Activation | None


def activation_of(module: nn.Module) -> Activation | None:
    """
    Find the closed form of an activation module.

    :param module: any module
    :return: the activation; None if it has no closed form here
    """
    if type(module) is nn.Tanh:
        return Activation(torch.tanh_, lambda a: torch.addcmul(a.new_ones(()), a, a, value=-1.0))
    if type(module) is nn.ReLU:
        return Activation(torch.relu_, lambda a: (a > 0.0).to(a.dtype))
    if type(module) is nn.Sigmoid:
        return Activation(torch.sigmoid_, lambda a: torch.addcmul(a, a, a, value=-1.0))
    if type(module) is nn.ELU and module.alpha >= 0.0:
        alpha = module.alpha
        return Activation(lambda z: F.elu_(z, alpha), lambda a: torch.where(a > 0.0, 1.0, a + alpha))
    if type(module) is nn.LeakyReLU and module.negative_slope >= 0.0:
        below = module.negative_slope
        return Activation(lambda z: F.leaky_relu_(z, below), lambda a: torch.where(a > 0.0, a.new_ones(()), below))
    return None


def read_layers(modules: Iterable[nn.Module], places: Mapping[int, int]) -> tuple[Layer, ...] | None:
    """
    Read modules that run one after another as a stack of layers.

    :param modules: in order
    :param places: ``id`` of a parameter -> its place in theta
    :return: the layers; None if the modules are anything else, or a parameter has no place
    """
    layers: list[Layer] = []
    for module in modules:
        if not runs_as_written(module):
            return None
        if type(module) is nn.Linear:
            held = [tensor for tensor in (module.weight, module.bias) if tensor is not None]
            if any(id(tensor) not in places for tensor in held):
                return None
            weight, *bias = (places[id(tensor)] for tensor in held)
            layers.append(Layer(weight, bias[0] if bias else None, None))
        elif type(module) is not nn.Identity:
            activation = activation_of(module)
            if activation is None or not layers or layers[-1].activation is not None:
                return None
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, activation)
    return tuple(layers) or None


def runs_as_written(module: nn.Module) -> bool:
    """
    Make sure that no hook and no other forward stands between a module's inputs and its outputs.

    :param module: any module
    :return: whether its class alone says what it computes
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


@dataclass(frozen=True)
class MLPActor:
    """
    An actor that is a stack of layers.

    :param layers: their last output is (the first part of) phi
    :param free: place in theta of phi's last columns, the same for all samples (a Gaussian's log std); None without
    :param inputs: rows -> what the first layer sees, shape (n_rows, n_in), any floating dtype
    """

    layers: tuple[Layer, ...]
    free: int | None
    inputs: Callable[[Rows], Tensor]

    def linearise(self, theta: Parameters, rows: Rows) -> LinearisedMLP:
        """
        Linearise around theta.

        :param theta: its parameters, all of one dtype
        :param rows: which samples
        :return: phi, J and Jᵀ on these samples, in theta's dtype
        """
        return LinearisedMLP(self, theta, self.inputs(rows).to(theta[0]))


class LinearisedMLP:
    """
    phi(theta + v) = phi + J v on some samples.

    :param actor: the stack
    :param theta: where it is linearised
    :param inputs: shape (n_samples, n_in), theta's dtype
    """

    def __init__(self, actor: MLPActor, theta: Parameters, inputs: Tensor):
        self.layers = actor.layers
        self.free = actor.free
        self.theta = theta
        self.values = [inputs]
        self.slopes: list[Tensor | None] = []
        for layer in self.layers:
            bias = None if layer.bias is None else theta[layer.bias]
            value = F.linear(self.values[-1], theta[layer.weight], bias)
            if layer.activation is not None:
                value = layer.activation.apply(value)
            self.values.append(value)
            self.slopes.append(None if layer.activation is None else layer.activation.slope(value))
        self.blocks = chunked(len(inputs), BLOCK)
        size = self.blocks[0].stop
        self._buffers = [value.new_empty((size, value.shape[1])) for value in self.values[1:]]

    @property
    def phi(self) -> Tensor:
        """Distribution parameters at theta, shape (n_samples, n_parameters)."""
        if self.free is None:
            return self.values[-1]
        return torch.cat([self.values[-1], self.theta[self.free].expand(len(self.values[-1]), -1)], dim=-1)

    def push(self, tangent: Parameters, block: slice) -> Tensor:
        """
        J v.

        :param tangent: v, in theta's shapes and dtype
        :param block: one of ``blocks``
        :return: shape (n_rows, n_parameters); overwritten by the next call
        """
        pushed: Tensor | None = None
        for layer, value, slope, buffer in zip(self.layers, self.values, self.slopes, self._buffers, strict=False):
            out = buffer[: block.stop - block.start]
            transposed = tangent[layer.weight].t()
            if layer.bias is None:
                torch.mm(value[block], transposed, out=out)
            else:
                torch.addmm(tangent[layer.bias], value[block], transposed, out=out)
            if pushed is not None:
                out.addmm_(pushed, self.theta[layer.weight].t())
            if slope is not None:
                out.mul_(slope[block])
            pushed = out
        assert pushed is not None
        if self.free is None:
            return pushed
        return torch.cat([pushed, tangent[self.free].expand(len(pushed), -1)], dim=-1)

    def pull(self, cotangent: Tensor, block: slice, into: Parameters) -> None:
        """
        Add Jᵀ u to a vector.

        :param cotangent: u, shape (n_rows, n_parameters); may be what ``push`` gave
        :param block: one of ``blocks``
        :param into: views of the vector, in theta's shapes and dtype
        """
        if self.free is not None:
            n_outputs = self.values[-1].shape[1]
            into[self.free].add_(cotangent[:, n_outputs:].sum(dim=0))
            cotangent = cotangent[:, :n_outputs]
        for index in reversed(range(len(self.layers))):
            layer, slope = self.layers[index], self.slopes[index]
            if slope is not None:
                cotangent.mul_(slope[block])
            into[layer.weight].addmm_(cotangent.t(), self.values[index][block])
            if layer.bias is not None:
                into[layer.bias].add_(cotangent.sum(dim=0))
            if index > 0:
                out = self._buffers[index - 1][: len(cotangent)]
                cotangent = torch.mm(cotangent, self.theta[layer.weight], out=out)

    def pull_all(self, cotangent: Tensor) -> Tensor:
        """
        Jᵀ u over all samples.

        :param cotangent: u, shape (n_samples, n_parameters), theta's dtype; overwritten
        :return: flat, shape (n,)
        """
        total = self.zeros()
        for block in self.blocks:
            self.pull(cotangent[block], block, unflatten(total, self.theta))
        return total

    def zeros(self) -> Tensor:
        """
        Make a vector to add to.

        :return: zeros, shape (n,), theta's dtype
        """
        return self.theta[0].new_zeros(sum(part.numel() for part in self.theta))
