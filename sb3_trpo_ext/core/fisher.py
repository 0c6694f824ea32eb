"""
Fisher-vector products F v = mean_s Jᵀ M J v, J = d phi / d theta, M = Fisher metric of the action distribution.

This is the exact Hessian of the mean KL at theta_k (its first-order term vanishes there) and positive semi-definite by
construction (Martens, "New insights and perspectives on the natural gradient method", 2020, section 9).

Three ways ("rungs") to the same matrix, for no single one works on every module:

* ``double_vjp``: u -> Jᵀu is linear, so differentiating it once gives v -> Jv; both graphs are built once and kept, a
  product then is two backward passes. The fastest that was measured, if the batch's activations fit into memory.
* ``forward_reverse``: one pass with dual numbers and one backward pass; needs a forward mode of every operation.
* ``double_backward``: the gradient of the KL, differentiated again, as other TRPOs do; slowest, but plain autograd.

Which one serves a policy is chosen in ``core.ladder``. (``torch.func.linearize`` is right the first time and silently wrong
later on recurrent networks, and is traced anew for every update: it is not used.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sb3_trpo_ext.core.flat import Parameters, flatten, unflatten
from sb3_trpo_ext.core.objective import Actor
from sb3_trpo_ext.core.reduce import Rows, WeightedMean

ChunkProduct = Callable[[Parameters], Tensor]


class Rung(str, Enum):
    """A way to compute Fisher-vector products."""

    DOUBLE_VJP = "double_vjp"
    FORWARD_REVERSE = "forward_reverse"
    DOUBLE_BACKWARD = "double_backward"


@dataclass(frozen=True)
class RungChoice:
    """
    Which rung is used, and why not an earlier one.

    :param rung: the rung
    :param retained: whether graphs are kept between products, instead of built anew for each
    :param rejected: reason for each rung that was passed over
    """

    rung: Rung
    retained: bool
    rejected: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name for the report."""
        return f"{self.rung.value}/{'retained' if self.retained else 'recomputed'}"


class Geometry(Protocol):
    """What of an action distribution a Fisher product needs: its divergence, or the Hessian of that."""

    def kl(self, new: Tensor, old: Tensor) -> Tensor:
        """
        Divergence of each sample.

        :param new: parameters phi, shape (n, n_parameters)
        :param old: parameters phi, shape (n, n_parameters)
        :return: shape (n,)
        """

    def metric_product(self, phi: Tensor, tangent: Tensor) -> Tensor:
        """
        Product with the Hessian of ``kl(., phi)`` at phi.

        :param phi: parameters, shape (n, n_parameters)
        :param tangent: shape (n, n_parameters)
        :return: shape (n, n_parameters)
        """


@dataclass(frozen=True)
class Curvature:
    """
    What a Fisher product needs to know.

    :param actor: the policy as a function
    :param theta: its parameters at theta_k; their dtype is the precision of the products
    :param distribution: family of the actions' distribution
    :param scale: bounded KL = scale * joint KL
    :param mean: the weighted mean over (a part of) the batch
    """

    actor: Actor
    theta: Parameters
    distribution: Geometry
    scale: float
    mean: WeightedMean


class FisherOperator:
    """
    The Fisher matrix of the bounded KL as an operator, undamped and damped by name.

    :param curvature: actor, parameters, distribution and mean
    :param choice: how products are computed
    """

    def __init__(self, curvature: Curvature, choice: RungChoice):
        self.curvature = curvature
        self.choice = choice
        self.n_products = 0
        self._kept: dict[int, ChunkProduct] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the products."""
        return self.curvature.theta[0].dtype

    def product(self, vector: Tensor) -> Tensor:
        """
        Undamped product F v.

        :param vector: shape (n_parameters,), any floating dtype
        :return: shape (n_parameters,), the vector's dtype
        """
        self.n_products += 1
        tangent = unflatten(vector.to(self.dtype), self.curvature.theta)
        index = iter(range(len(self.curvature.mean.chunks)))
        summed = self.curvature.mean.of_sums(lambda rows, weights: self._chunk_product(next(index), rows, weights)(tangent))
        return self.curvature.scale * summed.to(vector.dtype)

    def damped_product(self, vector: Tensor, damping: float) -> Tensor:
        """
        Damped product (F + damping I) v.

        :param vector: shape (n_parameters,), any floating dtype
        :param damping: lambda >= 0, in the unit of the bounded KL
        :return: shape (n_parameters,), the vector's dtype
        """
        return self.product(vector) + damping * vector

    def _chunk_product(self, index: int, rows: Rows, weights: Tensor) -> ChunkProduct:
        if index in self._kept:
            return self._kept[index]
        product = _PREPARE[self.choice.rung](self.curvature, rows, weights.to(self.dtype))
        if self.choice.retained:
            self._kept[index] = product
        return product


def _leaves(theta: Parameters) -> Parameters:
    return tuple(parameter.detach().requires_grad_() for parameter in theta)


def _pull_back(phi: Tensor, leaves: Parameters, cotangent: Tensor, retain: bool) -> Tensor:
    """Jᵀ u, flat."""
    return flatten(torch.autograd.grad(phi, leaves, cotangent, retain_graph=retain, allow_unused=True, materialize_grads=True))


def _prepare_double_vjp(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkProduct:
    leaves = _leaves(curvature.theta)
    phi = curvature.actor(leaves, rows)
    at = phi.detach()
    cotangent = torch.zeros_like(phi, requires_grad=True)
    pulled = torch.autograd.grad(phi, leaves, cotangent, create_graph=True, allow_unused=True)
    # A parameter that these rows don't reach has no gradient: nothing of its tangent is pushed forward.
    which = [i for i, gradient in enumerate(pulled) if gradient is not None]
    linear = [pulled[i] for i in which]

    def product(tangent: Parameters) -> Tensor:
        (pushed,) = torch.autograd.grad(linear, cotangent, [tangent[i] for i in which], retain_graph=True)
        return _pull_back(phi, leaves, weights.unsqueeze(-1) * curvature.distribution.metric_product(at, pushed), retain=True)

    return product


def _prepare_forward_reverse(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkProduct:
    def product(tangent: Parameters) -> Tensor:
        leaves = _leaves(curvature.theta)
        with forward_ad.dual_level():
            dual = tuple(forward_ad.make_dual(leaf, part) for leaf, part in zip(leaves, tangent, strict=True))
            phi, pushed = forward_ad.unpack_dual(curvature.actor(dual, rows))
            pushed = torch.zeros_like(phi) if pushed is None else pushed.detach()
            cotangent = weights.unsqueeze(-1) * curvature.distribution.metric_product(phi.detach(), pushed)
            return _pull_back(phi, leaves, cotangent, retain=False)

    return product


def _prepare_double_backward(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkProduct:
    leaves = _leaves(curvature.theta)
    phi = curvature.actor(leaves, rows)
    kl = (weights * curvature.distribution.kl(phi, phi.detach())).sum()
    gradient = flatten(torch.autograd.grad(kl, leaves, create_graph=True, allow_unused=True, materialize_grads=True))

    def product(tangent: Parameters) -> Tensor:
        return flatten(
            torch.autograd.grad(
                gradient, leaves, flatten(tangent), retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    return product


_PREPARE: dict[Rung, Callable[[Curvature, Rows, Tensor], ChunkProduct]] = {
    Rung.DOUBLE_VJP: _prepare_double_vjp,
    Rung.FORWARD_REVERSE: _prepare_forward_reverse,
    Rung.DOUBLE_BACKWARD: _prepare_double_backward,
}
