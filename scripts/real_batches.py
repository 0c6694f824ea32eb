"""
Batches of the policies that scripts/collect_batches.py keeps, and the policy step that ``TRPO.train`` would do with one.

All that the measurements know about the inside of ``TRPO.train`` is in this file.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from collect_batches import Checkpoint
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import sb3_trpo_ext.sb3.hyperparameters as library_settings
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.cg import CGResult, CGSettings
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.flat import as_deployed, flatten
from sb3_trpo_ext.core.objective import Evaluation, Surrogate, prepare_advantages
from sb3_trpo_ext.core.preconditioner import KroneckerPreconditioner
from sb3_trpo_ext.core.step_scale import StepScale
from sb3_trpo_ext.core.update import PolicySettings, find_direction, fisher_operators
from sb3_trpo_ext.sb3.hyperparameters import Hyperparameters
from sb3_trpo_ext.sb3.problem.batch import read_batch
from sb3_trpo_ext.sb3.problem.evaluation import Evaluated, evaluate_batch
from sb3_trpo_ext.sb3.problem.kfac import policy_preconditioner


def kept_policy(checkpoint: Checkpoint, seed: int, sigma: float | None = None, cls: type[Any] = TRPO, **changes: Any) -> Any:
    """
    Load a policy with environments that begin anew.

    :param checkpoint: which
    :param seed: of the environments and the actions
    :param sigma: standard deviation that all actions get; None: as trained
    :param cls: class of the model
    :param changes: of its arguments
    :return: the model, ready to collect
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is risky was said when it was trained
        model = cls.load(checkpoint.path("zip"), device="cpu", custom_objects=changes)
    env: VecEnv = make_vec_env(checkpoint.task, model.n_envs, seed=seed)
    if checkpoint.path("pkl").exists():
        env = VecNormalize.load(str(checkpoint.path("pkl")), env)  # it goes on learning, as in training
    model.set_env(env)
    model.set_logger(configure(None, []))
    if sigma is not None:
        torch.nn.init.constant_(model.policy.log_std, float(np.log(sigma)))
    return model


def collect(model: Any, seed: int) -> None:
    """
    Collect one rollout as training does.

    :param model: from ``kept_policy``; its buffer is filled
    :param seed: of the actions
    """
    _, callback = model._setup_learn(10**9)
    set_random_seed(seed)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    model.policy.set_training_mode(False)


@dataclass(frozen=True)
class PolicyStep:
    """
    The policy step of one batch, before its linear system is solved.

    :param evaluated: the batch, as ``TRPO.train`` sees it
    :param settings: how to step
    :param surrogate: objective, with the advantages as used
    :param g: its gradient, shape (n,), float64
    :param asked: hyperparameters of the update, which decide what scores K-FAC samples
    :param unit: the KL's unit over sb3-contrib's, from ``contrib_unit``
    """

    evaluated: Evaluated
    settings: PolicySettings
    surrogate: Surrogate
    g: torch.Tensor
    asked: Hyperparameters
    unit: float

    def solve(
        self, precision: str, keep: int, iterations: int, damping: float, preconditioner: str = "none"
    ) -> tuple[CGResult, StepScale | None]:
        """
        Solve for the search direction: operators, preconditioner, iterations and verification. No early stop.

        :param precision: "float64", "mixed" or "float32"
        :param keep: residuals that CG orthogonalises against; 0: plain
        :param iterations: of CG, at most
        :param damping: lambda
        :param preconditioner: "none" or "kfac"
        :return: the solve, and how far the step goes; None: it goes nowhere
        """
        factors = None if preconditioner == "none" else self._factors
        problem = replace(self.evaluated.problem, preconditioner=factors)
        cg = CGSettings(iterations, self.settings.cg.rtol, keep)
        settings = replace(self.settings, cg=cg, cg_precision=precision)
        fixed = DampingState(damping, damping, damping, adaptive=False)
        solve = find_direction(fisher_operators(problem, settings), settings, fixed, self.g)
        scale = None if solve.direction is None or solve.direction.fallback else solve.direction.scale
        return solve.result, scale

    def contrib_solution(self, iterations: int, damping: float) -> torch.Tensor:
        """
        Solve as sb3-contrib does: its own solver, from its (here seeded) noise, float32 gradient and products, in its unit.

        :param iterations: of CG, at most
        :param damping: lambda
        :return: its solution, shape (n,), float32
        """
        operators = fisher_operators(self.evaluated.problem, replace(self.settings, cg_precision="float32"))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            solution: torch.Tensor = conjugate_gradient_solver(
                lambda vector: operators.fast.damped_product(vector, damping) / self.unit, self.g.float(), max_iter=iterations
            )
        return solution / self.unit

    def exact_product(self, vector: torch.Tensor, damping: float) -> torch.Tensor:
        """
        Multiply in float64.

        :param vector: shape (n,)
        :param damping: lambda
        :return: (F + lambda I) v
        """
        return self.evaluated.problem.linearised.damped_product(vector.double(), damping)

    def gain(self, x: torch.Tensor, damping: float) -> float:
        """
        Evaluate the quadratic model in float64.

        :param x: a solution, shape (n,)
        :param damping: lambda
        :return: gᵀx - xᵀ(F + lambda I)x/2
        """
        return float(self.g.dot(x.double()) - 0.5 * x.double().dot(self.exact_product(x, damping)))

    def judge(self, step: torch.Tensor) -> Evaluation:
        """
        Evaluate a step in float64, on the parameters as deployed.

        :param step: of the parameters, shape (n,)
        :return: KL and improvement
        """
        problem = self.evaluated.problem
        deployed = as_deployed(flatten(problem.theta).double() + step, problem.parameters)
        return self.surrogate.evaluate(tuple(part.double() for part in deployed))

    def _factors(self) -> KroneckerPreconditioner:
        asked = replace(self.asked, arguments={**self.asked.arguments, "cg_preconditioner": "kfac"})
        surrogate, generator = self.surrogate, asked.scores()
        assert generator is not None
        arguments = (surrogate.distribution, surrogate.mean, surrogate.kl_scale, generator)
        return policy_preconditioner(self.evaluated.function, *arguments)


def contrib_unit(model: TRPO) -> float:
    """
    Compare the unit of the KL, and so of delta and lambda, with sb3-contrib's.

    :param model: ours
    :return: 1, or the number of action dimensions that sb3-contrib averages over and the model sums
    """
    shape = model.action_space.shape
    return float(shape[0]) if model.kl_unit == "joint" and shape else 1.0


def policy_step(model: TRPO) -> PolicyStep:
    """
    Do what ``TRPO.train`` does before it solves.

    :param model: with a full buffer, from ``collect``
    :return: the policy step
    """
    batch = read_batch(model.rollout_buffer, model.session.recorder)
    asked = model.hyperparameters()
    evaluated = evaluate_batch(model.policy, batch, asked.kl_scale, model.fisher_chunk_size)
    settings = asked.policy_settings(sum(part.numel() for part in evaluated.problem.parameters))
    raw = evaluated.problem.surrogate
    advantages = prepare_advantages(raw.advantages, raw.mean, settings.normalize_advantage)
    surrogate = replace(raw, advantages=advantages.values)
    g = evaluated.problem.linearised.gradient(surrogate.slopes).double()
    return PolicyStep(evaluated, settings, surrogate, g, asked, contrib_unit(model))


def batch_of(checkpoint: Checkpoint, sigma: float | None, seed: int) -> tuple[PolicyStep, Any]:
    """
    Collect a batch.

    :param checkpoint: the policy
    :param sigma: its standard deviation if changed
    :param seed: of environments and actions
    :return: its policy step, and the model
    """
    model = kept_policy(checkpoint, seed, sigma)
    collect(model, seed)
    return policy_step(model), model


def without_early_stop() -> AbstractContextManager[Any]:
    """
    Let ``TRPO.train`` do all of ``cg_max_steps``: a preconditioned solve does not stop once its model has settled.

    :return: within it, the share by which the model must fall is 0
    """
    return mock.patch.object(library_settings, "SETTLED_PROGRESS", 0.0)
