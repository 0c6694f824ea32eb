"""
Kronecker factors of a policy's layers, for the preconditioner: what each Linear and Conv2d saw, and what came back to it.

One forward pass in float32, and one backward pass of the score of sampled actions: its covariance is the Fisher metric. (One
pass for each entry of phi would be exact; on Hopper and HalfCheetah it saves no iteration.)

No factors, and so no preconditioning, where K-FAC's picture doesn't hold: other kinds of modules (recurrent, attention,
normalisation), a layer that runs twice, weights in two places, weights computed from others, grouped or unusually padded
convolutions, a layer that isn't given one row a sample.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.preconditioner import (
    KnownCurvature,
    KroneckerPreconditioner,
    LayerFactors,
    kronecker_preconditioner,
)
from sb3_trpo_ext.core.reduce import Rows, WeightedMean
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction

LARGEST_FACTOR = 1024
"""Of a factor with more rows only the diagonal is taken: its eigenvectors would cost more than they save."""

PATCH_ENTRIES = 2**23
"""Numbers in the patches of a convolution that are made at a time (32 MiB)."""

VECTORS_PER_ROW = 32
"""Patches that a factor is estimated from, for each of its rows, where there are more than are worth their time."""

LOG_STD_CURVATURE = 2.0
"""Fisher information of the log std of a Gaussian."""


@dataclass(frozen=True)
class _Layer:
    """A module whose weights stand in one place only, and where they are in the flat theta."""

    name: str
    module: nn.Linear | nn.Conv2d
    weight: slice
    bias: slice | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows of A and of G."""
        n_out = self.module.weight.shape[0]
        return self.module.weight.numel() // n_out + (self.bias is not None), n_out

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and of G: matrices, or diagonals of large ones."""
        n_in, n_out = ((size, size) if size <= LARGEST_FACTOR else (size,) for size in self.sizes)
        return n_in, n_out


def policy_preconditioner(
    function: PolicyFunction,
    distribution: ActionDistribution,
    mean: WeightedMean,
    kl_scale: float,
    generator: torch.Generator,
) -> KroneckerPreconditioner:
    """
    Make the preconditioner of the Fisher matrix at the policy's parameters.

    :param function: the actor, after ``own``
    :param distribution: family of the actions' distribution
    :param mean: mean of the Fisher products
    :param kl_scale: bounded KL = kl_scale * joint KL
    :param generator: source of the sampled scores
    :return: the preconditioner
    """
    layers = layer_factors(function, distribution, mean, generator)
    n_parameters = sum(parameter.numel() for parameter in function.parameters)
    return kronecker_preconditioner(layers, known_curvature(function), kl_scale, n_parameters)


def known_curvature(function: PolicyFunction) -> tuple[KnownCurvature, ...]:
    """
    Find the log std of a plain Gaussian, whose Fisher information is 2 whatever the state.

    :param function: the actor, after ``own``
    :return: its entries, if it is a parameter
    """
    log_std = getattr(function.policy, "log_std", None)
    place = _entries(function).get(id(log_std))
    if place is None or not isinstance(function.policy.action_dist, DiagGaussianDistribution):
        return ()
    return (KnownCurvature(place, LOG_STD_CURVATURE),)


def layer_factors(
    function: PolicyFunction, distribution: ActionDistribution, mean: WeightedMean, generator: torch.Generator
) -> tuple[LayerFactors, ...]:
    """
    Gather the Kronecker factors of every layer that has them.

    :param function: the actor, after ``own``
    :param distribution: family of the actions' distribution
    :param mean: mean of the Fisher products
    :param generator: source of the sampled scores
    :return: factors, float32, in the unit of the joint KL
    """
    layers = _layers(function)
    if not layers:
        return ()
    theta = function.theta(torch.float32)

    def summed(rows: Rows, weights: Tensor) -> Tensor:
        with _Pass(layers, weights.float()) as recorded, torch.enable_grad():
            phi = function(theta, rows)
        return recorded.sums(phi, distribution.score_sample(phi.detach(), generator))

    means = mean.of_sums(summed).split([math.prod(shape) for layer in layers for shape in (*layer.shapes, (1,))])
    found = []
    for layer, a, g, unlike in zip(layers, means[::3], means[1::3], torch.cat(means[2::3]).tolist(), strict=True):
        if unlike == 0.0:
            n_in, n_out = layer.shapes
            found.append(LayerFactors(layer.name, layer.weight, layer.bias, a.view(n_in), g.view(n_out)))
    return tuple(found)


class _Pass:
    """
    One forward pass over some samples: hooks gather the inputs' covariances and add a zero to each output, a probe.

    The gradient at the probe is that at the output, also where a later module changes the output in place; and weights need
    no gradients. All sums end up in one vector, so that a single reduction over chunks and processes does for all.
    """

    def __init__(self, layers: Sequence[_Layer], weights: Tensor):
        self.layers = layers
        self.weights = weights
        self.inputs = [weights.new_zeros(layer.shapes[0]) for layer in layers]
        self.probes: list[Tensor | None] = [None] * len(layers)
        self.unlike = [0.0] * len(layers)
        self.hooks = ExitStack()

    def __enter__(self) -> _Pass:
        for index, layer in enumerate(self.layers):
            self.hooks.callback(layer.module.register_forward_hook(partial(self._seen, index)).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def _seen(self, index: int, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.probes[index] is not None or not args or len(args[0]) != len(self.weights):
            self.unlike[index] = 1.0
            return None
        with torch.no_grad():
            self.inputs[index] = _inputs(self.layers[index], args[0].detach(), self.weights)
        probe = self.probes[index] = torch.zeros_like(output, requires_grad=True)
        return output + probe

    def sums(self, phi: Tensor, score: Tensor) -> Tensor:
        """
        Differentiate, and put all sums into one vector.

        :param phi: what the pass gave, shape (n_rows, n_parameters)
        :param score: cotangent at phi, same shape
        :return: A, G and the number of reasons against each layer, one after the other
        """
        probes = [probe for probe in self.probes if probe is not None]
        found = torch.autograd.grad(phi, probes, score, allow_unused=True) if phi.requires_grad else [None] * len(probes)
        gradients = iter(found)
        parts = []
        for layer, inputs, probe, unlike in zip(self.layers, self.inputs, self.probes, self.unlike, strict=True):
            gradient = None if probe is None else next(gradients)
            outputs = self.weights.new_zeros(layer.shapes[1])
            if gradient is not None:
                outputs = _outputs(layer, gradient, self.weights)
            parts += [inputs.flatten(), outputs.flatten(), self.weights.new_tensor([unlike])]
        return torch.cat(parts)


def _layers(function: PolicyFunction) -> list[_Layer]:
    """Layers that ran, whose weight is a trained parameter of this one place; a bias that isn't trained is left out."""
    entries = _entries(function)
    modules = dict(function.policy.named_modules())
    places = Counter(id(parameter) for module in modules.values() for parameter in module._parameters.values())
    ran = {id(module) for module in function.modules}
    layers = []
    for name, module in modules.items():
        if id(module) not in ran or not _is_plain(module):
            continue
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        if id(weight) in entries and places[id(weight)] == 1 and (bias is None or places[id(bias)] == 1):
            layers.append(_Layer(name, module, entries[id(weight)], entries.get(id(bias))))
    return layers


def _is_plain(module: nn.Module) -> bool:
    """Whether exactly this class computes W a + b: a subclass may do anything."""
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def _entries(function: PolicyFunction) -> dict[int, slice]:
    """Where each of the actor's parameters is in the flat theta, by ``id``."""
    ends = list(accumulate((parameter.numel() for parameter in function.parameters), initial=0))
    return {id(p): slice(start, stop) for p, start, stop in zip(function.parameters, ends, ends[1:], strict=False)}


def _inputs(layer: _Layer, x: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over samples of aaᵀ, itself summed over locations (Omega of Grosse and Martens, 2016)."""
    homogeneous = layer.bias is not None
    if isinstance(layer.module, nn.Linear):
        return _second_moment(x.reshape(len(x), -1, x.shape[-1]), weights, homogeneous, layer.shapes[0])
    n_locations = _patches(layer.module, x[:1]).shape[1]
    # Of the samples that count: a part without weight would say nothing about the whole.
    counted = weights.nonzero().squeeze(-1)
    if len(counted) == 0:
        return weights.new_zeros(layer.shapes[0])
    chosen = counted[:: _stride(layer, len(counted) * n_locations)]
    x, some = x[chosen], weights[chosen]
    size = max(1, PATCH_ENTRIES // (layer.sizes[0] * n_locations))
    total = weights.new_zeros(layer.shapes[0])
    for part, part_weights in zip(x.split(size), some.split(size), strict=True):
        total += _second_moment(_patches(layer.module, part), part_weights, homogeneous, layer.shapes[0])
    return total * (weights.sum() / some.sum())


def _outputs(layer: _Layer, gradient: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over samples of ggᵀ, averaged over locations (Gamma of Grosse and Martens, 2016)."""
    if isinstance(layer.module, nn.Conv2d):
        gradient = gradient.flatten(2).transpose(1, 2)
    vectors = gradient.reshape(len(gradient), -1, gradient.shape[-1])
    return _second_moment(vectors, weights / vectors.shape[1], False, layer.shapes[1])


def _second_moment(x: Tensor, weights: Tensor, homogeneous: bool, shape: tuple[int, ...]) -> Tensor:
    """
    Weighted sum of x xᵀ over samples and locations.

    :param x: shape (n, n_locations, size)
    :param weights: shape (n,)
    :param homogeneous: whether a 1 is appended to each x
    :param shape: of the result; with one dimension only the diagonal is computed
    :return: shape ``shape``
    """
    weights = weights.unsqueeze(-1).expand(x.shape[:2]).reshape(-1, 1)
    x = x.reshape(-1, x.shape[-1])
    weighted = weights * x
    if len(shape) == 1:
        diagonal = (weighted * x).sum(dim=0)
        return torch.cat([diagonal, weights.sum(dim=0)]) if homogeneous else diagonal
    if not homogeneous:
        return weighted.T @ x
    result = weights.new_empty(shape)
    result[:-1, :-1] = weighted.T @ x
    result[-1, :-1] = result[:-1, -1] = weighted.sum(dim=0)
    result[-1, -1] = weights.sum()
    return result


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """What the kernel sees at each location, shape (n, n_locations, size); in the order of the weight's entries."""
    assert not isinstance(module.padding, str), "such layers are left out"
    return F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2)


def _stride(layer: _Layer, n_patches: int) -> int:
    """
    Choose the samples that a convolution's A is estimated from: each how-manieth.

    Such that it costs no more than the layer itself (of all samples: size of A / size of G times that), but from no fewer than
    ``VECTORS_PER_ROW`` patches for each row of A.
    """
    n_in, n_out = layer.sizes
    return max(1, min(n_in // n_out, n_patches // (VECTORS_PER_ROW * n_in)))
