"""From a model and a batch to the problem that ``core.update`` solves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.core.distributions import ActionDistribution
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.ladder import LADDER, PROBE_SAMPLES, bytes_per_sample, choose_rung
from sb3_trpo_ext.core.objective import Surrogate, likelihood_divergence
from sb3_trpo_ext.core.reduce import Reducer, WeightedMean, chunked, everywhere, single_process
from sb3_trpo_ext.core.update import PolicyProblem
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution, base_actions
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction
from sb3_trpo_ext.sb3.problem.actor_stack import actor_stack
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.kfac import policy_preconditioner

MEMORY_LIMIT = 2**27
"""Bytes that the graphs of Fisher products may hold; larger batches are cut into chunks, whose graphs are made again for each.
Larger graphs are in no cache: chunks are then faster than what is kept, too (``scripts/compare_chunks.py``)."""

GPU_MEMORY_LIMIT = 2**30
"""The same where the policy step is not on the CPU. (Chosen, not measured: no GPU has been at hand.)"""

GRAPHS_PER_PRODUCT = 12
"""Float32 activations that kept products hold for each that the policy's own graph does: float64 and float32 at once, up to
four passes in all (measured on a double vjp: 8 and 4)."""

LOG_PROB_TOLERANCE = 1e-2
"""Recorded phi are believed if they explain the stored log-probabilities to this, absolutely and relatively."""


@dataclass(frozen=True)
class Draws:
    """
    What of the Fisher products is random.

    :param sub_sample: number of samples that they are made of and what draws them; None: all
    :param scores: what draws the scores of the K-FAC preconditioner; None: there is none
    """

    sub_sample: tuple[int, torch.Generator] | None = None
    scores: torch.Generator | None = None


NOTHING_DRAWN = Draws()


@dataclass(frozen=True)
class Choice:
    """
    A rung, and the circumstances in which it was chosen: in others the ladder is climbed again.

    :param rung: how Fisher products are computed
    :param has_stack: whether the actor could be read as a stack of layers; not while a hook is on one of them
    :param is_whole: whether the batch is evaluated in one chunk
    """

    rung: RungChoice
    has_stack: bool
    is_whole: bool


@dataclass(frozen=True)
class Evaluated:
    """
    A batch as a policy problem, and what was found out about the policy on the way.

    :param problem: data of the policy step
    :param function: the actor as a function
    :param chunks: samples that are evaluated together; one chunk: the graphs of the whole batch may be kept
    :param choice: how Fisher products are computed; None if the policy does not give the same phi each time
    """

    problem: PolicyProblem
    function: PolicyFunction
    chunks: tuple[slice, ...]
    choice: Choice | None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the evaluation: float64 unless the policy can't run in it."""
        return self.problem.linearised.dtype


def computing_device(device: torch.device) -> torch.device:
    """
    Choose where the policy step runs.

    :param device: the policy's
    :return: the same, or the CPU where it has no float64 (Apple's mps)
    """
    return torch.device("cpu") if device.type == "mps" else device


def evaluate_batch(
    policy: ActorCriticPolicy,
    batch: RolloutBatch,
    kl_scale: float,
    chunk_size: int | None,
    choice: Choice | None = None,
    draws: Draws = NOTHING_DRAWN,
    reducer: Reducer = single_process,
) -> Evaluated:
    """
    Evaluate the batch's policy pi_k, in its own precision and in float64, and put the policy step's data together.

    :param policy: the policy, in eval mode
    :param batch: the rollout
    :param kl_scale: bounded KL = kl_scale * joint KL
    :param chunk_size: samples that are evaluated together; None: as many as the memory bound allows
    :param choice: of an earlier batch
    :param draws: what of the Fisher products is random
    :param reducer: combines means over processes
    :return: the problem
    :raises ValueError: if the policy has no trainable actor
    """
    function = PolicyFunction(policy, batch.observations, computing_device(policy.device))
    chunks = _chunks(function, len(batch), chunk_size)
    own_phi = function.own(chunks)
    if not function.parameters:
        raise ValueError(
            "TRPO: the policy has no trainable parameter that its action distribution depends on: nothing to update"
        )
    repeats = function.repeats(slice(0, PROBE_SAMPLES))
    curvature = _curvature(function, own_phi, action_distribution(policy), kl_scale, chunks, choice, reducer)
    # Products of a policy that does not repeat agree with no others: it never comes to them.
    choice = _chosen(curvature, choice) if repeats else None
    rung = LADDER[-1] if choice is None else choice.rung
    if rung.rung is not Rung.CLOSED_FORM:
        # What the ladder has refused as the actor's derivative shall not stand for the actor either.
        curvature = replace(curvature, mlp=None)
    linearised = FisherOperator(curvature, rung)
    if linearised.dtype is torch.float32:
        # No float64 to compare with: rounding shows between batches of different shapes.
        own_phi = function.own_phi(chunked(len(batch), PROBE_SAMPLES))
    surrogate, evidence, noise = _judged(policy, batch, linearised, own_phi)
    if not repeats:
        # It can't be told from which policy a batch is: the noise would count as rounding, and hide anything.
        evidence = torch.full_like(evidence, torch.inf)
    fisher_mean = surrogate.mean
    if draws.sub_sample is not None:
        fisher_mean = _thinned(fisher_mean, chunks[0].stop, *draws.sub_sample)
    preconditioner = None
    if draws.scores is not None:
        distribution = surrogate.distribution
        preconditioner = partial(policy_preconditioner, function, distribution, fisher_mean, kl_scale, draws.scores)
    cells = batch.cells()
    problem = PolicyProblem(
        surrogate=surrogate,
        parameters=function.parameters,
        linearised=linearised,
        fisher_mean=fisher_mean,
        evidence=evidence,
        noise=noise,
        cells=None if cells is None else cells.to(function.device),
        explained_variance=explained_variance(batch.values, batch.returns, reducer),
        preconditioner=preconditioner,
    )
    return Evaluated(problem, function, chunks, choice)


def _chunks(function: PolicyFunction, n_samples: int, size: int | None) -> tuple[slice, ...]:
    """As many samples in each as the caller or the memory bound says."""
    if size is None:
        limit = MEMORY_LIMIT if function.device.type == "cpu" else GPU_MEMORY_LIMIT
        kept = bytes_per_sample(function.own_forward, tuple(function.policy.parameters()), n_samples, limit)
        size = limit // (GRAPHS_PER_PRODUCT * kept)
        # Smaller chunks are cheaper than recomputation, as long as there are any.
        function.recomputes = size == 0
        size = max(1, size)
    return chunked(n_samples, min(n_samples, size))


def _curvature(
    function: PolicyFunction,
    own_phi: Tensor,
    distribution: ActionDistribution,
    kl_scale: float,
    chunks: tuple[slice, ...],
    choice: Choice | None,
    reducer: Reducer,
) -> Curvature:
    stack = actor_stack(function, own_phi)
    # Plain layers run in any precision, once the ladder has found them to be the actor.
    known = stack is not None and choice is not None and choice.rung.rung is Rung.CLOSED_FORM
    double = everywhere(known or function.runs_in(torch.float64), reducer)
    theta = function.theta(torch.float64 if double else torch.float32)
    mean = WeightedMean(torch.ones(len(own_phi), dtype=torch.float64, device=function.device), chunks, reducer)
    return Curvature(function, theta, distribution, kl_scale, mean, stack)


def _chosen(curvature: Curvature, earlier: Choice | None) -> Choice:
    has_stack, is_whole = curvature.mlp is not None, len(curvature.mean.chunks) == 1
    if earlier is not None and (earlier.has_stack, earlier.is_whole) == (has_stack, is_whole):
        return earlier
    return Choice(choose_rung(curvature, is_whole, torch.Generator().manual_seed(0)), has_stack, is_whole)


def _judged(
    policy: ActorCriticPolicy, batch: RolloutBatch, linearised: FisherOperator, own_phi: Tensor
) -> tuple[Surrogate, Tensor, Tensor]:
    """The surrogate around pi_k; divergences of behaviour from policy, and of the policy's own precision from float64."""
    curvature = linearised.curvature
    distribution, device = action_distribution(policy), own_phi.device
    phi = linearised.phi().double()
    stored, behaviour_log_prob = (tensor.to(device) for tensor in base_actions(policy, batch.actions, batch.log_prob))
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
    return surrogate, curvature.scale * torch.stack(evidence, dim=-1), curvature.scale * torch.stack(noise, dim=-1)


def _thinned(mean: WeightedMean, size: int, n_kept: int, generator: torch.Generator) -> WeightedMean:
    rows = torch.randperm(len(mean.weights), generator=generator)[: max(1, n_kept)].sort().values
    return mean.subsample(rows.to(mean.weights.device), size)


def _believed(phi: Tensor | None, distribution: ActionDistribution, actions: Tensor, log_prob: Tensor) -> Tensor | None:
    """The recorded phi, if they explain the stored log-probabilities: a custom policy may act in another way."""
    if phi is None:
        return None
    phi = phi.to(actions.device).double()
    gap = (distribution.log_prob(phi, actions) - log_prob).abs()
    return phi if bool((gap <= LOG_PROB_TOLERANCE * (1.0 + log_prob.abs())).all()) else None


def explained_variance(values: Tensor, returns: Tensor, reducer: Reducer = single_process) -> float | None:
    """
    Share of the returns' variance that values explain: 1 - Var(returns - values) / Var(returns).

    :param values: predicted, shape (n,)
    :param returns: targets, shape (n,)
    :param reducer: combines those of all processes
    :return: at most 1; None if the returns don't vary
    """
    values, returns = in_float64(values), in_float64(returns)
    if reducer is not single_process:
        return _explained_everywhere(values, returns, reducer)
    variance = float(returns.var(correction=0))
    if variance == 0.0:
        return None
    return 1.0 - float((returns - values).var(correction=0)) / variance


def _explained_everywhere(values: Tensor, returns: Tensor, reducer: Reducer) -> float | None:
    """The same over processes, around one of the returns: constant ones give exactly 0."""
    some = reducer(returns[:1], "max")
    both = torch.stack([returns - some, returns - values])
    *sums, count = reducer(torch.cat([both.sum(dim=1), both.new_tensor([len(returns)])])).tolist()
    centres = both.new_tensor(sums).unsqueeze(-1) / count
    variance, unexplained = reducer((both - centres).square().sum(dim=1)).tolist()
    return None if variance == 0.0 else 1.0 - unexplained / variance


def in_float64(tensor: Tensor) -> Tensor:
    """
    Cast to float64, on a device that has it: moved before it is cast.

    :param tensor: any tensor
    :return: the same numbers
    """
    return tensor.to(computing_device(tensor.device)).double()
