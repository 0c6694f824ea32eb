"""
One epoch of least squares for a value function that is a stack of layers: losses and gradients in closed form.

    L = mean_i (v_i - R_i)²,   dL/dv_i = 2 (v_i - R_i) / n,   then backpropagation through the layers

A minibatch is small, so that what autograd adds, a graph and a new tensor for each result, takes as long as the arithmetic.
Here every minibatch of every epoch runs through the same buffers, and samples are gathered once an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.layers import Layer
from sb3_trpo_ext.core.reduce import chunked


class ValueRegression:
    """
    Minibatches of a regression on returns.

    :param layers: the value function; its last layer has one output
    :param parameters: what the layers' places point at, each of them once; all of one floating dtype
    :param inputs: what the first layer sees, shape (n_samples, n_in), their dtype
    :param targets: the returns, shape (n_samples,), their dtype
    :param batch_size: samples in a minibatch; the last one of an epoch may be smaller
    """

    def __init__(
        self, layers: Sequence[Layer], parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor, batch_size: int
    ):
        self.parameters = tuple(parameters)
        self.inputs = inputs
        self.targets = targets.reshape(-1, 1)
        self._gathered_inputs = torch.empty_like(self.inputs)
        self._gathered_targets = torch.empty_like(self.targets)
        theta = tuple(parameter.detach() for parameter in parameters)
        self._gradients = tuple(torch.empty_like(parameter) for parameter in theta)
        self._minibatches: list[tuple[_Pass, Tensor, Tensor]] = []
        passes: dict[int, _Pass] = {}
        for rows in chunked(len(inputs), batch_size):
            size = rows.stop - rows.start
            if size not in passes:
                passes[size] = _Pass(layers, theta, self._gradients, size)
            self._minibatches.append((passes[size], self._gathered_inputs[rows], self._gathered_targets[rows]))

    def epoch(self, order: Tensor) -> Iterator[Tensor]:
        """
        Run through the minibatches; at each loss, its gradient stands in the parameters' ``grad``.

        :param order: permutation of the samples, shape (n_samples,), int64
        :yields: the loss of each minibatch, a scalar without a graph, before what the caller then does to the parameters
        """
        torch.index_select(self.inputs, 0, order, out=self._gathered_inputs)
        torch.index_select(self.targets, 0, order, out=self._gathered_targets)
        for one_pass, inputs, targets in self._minibatches:
            loss = one_pass.loss(inputs, targets)
            for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
                parameter.grad = gradient
            yield loss


class _Pass:
    """
    Buffers of one size of minibatch, and the two passes through them.

    :param layers: the value function
    :param theta: its parameters, without graphs
    :param gradients: where the gradient goes, in theta's shapes
    :param n_samples: size of the minibatch
    """

    def __init__(self, layers: Sequence[Layer], theta: Parameters, gradients: Parameters, n_samples: int):
        self.layers = layers
        self.theta = theta
        self.gradients = gradients
        sizes = [len(theta[layer.weight]) for layer in layers]
        self._values = [theta[0].new_empty((n_samples, size)) for size in sizes]
        self._cotangents = [torch.empty_like(value) for value in self._values]
        # Views cost as much as a small product: made once.
        self._transposed_weights = [theta[layer.weight].t() for layer in layers]
        self._transposed_cotangents = [cotangent.t() for cotangent in self._cotangents]
        self._flat_errors = self._cotangents[-1].view(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """
        Predict.

        :param inputs: shape (n_samples, n_in)
        :return: values, shape (n_samples, 1); overwritten by the next call
        """
        below = inputs
        for layer, weight, value in zip(self.layers, self._transposed_weights, self._values, strict=True):
            if layer.bias is None:
                torch.mm(below, weight, out=value)
            else:
                torch.addmm(self.theta[layer.bias], below, weight, out=value)
            below = value if layer.activation is None else layer.activation.apply(value)
        return below

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """
        Mean squared error, and its gradient into ``gradients``.

        :param inputs: shape (n_samples, n_in)
        :param targets: shape (n_samples, 1)
        :return: the loss, a scalar
        """
        torch.sub(self.forward(inputs), targets, out=self._cotangents[-1])
        loss = torch.dot(self._flat_errors, self._flat_errors) / len(targets)
        self._cotangents[-1].mul_(2.0 / len(targets))
        for index in reversed(range(len(self.layers))):
            layer, cotangent = self.layers[index], self._cotangents[index]
            if layer.activation is not None:
                cotangent.mul_(layer.activation.slope(self._values[index]))
            below = self._values[index - 1] if index > 0 else inputs
            torch.mm(self._transposed_cotangents[index], below, out=self.gradients[layer.weight])
            if layer.bias is not None:
                torch.sum(cotangent, dim=0, out=self.gradients[layer.bias])
            if index > 0:
                torch.mm(cotangent, self.theta[layer.weight], out=self._cotangents[index - 1])
        return loss
