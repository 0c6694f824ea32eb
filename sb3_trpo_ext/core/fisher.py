"""
The actor linearised at theta_k: gradients Jᵀ u and Fisher-vector products F v = mean_s Jᵀ M J v.

J = d phi / d theta, M = Fisher metric of the action distribution. F is the exact Hessian of the mean KL at theta_k (its
first-order term vanishes there) and positive semi-definite by construction (Martens, "New insights and perspectives on
the natural gradient method", 2020).

Four ways ("rungs") to the same matrix, for no single one works on every module:

* ``closed_form``: matrix products of ``core.mlp``, for actors that are plain stacks of layers.
* ``double_vjp``: u -> Jᵀu is linear, so differentiating it once gives v -> Jv; both graphs are built once and kept, a
  product then is two backward passes. The fastest of the general ones, if the batch's activations fit into memory.
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

from sb3_trpo_ext.core.distributions import Metric
from sb3_trpo_ext.core.flat import Parameters, flatten, unflatten
from sb3_trpo_ext.core.mlp import MLPActor
from sb3_trpo_ext.core.objective import Actor
from sb3_trpo_ext.core.reduce import Rows, WeightedMean


class Rung(str, Enum):
    """A way to compute Fisher-vector products."""

    CLOSED_FORM = "closed_form"
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

    def metric_at(self, phi: Tensor) -> Metric:
        """
        Prepare products with the Hessian of ``kl(., phi)`` at phi.

        :param phi: parameters, shape (n, n_parameters)
        :return: tangent -> its product, a sample; both of shape (n, n_parameters)
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
    :param mlp: the actor as a stack of layers, if it is one
    """

    actor: Actor
    theta: Parameters
    distribution: Geometry
    scale: float
    mean: WeightedMean
    mlp: MLPActor | None = None


@dataclass(frozen=True)
class ChunkMaps:
    """
    What a rung makes of one chunk of the batch.

    :param phi: gives the distribution parameters at theta_k, shape (n_rows, n_parameters), without a graph
    :param product: tangent v -> the chunk's sum of w_s Jᵀ M J v, flat; may be overwritten by the next
    :param pull: cotangent u of shape (n_rows, n_parameters) -> Jᵀ u, flat
    """

    phi: Callable[[], Tensor]
    product: Callable[[Parameters], Tensor]
    pull: Callable[[Tensor], Tensor]


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
        self._tangent = torch.cat([part.detach().reshape(-1) for part in curvature.theta])
        self._tangent_parts = unflatten(self._tangent, curvature.theta)
        self._kept: dict[int, ChunkMaps] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the products."""
        return self.curvature.theta[0].dtype

    def phi(self) -> Tensor:
        """
        Evaluate the actor at theta_k on the mean's samples.

        :return: distribution parameters, shape (n_samples, n_parameters), dtype of the products
        """
        mean = self.curvature.mean
        return torch.cat([self._maps(i, rows, mean.weights[rows]).phi() for i, rows in enumerate(mean.chunks)])

    def release(self) -> None:
        """Forget what is kept between products: it is made again when it is needed."""
        self._kept.clear()

    def product(self, vector: Tensor) -> Tensor:
        """
        Undamped product F v.

        :param vector: shape (n_parameters,), any floating dtype
        :return: shape (n_parameters,), the vector's dtype
        """
        self.n_products += 1
        self._tangent.copy_(vector)
        summed = self._over_chunks(lambda maps, rows, weights: maps.product(self._tangent_parts))
        return self.curvature.scale * summed.to(vector.dtype)

    def damped_product(self, vector: Tensor, damping: float) -> Tensor:
        """
        Damped product (F + damping I) v.

        :param vector: shape (n_parameters,), any floating dtype
        :param damping: lambda >= 0, in the unit of the bounded KL
        :return: shape (n_parameters,), the vector's dtype
        """
        return self.product(vector) + damping * vector

    def gradient(self, slopes: Callable[[Rows], Tensor]) -> Tensor:
        """
        Gradient at theta_k of a mean of functions f_s(phi_s): mean_s Jᵀ f_s'(phi_s), by the chain rule.

        :param slopes: rows -> f_s'(phi_s), shape (n_rows, n_parameters), any floating dtype
        :return: shape (n_parameters,), dtype of the products
        """

        def pulled(maps: ChunkMaps, rows: Rows, weights: Tensor) -> Tensor:
            return maps.pull((weights.unsqueeze(-1) * slopes(rows)).to(self.dtype))

        return self._over_chunks(pulled)

    def _over_chunks(self, summed: Callable[[ChunkMaps, Rows, Tensor], Tensor]) -> Tensor:
        index = iter(range(len(self.curvature.mean.chunks)))

        def one(rows: Rows, weights: Tensor) -> Tensor:
            return summed(self._maps(next(index), rows, weights), rows, weights)

        return self.curvature.mean.of_sums(one)

    def _maps(self, index: int, rows: Rows, weights: Tensor) -> ChunkMaps:
        if index in self._kept:
            return self._kept[index]
        maps = _PREPARE[self.choice.rung](self.curvature, rows, weights.to(self.dtype))
        if self.choice.retained:
            self._kept[index] = maps
        return maps


def _prepare_closed_form(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkMaps:
    if curvature.mlp is None:
        raise NotImplementedError("not a plain stack of Linear layers and activations")
    linear = curvature.mlp.linearise(curvature.theta, rows)
    phi, weights = linear.phi, weights.unsqueeze(-1)
    total = linear.zeros()
    into = unflatten(total, curvature.theta)
    blocks = [(block, weights[block.rows], curvature.distribution.metric_at(phi[block.rows])) for block in linear.blocks]

    def product(tangent: Parameters) -> Tensor:
        total.zero_()
        for block, block_weights, metric in blocks:
            block.pull(metric(block.push(tangent)).mul_(block_weights), into)
        return total

    return ChunkMaps(lambda: phi, product, linear.pull)


def _leaves(theta: Parameters) -> Parameters:
    return tuple(parameter.detach().requires_grad_() for parameter in theta)


def _pull_back(phi: Tensor, leaves: Parameters, cotangent: Tensor, retain: bool) -> Tensor:
    """Jᵀ u, flat."""
    return flatten(torch.autograd.grad(phi, leaves, cotangent, retain_graph=retain, allow_unused=True, materialize_grads=True))


def _prepare_double_vjp(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkMaps:
    leaves = _leaves(curvature.theta)
    phi = curvature.actor(leaves, rows)
    metric, weights = curvature.distribution.metric_at(phi.detach()), weights.unsqueeze(-1)
    cotangent = torch.zeros_like(phi, requires_grad=True)
    pulled = torch.autograd.grad(phi, leaves, cotangent, create_graph=True, allow_unused=True)
    # A parameter that these rows don't reach has no gradient: nothing of its tangent is pushed forward.
    which = [i for i, gradient in enumerate(pulled) if gradient is not None]
    linear = [pulled[i] for i in which]

    def product(tangent: Parameters) -> Tensor:
        (pushed,) = torch.autograd.grad(linear, cotangent, [tangent[i] for i in which], retain_graph=True)
        return _pull_back(phi, leaves, weights * metric(pushed), retain=True)

    return ChunkMaps(phi.detach, product, lambda cotangent: _pull_back(phi, leaves, cotangent, retain=True))


def _without_graph(curvature: Curvature, rows: Rows, product: Callable[[Parameters], Tensor]) -> ChunkMaps:
    """For rungs that build a graph for each product: phi and Jᵀ u do so too."""

    def phi() -> Tensor:
        with torch.no_grad():
            return curvature.actor(curvature.theta, rows)

    def pull(cotangent: Tensor) -> Tensor:
        leaves = _leaves(curvature.theta)
        return _pull_back(curvature.actor(leaves, rows), leaves, cotangent, retain=False)

    return ChunkMaps(phi, product, pull)


def _prepare_forward_reverse(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkMaps:
    def product(tangent: Parameters) -> Tensor:
        # J v keeps nothing, and then the graph of Jᵀ u is all there is: with both in one pass it would hold the tangents too.
        with torch.no_grad(), forward_ad.dual_level():
            dual = tuple(forward_ad.make_dual(part, along) for part, along in zip(curvature.theta, tangent, strict=True))
            phi, pushed = forward_ad.unpack_dual(curvature.actor(dual, rows))
            pushed = torch.zeros_like(phi) if pushed is None else pushed
            cotangent = weights.unsqueeze(-1) * curvature.distribution.metric_at(phi)(pushed)
        return maps.pull(cotangent)

    maps = _without_graph(curvature, rows, product)
    return maps


def _prepare_double_backward(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkMaps:
    def product(tangent: Parameters) -> Tensor:
        leaves = _leaves(curvature.theta)
        phi = curvature.actor(leaves, rows)
        kl = (weights * curvature.distribution.kl(phi, phi.detach())).sum()
        gradient = flatten(torch.autograd.grad(kl, leaves, create_graph=True, allow_unused=True, materialize_grads=True))
        return flatten(torch.autograd.grad(gradient, leaves, flatten(tangent), allow_unused=True, materialize_grads=True))

    return _without_graph(curvature, rows, product)


_PREPARE: dict[Rung, Callable[[Curvature, Rows, Tensor], ChunkMaps]] = {
    Rung.CLOSED_FORM: _prepare_closed_form,
    Rung.DOUBLE_VJP: _prepare_double_vjp,
    Rung.FORWARD_REVERSE: _prepare_forward_reverse,
    Rung.DOUBLE_BACKWARD: _prepare_double_backward,
}
