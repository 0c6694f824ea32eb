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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sb3_trpo_ext.core.flat import Parameters, unflatten
from sb3_trpo_ext.core.layers import Layer
from sb3_trpo_ext.core.reduce import Rows, chunked

BLOCK_BYTES = 2**19
"""Samples go through both passes in blocks of which a hidden layer takes no more: what a core's cache holds several of."""


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

    def __call__(self, theta: Parameters, rows: Rows) -> Tensor:
        """
        Evaluate the actor, without a graph.

        :param theta: its parameters, all of one dtype
        :param rows: which samples
        :return: phi, shape (n_rows, n_parameters), theta's dtype
        """
        value = self.inputs(rows).to(theta[0])
        for layer in self.layers:
            value = layer.evaluate(theta, value)
        return self.phi(theta, value)

    def phi(self, theta: Parameters, output: Tensor) -> Tensor:
        """
        Put phi together.

        :param theta: the parameters
        :param output: of the last layer, shape (n_rows, n_outputs)
        :return: shape (n_rows, n_parameters)
        """
        if self.free is None:
            return output
        return torch.cat([output, theta[self.free].expand(len(output), -1)], dim=-1)

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
        values, slopes = [inputs], []
        for layer in actor.layers:
            values.append(layer.evaluate(theta, values[-1]))
            slopes.append(None if layer.activation is None else layer.activation.slope(values[-1]))
        self.actor = actor
        self.theta = theta
        self.output = values.pop()
        widest = max(value.shape[1] for value in (*values[1:], self.output))
        # An accelerator is the faster the more samples it gets at once.
        fitting = BLOCK_BYTES // (widest * inputs.element_size()) if inputs.device.type == "cpu" else len(inputs)
        size = min(len(inputs), max(1, fitting))
        n_free = 0 if actor.free is None else len(theta[actor.free])
        widths = [*(value.shape[1] for value in values[1:]), self.output.shape[1] + n_free]
        buffers = [inputs.new_empty((size, width)) for width in widths]
        self.blocks = [Block(actor, theta, rows, values, slopes, buffers) for rows in chunked(len(inputs), size)]

    @property
    def phi(self) -> Tensor:
        """Distribution parameters at theta, shape (n_samples, n_parameters)."""
        return self.actor.phi(self.theta, self.output)

    def pull(self, cotangent: Tensor) -> Tensor:
        """
        Jᵀ u over all samples.

        :param cotangent: u, shape (n_samples, n_parameters), theta's dtype; overwritten
        :return: flat, shape (n,)
        """
        total = self.zeros()
        into = unflatten(total, self.theta)
        for block in self.blocks:
            block.pull(cotangent[block.rows], into)
        return total

    def zeros(self) -> Tensor:
        """
        Make a vector to add to.

        :return: zeros, shape (n,), theta's dtype
        """
        return self.theta[0].new_zeros(sum(part.numel() for part in self.theta))


class Block:
    """
    Some samples of a linearisation. All views are made once: a view takes as long as a small product.

    :param actor: the stack
    :param theta: where it is linearised
    :param rows: which samples
    :param values: what each layer sees, shape (n_samples, width)
    :param slopes: of each layer's activation, same shapes from the second on
    :param buffers: of each layer's output, shape (at least n_rows, width); the last one is phi's
    """

    def __init__(
        self,
        actor: MLPActor,
        theta: Parameters,
        rows: slice,
        values: Sequence[Tensor],
        slopes: Sequence[Tensor | None],
        buffers: Sequence[Tensor],
    ):
        self.layers = actor.layers
        self.free = actor.free
        self.rows = rows
        self._weights = [theta[layer.weight] for layer in actor.layers]
        self._transposed_weights = [weight.t() for weight in self._weights]
        self._values = [value[rows] for value in values]
        self._slopes = [None if slope is None else slope[rows] for slope in slopes]
        self._buffers = [buffer[: rows.stop - rows.start] for buffer in buffers]
        n_outputs = len(self._weights[-1])
        self._phi = self._buffers[-1]
        self._phi_free = self._phi[:, n_outputs:]
        self._outputs = [*self._buffers[:-1], self._phi[:, :n_outputs]]

    def push(self, tangent: Parameters) -> Tensor:
        """
        J v.

        :param tangent: v, in theta's shapes and dtype
        :return: shape (n_rows, n_parameters); overwritten by the next call
        """
        below: Tensor | None = None
        for index, layer in enumerate(self.layers):
            out, value, weight = self._outputs[index], self._values[index], tangent[layer.weight].t()
            if layer.bias is None:
                torch.mm(value, weight, out=out)
            else:
                torch.addmm(tangent[layer.bias], value, weight, out=out)
            if below is not None:
                out.addmm_(below, self._transposed_weights[index])
            slope = self._slopes[index]
            below = out if slope is None else out.mul_(slope)
        if self.free is not None:
            self._phi_free.copy_(tangent[self.free])
        return self._phi

    def pull(self, cotangent: Tensor, into: Parameters) -> None:
        """
        Add Jᵀ u to a vector.

        :param cotangent: u, shape (n_rows, n_parameters), overwritten; may be what ``push`` gave
        :param into: views of the vector, in theta's shapes and dtype
        """
        if self.free is not None:
            n_outputs = len(self._weights[-1])
            into[self.free].add_(cotangent[:, n_outputs:].sum(dim=0))
            cotangent = cotangent[:, :n_outputs]
        for index in reversed(range(len(self.layers))):
            layer, slope = self.layers[index], self._slopes[index]
            if slope is not None:
                cotangent.mul_(slope)
            into[layer.weight].addmm_(cotangent.t(), self._values[index])
            if layer.bias is not None:
                into[layer.bias].add_(cotangent.sum(dim=0))
            if index > 0:
                cotangent = torch.mm(cotangent, self._weights[index], out=self._outputs[index - 1])
