"""What is measured: a shape, a size, a number of iterations, a mode; and the environment that makes the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor, nn

EQUAL_WORK, AS_SHIPPED = "equal work", "as shipped"
BATCH_SIZE = 128
DAMPING = 0.1
N_STEPS = 1024
LAST_LAYER_STD = 0.2


@dataclass(frozen=True)
class Shape:
    """
    A robot's numbers.

    :param observations: number of observations
    :param actions: number of action dimensions
    :param target_kl: the Zoo's delta, a mean over action dimensions
    """

    observations: int
    actions: int
    target_kl: float


SHAPES = {"halfcheetah": Shape(17, 6, 0.04), "hopper": Shape(11, 3, 0.01), "humanoid": Shape(348, 17, 0.01)}


@dataclass(frozen=True)
class Cell:
    """
    One comparison.

    :param shape: a key of ``SHAPES``
    :param samples: samples in the batch
    :param cg_steps: CG iterations
    :param mode: ``EQUAL_WORK``: early exits are off on all sides; ``AS_SHIPPED``: each side exits as it does by default
    :param critic_epochs: critic epochs, in minibatches of ``BATCH_SIZE``
    """

    shape: str
    samples: int
    cg_steps: int
    mode: str
    critic_epochs: int

    @property
    def robot(self) -> Shape:
        """Its numbers."""
        return SHAPES[self.shape]

    @property
    def equal_work(self) -> bool:
        """Whether early exits are off."""
        return self.mode == EQUAL_WORK

    @property
    def n_envs(self) -> int:
        """Environments: the Zoo's two at 2,048 samples."""
        return max(2, self.samples // N_STEPS)

    @property
    def joint_kl(self) -> float:
        """Delta in the unit of the peers: summed over action dimensions."""
        return self.robot.actions * self.robot.target_kl

    @property
    def joint_damping(self) -> float:
        """Lambda in the unit of the peers: with both converted, first steps are the same."""
        return self.robot.actions * DAMPING


class RobotLike(gym.Env[np.ndarray, np.ndarray]):
    """
    Costs nothing and looks like a robot to the optimiser: slow latent states that actions move, seen through correlated
    observations of unit variance whose spectrum decays, and a reward that depends on state and action. On independent noise
    CG converges within a few iterations, and then divides 0 by 0 where its exit is off.

    :param shape: numbers of observations and actions
    """

    def __init__(self, shape: Shape):
        self.observation_space = spaces.Box(-np.inf, np.inf, (shape.observations,))
        self.action_space = spaces.Box(-1.0, 1.0, (shape.actions,))
        # The robot is the same in every environment; only what happens to it differs.
        robot = np.random.default_rng(0)
        size = shape.observations
        spectrum = 1.0 / np.arange(1, size + 1)
        mixing = robot.standard_normal((size, size)) * spectrum
        self._mixing = mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
        self._push = 0.3 * robot.standard_normal((shape.actions, size))
        self._wish = robot.standard_normal((size, shape.actions)) * spectrum[:, None]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._latent = self.np_random.standard_normal(len(self._mixing))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; episodes are 1,000 steps on average."""
        reward = float(self._latent @ self._wish @ action - 0.1 * np.square(action).sum())
        noise = self.np_random.standard_normal(len(self._latent))
        self._latent = 0.95 * self._latent + np.sqrt(1.0 - 0.95**2) * (noise + action @ self._push)
        return self._observe(), reward, bool(self.np_random.random() < 1e-3), False, {}

    def _observe(self) -> np.ndarray:
        observation: np.ndarray = (self._mixing @ self._latent).astype(np.float32)
        return observation


def make_env(cell: Cell) -> VecEnv:
    """
    Make the environments that the batch comes from.

    :param cell: what is measured
    :return: robot-like ones
    """
    return DummyVecEnv([partial(RobotLike, cell.robot)] * cell.n_envs)


def season(policy: ActorCriticPolicy) -> None:
    """
    Make a fresh policy look trained to the optimiser: its means depend on the state, and its noise is small.

    :param policy: an MlpPolicy, whose last layer begins at almost zero
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        policy.action_net.weight.normal_(0.0, LAST_LAYER_STD, generator=generator)
        policy.log_std.uniform_(-1.5, -0.5, generator=generator)


@dataclass(frozen=True)
class Batch:
    """
    What every side gets: one rollout, and the network that collected it.

    :param observations: shape (n, n_observations)
    :param actions: shape (n, n_actions)
    :param log_prob: of the actions, shape (n,)
    :param advantages: raw, shape (n,)
    :param returns: the critic's targets, shape (n,)
    :param actor: log std, then weight and bias of each layer
    :param critic: weight and bias of each layer
    """

    observations: Tensor
    actions: Tensor
    log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    actor: tuple[Tensor, ...]
    critic: tuple[Tensor, ...]

    def same(self, other: Batch) -> bool:
        """
        Compare bit for bit.

        :param other: another batch
        :return: whether they are the same
        """
        return all(_same(mine, theirs) for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor):
        return torch.equal(mine, theirs)
    return len(mine) == len(theirs) and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def layers(*modules: nn.Module) -> tuple[nn.Parameter, ...]:
    """
    List the parameters of networks, layer by layer.

    :param modules: networks
    :return: weight and bias of each Linear in them
    """
    linear = [module for part in modules for module in part.modules() if isinstance(module, nn.Linear)]
    return tuple(parameter for module in linear for parameter in (module.weight, module.bias))


def overwrite(parameters: tuple[nn.Parameter, ...], values: tuple[Tensor, ...]) -> None:
    """
    Put other values in place of parameters.

    :param parameters: the parameters
    :param values: as many, of the same numbers of elements
    """
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value.view_as(parameter))


def joint_kl(batch: Batch, actor: tuple[Tensor, ...]) -> float:
    """
    Measure how far an actor has moved, in float64 and by a formula of its own.

    :param batch: data and the actor that collected them
    :param actor: the actor after an update
    :return: mean KL(new || old), summed over action dimensions
    """
    new_mean, new_std = _gaussian(actor, batch.observations)
    old_mean, old_std = _gaussian(batch.actor, batch.observations)
    ratio = (new_std / old_std).square()
    return float(0.5 * (ratio + ((new_mean - old_mean) / old_std).square() - 1.0 - ratio.log()).sum(dim=-1).mean())


def _gaussian(actor: tuple[Tensor, ...], observations: Tensor) -> tuple[Tensor, Tensor]:
    log_std, *rest = (part.detach().double() for part in actor)
    hidden = observations.double()
    while rest:
        weight, bias, *rest = rest
        hidden = hidden @ weight.T + bias
        hidden = hidden.tanh() if rest else hidden
    return hidden, log_std.flatten().exp()
