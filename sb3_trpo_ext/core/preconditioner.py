"""
K-FAC: a preconditioner for CG that is made of a Kronecker product for each layer.

For a layer s = W a, the block of F that belongs to W is E[ggᵀ ⊗ aaᵀ] with g = d log p / d s; K-FAC takes inputs and gradients
for independent: G ⊗ A (Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature",
2015). Convolutions: Grosse and Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", 2016. It
only has to resemble F + lambda I: CG corrects what it gets wrong. Differences from the papers:

1. lambda is added exactly, in the eigenbases of A and G: (U_G ⊗ U_A) (d_G d_Aᵀ + lambda)^-1 (U_G ⊗ U_A)ᵀ. Splitting it over
   the factors (2015, section 6.3) took 1 to 2 iterations more for the gain of 25 plain ones wherever that took 2 to 11 (Hopper
   and HalfCheetah, 120k and 250k steps), and another lambda would need new decompositions.
2. Parameters without factors get lambda + the mean curvature of those that have them. With lambda alone their few large
   eigenvalues would come first, and CG would spend its iterations on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sb3_trpo_ext.core.status import BlockStatus

ROUNDING = 10.0
"""Curvature below this many eps of a block's largest is rounding; it bounds lambda from below, so that P is not singular."""


@dataclass(frozen=True)
class LayerFactors:
    """
    Kronecker factors of one layer, in the unit of the joint KL.

    :param name: the layer
    :param weight: entries of the flat theta that are its weight, row by row, shape (n_out, n_in)
    :param bias: entries that are its bias; None: it has none
    :param inputs: A = mean of aaᵀ, a with a 1 appended if there is a bias, shape (n, n); or only its diagonal, shape (n,)
    :param outputs: G = mean of ggᵀ, shape (n_out, n_out); or only its diagonal
    """

    name: str
    weight: slice
    bias: slice | None
    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class KnownCurvature:
    """
    Parameters whose block of F is a multiple of the identity: each entry of a Gaussian's state-independent log std has 2.

    :param entries: entries of the flat theta
    :param curvature: in the unit of the joint KL
    """

    entries: slice
    curvature: float


@dataclass(frozen=True)
class Eigen:
    """
    A symmetric positive semi-definite factor, decomposed.

    :param values: eigenvalues, shape (n,), >= 0
    :param basis: eigenvectors in columns, shape (n, n); None: the factor is diagonal
    """

    values: Tensor
    basis: Tensor | None


@dataclass(frozen=True)
class Block:
    """
    What became of a layer's factors.

    :param layer: the factors
    :param status: whether they are used
    :param factors: A and G, decomposed; None: not used
    """

    layer: LayerFactors
    status: BlockStatus
    factors: tuple[Eigen, Eigen] | None


@dataclass(frozen=True)
class KroneckerPreconditioner:
    """
    Block-diagonal approximation of the Fisher matrix of the bounded KL.

    :param blocks: the layers that have factors
    :param known: parameters whose curvature is known
    :param scale: bounded KL = scale * joint KL
    :param n_parameters: length of the flat theta
    """

    blocks: tuple[Block, ...]
    known: tuple[KnownCurvature, ...]
    scale: float
    n_parameters: int

    @property
    def _used(self) -> list[tuple[LayerFactors, Eigen, Eigen]]:
        return [(block.layer, *block.factors) for block in self.blocks if block.factors is not None]

    @property
    def covered(self) -> float:
        """Share of the parameters that are preconditioned."""
        return self._n_covered / self.n_parameters

    @property
    def _n_covered(self) -> int:
        layers = [layer for layer, _, _ in self._used]
        entries = [layer.weight for layer in layers] + [layer.bias for layer in layers if layer.bias is not None]
        return sum(int(part.stop) - int(part.start) for part in entries + [known.entries for known in self.known])

    def _mean_curvature(self) -> float:
        """Mean eigenvalue of the preconditioned blocks, in the unit of the bounded KL; 0 if there are none."""
        traces = [inputs.values.sum() * outputs.values.sum() for _, inputs, outputs in self._used]
        factored = float(torch.stack(traces).sum()) if traces else 0.0
        known = sum(known.curvature * int(known.entries.stop - known.entries.start) for known in self.known)
        return self.scale * (factored + known) / max(1, self._n_covered)

    def inverse(self, damping: float, like: Tensor) -> Callable[[Tensor], Tensor]:
        """
        Prepare products with the inverse of P + damping I.

        :param damping: lambda >= 0, in the unit of the bounded KL
        :param like: a vector of the dtype and on the device of those that are multiplied
        :return: r -> (P + damping I)^-1 r, shape (n_parameters,); symmetric and positive definite
        """
        # Nothing known and no damping: the identity, for any multiple of it is the same preconditioner.
        elsewhere = (damping + self._mean_curvature()) or 1.0
        diagonal = like.new_full((self.n_parameters,), 1.0 / elsewhere)
        for known in self.known:
            diagonal[known.entries] = 1.0 / (self.scale * known.curvature + damping)
        solves = [_layer_solve(*used, self.scale, damping) for used in self._used]

        def apply(r: Tensor) -> Tensor:
            out = diagonal * r
            for solve in solves:
                solve(r, out)
            return out

        return apply


def kronecker_preconditioner(
    layers: Sequence[LayerFactors], known: Sequence[KnownCurvature], scale: float, n_parameters: int
) -> KroneckerPreconditioner:
    """
    Decompose the factors, once an update.

    :param layers: factors of each layer; of no parameter twice
    :param known: parameters whose curvature is known
    :param scale: bounded KL = scale * joint KL
    :param n_parameters: length of the flat theta
    :return: the preconditioner; a layer whose factors can't be used has a status that says so, and is left out
    """
    return KroneckerPreconditioner(tuple(map(_decomposed, layers)), tuple(known), scale, n_parameters)


def _decomposed(layer: LayerFactors) -> Block:
    # Asked first: LAPACK raises on what is not finite.
    if not bool(torch.isfinite(layer.inputs).all() & torch.isfinite(layer.outputs).all()):
        return Block(layer, BlockStatus.NON_FINITE, None)
    try:
        inputs, outputs = _eigen(layer.inputs), _eigen(layer.outputs)
    except torch.linalg.LinAlgError:
        return Block(layer, BlockStatus.NOT_DECOMPOSED, None)
    if inputs is None or outputs is None:
        return Block(layer, BlockStatus.NOT_POSITIVE, None)
    return Block(layer, BlockStatus.FACTORED, (inputs, outputs))


def _eigen(factor: Tensor) -> Eigen | None:
    """Eigenvalues, those that are rounding set to zero; None if there is no positive one, or one that is truly negative."""
    values, basis = (factor, None) if factor.ndim == 1 else torch.linalg.eigh(factor)
    largest = values.max()
    rounding = ROUNDING * torch.finfo(factor.dtype).eps * len(values) * largest
    if not bool((largest > 0.0) & (values.min() >= -rounding)):
        return None
    return Eigen(values.clamp(min=0.0), basis)


def _layer_solve(
    layer: LayerFactors, inputs: Eigen, outputs: Eigen, scale: float, damping: float
) -> Callable[[Tensor, Tensor], None]:
    """A function that writes a layer's part of the solution; it computes in the factors' dtype, float32: CG is forgiving."""
    dtype = inputs.values.dtype
    curvature = scale * outputs.values.unsqueeze(-1) * inputs.values
    inverse = 1.0 / (curvature + torch.clamp(ROUNDING * torch.finfo(dtype).eps * curvature.max(), min=damping))
    left, right = outputs.basis, inputs.basis

    def solve(r: Tensor, out: Tensor) -> None:
        matrix = r[layer.weight].to(dtype).view(len(inverse), -1)
        if layer.bias is not None:
            matrix = torch.cat([matrix, r[layer.bias].to(dtype).unsqueeze(-1)], dim=-1)
        matrix = _rotated(left, inverse * _rotated(_transposed(left), matrix, right), _transposed(right))
        if layer.bias is not None:
            out[layer.bias] = matrix[:, -1].to(out.dtype)
            matrix = matrix[:, :-1]
        out[layer.weight] = matrix.reshape(-1).to(out.dtype)

    return solve


def _transposed(basis: Tensor | None) -> Tensor | None:
    return None if basis is None else basis.T


def _rotated(left: Tensor | None, matrix: Tensor, right: Tensor | None) -> Tensor:
    matrix = matrix if left is None else left @ matrix
    return matrix if right is None else matrix @ right
