"""
Re-orthogonalisation of CG's residuals, at most twice ("twice is enough", Giraud, Langou and Rozloznik, "The loss of
orthogonality in the Gram-Schmidt orthogonalization process", 2005).
"""

from __future__ import annotations

import torch
from torch import Tensor

CANCELLED = 0.5
"""
Orthogonalise a second time if the first took more than this share of |r|^2 (Daniel, Gragg, Kaufman and Stewart,
"Reorthogonalization and stable algorithms for updating the Gram-Schmidt QR factorization", 1976).
"""


class ResidualBasis:
    """
    The newest residuals r and, beside them, what the preconditioner made of each, z: rows of matrices, overwritten in turn.

    Scaled by 1 / sqrt(rᵀz), they are orthonormal in pairs. Without a preconditioner both are the same matrix.

    :param keep: how many; 0: none
    :param like: a residual, for its size, dtype and device
    :param paired: whether there is a preconditioner
    """

    def __init__(self, keep: int, like: Tensor, paired: bool):
        self.keep = keep
        self.count = 0
        self.paired = paired
        self.rows = self.duals = like.new_empty((0, like.numel()))

    @property
    def held(self) -> int:
        """Number of residuals that are kept."""
        return min(self.count, self.keep)

    def add(self, r: Tensor, z: Tensor, length: Tensor) -> None:
        """
        Keep a residual, in place of the oldest if there is no room.

        :param r: residual, shape (n,)
        :param z: preconditioned residual, shape (n,); r itself without a preconditioner
        :param length: sqrt(rᵀz)
        """
        if self.keep == 0:
            return
        if self.count < self.keep and self.count == len(self.rows):
            # By doubling: an early stop never pays for max_steps rows.
            size = min(self.keep, max(4, 2 * self.count))
            self.rows = _grown(self.rows, size)
            self.duals = _grown(self.duals, size) if self.paired else self.rows
        self.rows[self.count % self.keep] = r / length
        if self.paired:
            self.duals[self.count % self.keep] = z / length
        self.count += 1

    def orthogonalise(self, residual: Tensor) -> Tensor:
        """
        Take out of a residual what it has in common with those that are kept.

        :param residual: shape (n,)
        :return: the same, orthogonal to them in the preconditioner's inner product
        """
        rows, duals = self.rows[: self.held], self.duals[: self.held]
        for _ in range(2 if self.held else 0):
            before, taken = residual, duals @ residual
            residual = before - rows.T @ taken
            if self._enough(taken, before):
                break
        return residual

    def _enough(self, taken: Tensor, before: Tensor) -> bool:
        """
        Find out whether one pass was enough.

        Asked on the CPU only: on an accelerator the question costs a synchronisation, more than the pass itself. Nor with a
        preconditioner, in whose inner product |r| is not known before it is applied.
        """
        return not self.paired and taken.device.type == "cpu" and bool(taken.dot(taken) <= CANCELLED * before.dot(before))


def _grown(rows: Tensor, size: int) -> Tensor:
    grown = torch.empty((size, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    grown[: len(rows)] = rows
    return grown
