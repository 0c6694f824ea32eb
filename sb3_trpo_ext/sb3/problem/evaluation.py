"""From a policy and a batch to the problem that ``core.update`` solves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.ladder import LADDER, choose_rung
from sb3_trpo_ext.core.reduce import Reducer, WeightedMean, everywhere, single_process
from sb3_trpo_ext.core.update import PolicyProblem
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction
from sb3_trpo_ext.sb3.problem.actor_stack import actor_stack
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.kfac import policy_preconditioner
from sb3_trpo_ext.sb3.problem.origin import Origin, judge_origin
from sb3_trpo_ext.sb3.problem.reading import ActorReading, read_actor
from sb3_trpo_ext.sb3.problem.statistics import explained_variance


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
    actor = read_actor(policy, batch, chunk_size)
    linearised, choice = choose_products(actor, kl_scale, choice, reducer)
    origin = judge_origin(actor, batch, linearised)
    problem = assemble(actor, batch, linearised, origin, draws)
    return Evaluated(problem, actor.function, actor.chunks, choice)


def choose_products(
    actor: ActorReading, kl_scale: float, earlier: Choice | None, reducer: Reducer
) -> tuple[FisherOperator, Choice | None]:
    """
    Choose precision and rung of the Fisher products.

    :param actor: the actor
    :param kl_scale: bounded KL = kl_scale * joint KL
    :param earlier: choice of an earlier batch
    :param reducer: combines means over processes
    :return: the actor at theta_k, and the choice; None for a policy that does not repeat
    """
    curvature = _curvature(actor, kl_scale, earlier, reducer)
    # Products of a policy that does not repeat agree with no others: it never comes to them.
    choice = _chosen(curvature, earlier) if actor.repeats else None
    rung = LADDER[-1] if choice is None else choice.rung
    if rung.rung is not Rung.CLOSED_FORM:
        # What the ladder has refused as the actor's derivative must not stand in for the actor either.
        curvature = replace(curvature, mlp=None)
    return FisherOperator(curvature, rung), choice


def _curvature(actor: ActorReading, kl_scale: float, choice: Choice | None, reducer: Reducer) -> Curvature:
    function, own_phi = actor.function, actor.own_phi
    stack = actor_stack(function, own_phi)
    # Plain layers run in any precision, once the ladder has found them to be the actor.
    known = stack is not None and choice is not None and choice.rung.rung is Rung.CLOSED_FORM
    double = everywhere(known or function.runs_in(torch.float64), reducer)
    theta = function.theta(torch.float64 if double else torch.float32)
    mean = WeightedMean(torch.ones(len(own_phi), dtype=torch.float64, device=function.device), actor.chunks, reducer)
    return Curvature(function, theta, actor.distribution, kl_scale, mean, stack)


def _chosen(curvature: Curvature, earlier: Choice | None) -> Choice:
    has_stack, is_whole = curvature.mlp is not None, len(curvature.mean.chunks) == 1
    if earlier is not None and (earlier.has_stack, earlier.is_whole) == (has_stack, is_whole):
        return earlier
    return Choice(choose_rung(curvature, is_whole, torch.Generator().manual_seed(0)), has_stack, is_whole)


def assemble(
    actor: ActorReading, batch: RolloutBatch, linearised: FisherOperator, origin: Origin, draws: Draws
) -> PolicyProblem:
    """
    Put the policy step's data together.

    :param actor: the actor
    :param batch: the rollout
    :param linearised: the actor at theta_k
    :param origin: surrogate, evidence and noise
    :param draws: what of the Fisher products is random
    :return: the problem
    """
    function, surrogate, mean = actor.function, origin.surrogate, origin.surrogate.mean
    thinned = None if draws.sub_sample is None else _thinned(mean, actor.chunks[0].stop, *draws.sub_sample)
    preconditioner = None
    if draws.scores is not None:
        scale = linearised.curvature.scale
        preconditioner = partial(policy_preconditioner, function, actor.distribution, thinned or mean, scale, draws.scores)
    cells = batch.cells()
    return PolicyProblem(
        surrogate=surrogate,
        parameters=function.parameters,
        linearised=linearised,
        thinned_mean=thinned,
        evidence=origin.evidence,
        noise=origin.noise,
        cells=None if cells is None else cells.to(function.device),
        explained_variance=explained_variance(batch.values, batch.returns, mean.reducer),
        preconditioner=preconditioner,
    )


def _thinned(mean: WeightedMean, size: int, n_kept: int, generator: torch.Generator) -> WeightedMean:
    rows = torch.randperm(len(mean.weights), generator=generator)[: max(1, n_kept)].sort().values
    return mean.subsample(rows.to(mean.weights.device), size)
