"""What the ranks of the tests do; in a module of its own, so that other processes can import it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_trpo_ext.core.critic import CriticSettings
from sb3_trpo_ext.core.flat import Snapshot, flatten
from sb3_trpo_ext.core.objective import prepare_advantages
from sb3_trpo_ext.core.update import update_policy
from sb3_trpo_ext.sb3.problem.actor import map_tensors
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch, read_batch
from sb3_trpo_ext.sb3.problem.critic import Critic
from sb3_trpo_ext.sb3.problem.evaluation import Draws, evaluate_batch
from sb3_trpo_ext.sb3.ranks.group import Ranks
from sb3_trpo_ext.sb3.ranks.minibatches import share_of_minibatches
from tests.sb3.spaces import collect, make_model

KINDS = ("box", "sde", "sde_thin_expln", "sde_squashed", "discrete", "multidiscrete", "multibinary")
N_STEPS, N_ENVS = 30, 4
N_SAMPLES = N_STEPS * N_ENVS
CG_STEPS = 8
"""These networks have some 80 parameters: of more steps the last ones fit rounding, until the solve has converged."""

Meet = Callable[[], None]


def shares(size: int, equal: bool) -> list[list[int]]:
    """Which samples each rank has: as many each, or the more the higher the rank; in no order."""
    order = torch.randperm(N_SAMPLES, generator=torch.Generator().manual_seed(size)).tolist()
    weights = [1 if equal else 1 + 2 * rank for rank in range(size)]
    ends = [round(N_SAMPLES * sum(weights[:rank]) / sum(weights)) for rank in range(size + 1)]
    return [order[start:end] for start, end in pairwise(ends)]


def part_of(batch: RolloutBatch, rows: list[int]) -> RolloutBatch:
    def take(tensor: Tensor) -> Tensor:
        return tensor[rows]

    return replace(
        batch,
        observations=map_tensors(take, batch.observations),
        places=torch.tensor(rows),
        phi=None if batch.phi is None else batch.phi[rows],
        **{name: getattr(batch, name)[rows] for name in ("actions", "values", "log_prob", "advantages", "returns")},
    )


def model_and_batch(kind: str, settings: dict[str, Any]) -> tuple[Any, RolloutBatch]:
    """The same in every process, as long as it is no rank yet."""
    settings = {"cg_max_steps": CG_STEPS, "cg_precision": "float64", "batch_size": N_SAMPLES, **settings}
    model = collect(make_model(kind, n_envs=N_ENVS, n_steps=N_STEPS, **settings))
    model.policy.set_training_mode(False)
    return model, read_batch(model.rollout_buffer, model.session.recorder)


def policy_step(model: Any, batch: RolloutBatch, ranks: Ranks) -> dict[str, Any]:
    """Everything that the policy step computes on the way, and what it decides; the policy is left as it was."""
    before = Snapshot.take(model.policy.parameters())
    asked = model.hyperparameters()
    evaluated = evaluate_batch(model.policy, batch, asked.kl_scale, None, None, Draws(None, asked.scores()), ranks.reducer)
    problem = evaluated.problem
    mean = problem.surrogate.mean
    advantages = prepare_advantages(problem.surrogate.advantages, mean, True)
    surrogate = replace(problem.surrogate, advantages=advantages.values)
    g = problem.linearised.gradient(surrogate.slopes)
    vectors = torch.randn(3, len(g), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before_products = replace(ranks.traffic)
    products = torch.stack([problem.linearised.product(vector) for vector in vectors])
    sent = ranks.traffic.collectives - before_products.collectives, ranks.traffic.bytes - before_products.bytes
    statistics = {
        "advantages": torch.tensor([advantages.mean, advantages.std], dtype=torch.float64),
        "gradient": g,
        "products": products,
        "judgement": numbers(surrogate.evaluate(tuple(part + 1e-3 for part in problem.theta))),
        "explained variance": torch.tensor([problem.explained_variance], dtype=torch.float64),
    }
    result = update_policy(problem, asked.policy_settings(sum(part.numel() for part in problem.parameters)), asked.damping)
    after = flatten(part.detach() for part in problem.parameters)
    before.restore()
    assert result.solve is not None
    assert result.search is not None
    trials = result.search.trials
    decisions = (result.status, result.check.status, result.solve.result.status, [trial.status for trial in trials])
    direction = result.solve.direction
    assert direction is not None
    found = {"direction": direction.vector, "scale": torch.tensor([direction.scale.scale], dtype=torch.float64)}
    judged = torch.stack([numbers(trial.evaluation) for trial in trials])
    return {"sent": sent, "statistics": statistics, "solve": found, "decisions": decisions, "after": after, "judged": judged}


def numbers(evaluation: Any) -> Tensor:
    names = ("kl", "kl_joint", "kl_reverse", "kl_max", "improvement")
    return torch.tensor([getattr(evaluation, name) for name in names], dtype=torch.float64)


def policy_steps(meet: Meet, cuts: list[list[list[int]]], cases: list[tuple[str, dict[str, Any]]]) -> Any:
    """For each case and each way to cut the batch: this rank's step, on its own share."""
    made = [model_and_batch(kind, settings) for kind, settings in cases]
    meet()
    ranks = Ranks.join()
    return [[policy_step(model, part_of(batch, cut[ranks.rank]), ranks) for cut in cuts] for model, batch in made]


def whole_steps(cases: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same in one process, with the whole batch."""
    return [policy_step(*model_and_batch(kind, settings), Ranks()) for kind, settings in cases]


def critic_epochs(model: Any, batch: RolloutBatch, batch_size: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    evaluated = evaluate_batch(model.policy, batch, model.hyperparameters().kl_scale, None, reducer=ranks.reducer)
    buffer: RolloutBuffer = model.rollout_buffer
    share = share_of_minibatches(batch, batch_size, buffer, ranks)
    critic = Critic(model.policy, batch, buffer, batch_size, evaluated, ranks.reducer, share)
    result = critic.fit(CriticSettings(3, 3))
    losses = torch.tensor([result.loss_before, result.loss_after, result.mean_minibatch_loss], dtype=torch.float64)
    return losses, flatten(parameter.detach() for parameter in critic.parameters)


def critics(meet: Meet, cut: list[list[int]], batch_size: int, cases: list[tuple[str, dict[str, Any]]]) -> Any:
    made = [model_and_batch(kind, settings) for kind, settings in cases]
    meet()
    ranks = Ranks.join()
    return [critic_epochs(model, part_of(batch, cut[ranks.rank]), batch_size, ranks) for model, batch in made]


def whole_critics(cases: list[tuple[str, dict[str, Any]]]) -> list[tuple[Tensor, Tensor]]:
    return [critic_epochs(*model_and_batch(kind, settings), N_SAMPLES, Ranks()) for kind, settings in cases]
