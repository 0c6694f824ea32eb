"""Whether a batch was collected by its policy: divergences between them, and those that rounding alone makes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.fisher import FisherOperator
from sb3_trpo_ext.core.ladder import PROBE_SAMPLES
from sb3_trpo_ext.core.objective import Surrogate, likelihood_divergence
from sb3_trpo_ext.core.reduce import chunked, everywhere
from sb3_trpo_ext.sb3.problem.action_distributions import base_actions
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.reading import ActorReading

LOG_PROB_TOLERANCE = 1e-2
"""Recorded phi are believed if they explain the stored log-probabilities to this, absolutely and relatively."""


@dataclass(frozen=True)
class Origin:
    """
    Where a batch comes from.

    :param surrogate: objective and KL around pi_k
    :param evidence: divergences of behaviour from policy, shape (n_samples, n_kinds)
    :param noise: divergences of the policy's own precision from float64, same shape
    """

    surrogate: Surrogate
    evidence: Tensor
    noise: Tensor


def judge_origin(actor: ActorReading, batch: RolloutBatch, linearised: FisherOperator) -> Origin:
    """
    Compare what the behaviour policy is known to have done with what the policy does.

    :param actor: the actor
    :param batch: the rollout
    :param linearised: the actor at theta_k, in the precision of the evaluation
    :return: the surrogate around pi_k, evidence and noise
    """
    curvature, distribution, own_phi = linearised.curvature, actor.distribution, actor.own_phi
    if linearised.dtype is torch.float32:
        # No float64 to compare with: rounding shows between batches of different shapes.
        own_phi = actor.function.own_phi(chunked(len(batch), PROBE_SAMPLES))
    phi, device = linearised.phi().double(), own_phi.device
    stored, behaviour_log_prob = (
        tensor.to(device) for tensor in base_actions(actor.function.policy, batch.actions, batch.log_prob)
    )
    actions = stored.double() if stored.is_floating_point() else stored
    log_prob = distribution.log_prob(phi, actions)
    surrogate = Surrogate(
        curvature.mlp or curvature.actor,
        distribution,
        actions,
        batch.advantages.to(device).double(),
        phi,
        log_prob,
        curvature.mean,
        curvature.scale,
    )
    own_log_prob = distribution.log_prob(own_phi, stored.to(own_phi.dtype) if stored.is_floating_point() else stored)
    evidence = [likelihood_divergence(behaviour_log_prob.double(), log_prob)]
    noise = [likelihood_divergence(own_log_prob.double(), log_prob)]
    behaviour_phi = _believed(batch.phi, distribution, actions, behaviour_log_prob.double())
    if everywhere(behaviour_phi is not None, curvature.mean.reducer) and behaviour_phi is not None:
        evidence.append(distribution.kl(behaviour_phi, phi))
        noise.append(distribution.kl(own_phi.double(), phi))
    found = curvature.scale * torch.stack(evidence, dim=-1)
    if not actor.repeats:
        # It can't be told from which policy a batch is: the noise would count as rounding, and hide anything.
        found = torch.full_like(found, torch.inf)
    return Origin(surrogate, found, curvature.scale * torch.stack(noise, dim=-1))


def _believed(phi: Tensor | None, distribution: ActionDistribution, actions: Tensor, log_prob: Tensor) -> Tensor | None:
    """The recorded phi, if they explain the stored log-probabilities: a custom policy may act in another way."""
    if phi is None:
        return None
    phi = phi.to(actions.device).double()
    gap = (distribution.log_prob(phi, actions) - log_prob).abs()
    return phi if bool((gap <= LOG_PROB_TOLERANCE * (1.0 + log_prob.abs())).all()) else None
