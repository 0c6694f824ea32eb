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
        # All at once: growing costs more than the passes (page faults), and what is never written takes no memory on a CPU.
        self.rows = like.new_empty((keep, like.numel()))
        self.duals = torch.empty_like(self.rows) if paired else self.rows

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
        torch.div(r, length, out=self.rows[self.count % self.keep])
        if self.paired:
            torch.div(z, length, out=self.duals[self.count % self.keep])
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
