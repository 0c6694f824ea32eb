"""
KL divergence, entropy, log-probability and Fisher metric of each action distribution, from its parameters.

A distribution is a family (below) and one tensor phi of shape (n_samples, n_parameters): mean and log std of a Gaussian,
logits of the discrete ones. Nothing here builds distribution objects, so everything differentiates, batches and runs in
float64. The Fisher metric M(phi) is the Hessian of KL(phi' || phi) with respect to phi' at phi' = phi
(Amari, "Natural gradient works efficiently in learning", 1998).

All KL divergences here are *joint*: summed over action dimensions. What is bounded may be their average
(``independent_dims``, as sb3-contrib does): a factor, applied outside.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)

Metric = Callable[[Tensor], Tensor]
"""Tangent -> its product with the Fisher metric, both of shape (n_samples, n_parameters)."""


class ActionDistribution(ABC):
    """A family of action distributions over parameters phi of shape (n_samples, n_parameters)."""

    @property
    @abstractmethod
    def independent_dims(self) -> int:
        """Number A of action dimensions that sb3-contrib averages the KL over (1: it sums)."""

    @abstractmethod
    def log_prob(self, phi: Tensor, actions: Tensor) -> Tensor:
        """
        Log-probability of actions.

        :param phi: parameters, shape (n, n_parameters)
        :param actions: shape (n, action_dims)
        :return: shape (n,)
        """

    @abstractmethod
    def kl(self, new: Tensor, old: Tensor) -> Tensor:
        """
        Joint divergence KL(new || old), in nats.

        :param new: parameters, shape (n, n_parameters)
        :param old: parameters, shape (n, n_parameters)
        :return: shape (n,), >= 0 up to rounding
        """

    @abstractmethod
    def entropy(self, phi: Tensor) -> Tensor | None:
        """
        Joint entropy, in nats.

        :param phi: parameters, shape (n, n_parameters)
        :return: shape (n,), or None where no closed form exists
        """

    @abstractmethod
    def metric_at(self, phi: Tensor) -> Metric:
        """
        Prepare products of the Fisher metric M(phi) with tangent vectors.

        :param phi: parameters, shape (n, n_parameters)
        :return: tangent -> M tangent, a sample; both of shape (n, n_parameters)
        """

    @abstractmethod
    def score_sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """
        Draw the score d log p(a) / d phi of one action a ~ p(. | phi) a sample: mean 0, covariance M(phi).

        :param phi: parameters, shape (n, n_parameters)
        :param generator: source of the actions; drawn on its device
        :return: shape (n, n_parameters), dtype and device of phi
        """


@dataclass(frozen=True)
class DiagonalGaussian(ActionDistribution):
    """
    Gaussian with diagonal covariance; phi = (mean, log std), shape (n, 2 A).

    Of a squashed Gaussian, phi and actions are those before the squashing: the KL and the metric do not change under a
    bijection, and log-probabilities differ by a constant a sample, which cancels in every ratio.

    :param dims: number A of action dimensions
    :param squashed: whether actions go through tanh, so that the entropy has no closed form
    """

    dims: int
    squashed: bool = False

    @property
    def independent_dims(self) -> int:
        """Every action dimension."""
        return self.dims

    def _halves(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        return phi[..., : self.dims], phi[..., self.dims :]

    def log_prob(self, phi: Tensor, actions: Tensor) -> Tensor:
        """Sum over dimensions of -z^2/2 - log std - log(2 pi)/2 with z = (a - mean)/std."""
        mean, log_std = self._halves(phi)
        z = (actions - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * LOG_2PI).sum(dim=-1)

    def kl(self, new: Tensor, old: Tensor) -> Tensor:
        """Sum of expm1(2d)/2 - d + (shift/std_old)^2/2 with d = log(std_new/std_old): right to eps |d|."""
        mean_new, log_std_new = self._halves(new)
        mean_old, log_std_old = self._halves(old)
        d = log_std_new - log_std_old
        shift = (mean_new - mean_old) * torch.exp(-log_std_old)
        return (0.5 * torch.expm1(2.0 * d) - d + 0.5 * shift.square()).sum(dim=-1)

    def entropy(self, phi: Tensor) -> Tensor | None:
        """Sum over dimensions of log std + (1 + log(2 pi))/2; None if squashed."""
        if self.squashed:
            return None
        return (phi[..., self.dims :] + 0.5 * (1.0 + LOG_2PI)).sum(dim=-1)

    def metric_at(self, phi: Tensor) -> Metric:
        """M = diag(1/std^2, 2)."""
        log_std = phi[..., self.dims :]
        diagonal = torch.cat([torch.exp(-2.0 * log_std), torch.full_like(log_std, 2.0)], dim=-1)
        return lambda tangent: diagonal * tangent

    def score_sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (z / std, z^2 - 1) with z standard normal."""
        log_std = phi[..., self.dims :]
        z = torch.randn(log_std.shape, generator=generator, dtype=phi.dtype, device=generator.device).to(phi.device)
        return torch.cat([z * torch.exp(-log_std), z.square() - 1.0], dim=-1)


@dataclass(frozen=True)
class MultiCategorical(ActionDistribution):
    """
    Independent categoricals; phi = their logits side by side, shape (n, sum(sizes)). One size: a plain categorical.

    :param sizes: number of choices of each
    """

    sizes: tuple[int, ...]

    @property
    def independent_dims(self) -> int:
        """One: sb3-contrib sums the KL over categoricals."""
        return 1

    def _log_probs(self, phi: Tensor) -> list[Tensor]:
        return [F.log_softmax(logits, dim=-1) for logits in phi.split(list(self.sizes), dim=-1)]

    def log_prob(self, phi: Tensor, actions: Tensor) -> Tensor:
        """Sum of the log-probabilities of the chosen; actions are int64, shape (n, len(sizes))."""
        chosen = [
            log_p.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
            for log_p, choice in zip(self._log_probs(phi), actions.unbind(dim=-1), strict=True)
        ]
        return torch.stack(chosen).sum(dim=0)

    def kl(self, new: Tensor, old: Tensor) -> Tensor:
        """Sum over categoricals and choices of p_new log(p_new / p_old), see ``_divergence``."""
        terms = [_divergence(p, q).sum(dim=-1) for p, q in zip(self._log_probs(new), self._log_probs(old), strict=True)]
        return torch.stack(terms).sum(dim=0)

    def entropy(self, phi: Tensor) -> Tensor | None:
        """Sum of -p log p."""
        return torch.stack([-_expectation(log_p, log_p).sum(dim=-1) for log_p in self._log_probs(phi)]).sum(dim=0)

    def metric_at(self, phi: Tensor) -> Metric:
        """M = diag(p) - p pᵀ, a block for each categorical."""
        probabilities = [log_p.exp() for log_p in self._log_probs(phi)]

        def product(tangent: Tensor) -> Tensor:
            blocks = zip(probabilities, tangent.split(list(self.sizes), dim=-1), strict=True)
            return torch.cat([p * (v - (p * v).sum(dim=-1, keepdim=True)) for p, v in blocks], dim=-1)

        return product

    def score_sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """Scores onehot(a) - p; a = argmin t_i / p_i with exponential t, the first of competing Poisson processes."""
        times = torch.empty(phi.shape, dtype=phi.dtype, device=generator.device).exponential_(generator=generator)
        scores = []
        for log_p, t in zip(self._log_probs(phi), times.to(phi.device).split(list(self.sizes), dim=-1), strict=True):
            chosen = (log_p - t.log()).argmax(dim=-1)
            scores.append(F.one_hot(chosen, log_p.shape[-1]) - log_p.exp())
        return torch.cat(scores, dim=-1)


@dataclass(frozen=True)
class MultiBernoulli(ActionDistribution):
    """
    Independent Bernoullis; phi = their logits, shape (n, A).

    :param dims: number A of them
    """

    dims: int

    @property
    def independent_dims(self) -> int:
        """Every binary action."""
        return self.dims

    def log_prob(self, phi: Tensor, actions: Tensor) -> Tensor:
        """Sum of a log s(l) + (1 - a) log s(-l), s the logistic function."""
        return (actions * F.logsigmoid(phi) + (1.0 - actions) * F.logsigmoid(-phi)).sum(dim=-1)

    def kl(self, new: Tensor, old: Tensor) -> Tensor:
        """Sum over both outcomes of p_new log(p_new / p_old), see ``_divergence``."""
        one = _divergence(F.logsigmoid(new), F.logsigmoid(old))
        return (one + _divergence(F.logsigmoid(-new), F.logsigmoid(-old))).sum(dim=-1)

    def entropy(self, phi: Tensor) -> Tensor | None:
        """Sum over both outcomes of -p log p."""
        return -(torch.sigmoid(phi) * F.logsigmoid(phi) + torch.sigmoid(-phi) * F.logsigmoid(-phi)).sum(dim=-1)

    def metric_at(self, phi: Tensor) -> Metric:
        """M = diag(p (1 - p))."""
        diagonal = torch.sigmoid(phi) * torch.sigmoid(-phi)
        return lambda tangent: diagonal * tangent

    def score_sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """Scores a - p."""
        uniform = torch.rand(phi.shape, generator=generator, dtype=phi.dtype, device=generator.device).to(phi.device)
        p = torch.sigmoid(phi)
        return (uniform < p).to(phi.dtype) - p


def _expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """Terms p * value; 0 where p = 0, though the value may be infinite there; NaN stays NaN."""
    p = log_p.exp()
    return torch.where(p == 0, torch.zeros_like(p), p * values)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """
    Terms of sum p log(p/q), of which each is at least 0: p d - (p - q) with d = log(p/q), p - q = q expm1(d).

    The differences p - q sum to zero, so the sum is the same; but rounding of d, which is first order in p d, is second
    order here, and close policies keep their digits. A choice of p = 0 leaves q; infinities of both cancel; NaN stays.
    """
    d = log_p - log_q
    p, q = log_p.exp(), log_q.exp()
    excess = torch.where(d.abs() < 1.0, q * torch.expm1(d), p - q)
    return torch.where(p == 0, q, p * d - excess)
