"""One small run for each alarm that truly provokes it: bad settings, bad rewards, a bad environment, planted dead units."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_trpo_ext import TRPO

Rng = np.random.Generator
DISCRETE, BOX = spaces.Discrete(4), spaces.Box(-100.0, 100.0, (2,))
N_STEPS = 128


@dataclass
class Moment:
    """What rewards and observations may depend on."""

    seen: np.ndarray
    time: int
    total: int
    rng: Rng


def follow(moment: Moment, action: np.ndarray) -> float:
    """Something to learn: the action should follow the observation."""
    return -float(np.square(action[0] - moment.seen[0])) + 0.1 * float(moment.rng.standard_normal())


def first_is_best(_: Moment, action: np.ndarray) -> float:
    return float(action[0] == 0)


class Small(gym.Env):
    """Independent standard normal observations; anything else is said by two functions."""

    def __init__(
        self,
        reward: Callable[[Moment, np.ndarray], float] = follow,
        observe: Callable[[Moment], np.ndarray] | None = None,
        action_space: spaces.Space = BOX,
        horizon: int = 32,
        terminates: bool = False,
    ):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = action_space
        self._reward, self._observe_as = reward, observe
        self._horizon, self._terminates = horizon, terminates
        self.total = 0
        self.seen = np.zeros(3, np.float32)

    def _moment(self) -> Moment:
        return Moment(self.seen, self.time, self.total, self.np_random)

    def _observe(self) -> np.ndarray:
        drawn = self.np_random.standard_normal(3) if self._observe_as is None else self._observe_as(self._moment())
        self.seen = np.asarray(drawn, dtype=np.float32)
        return self.seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self._reward(self._moment(), np.asarray(action, dtype=np.float64).reshape(-1))
        self.time += 1
        self.total += 1
        over = self.time >= self._horizon
        return self._observe(), reward, over and self._terminates, over and not self._terminates, {}


def make_model(env: dict[str, Any] | None = None, relu: bool = False, **settings: Any) -> TRPO:
    chosen: dict[str, Any] = {
        "n_steps": N_STEPS,
        "batch_size": 128,
        "n_critic_updates": 10,
        "kl_reduction": "joint",
        "seed": 0,
        "device": "cpu",
        "warn_on_risky": False,
        "policy_kwargs": {"net_arch": [16, 16], "activation_fn": nn.ReLU if relu else nn.Tanh},
    }
    return TRPO("MlpPolicy", make_vec_env(Small, n_envs=2, seed=0, env_kwargs=env or {}), **{**chosen, **settings})


def follow_and_tell(moment: Moment, action: np.ndarray) -> float:
    """Something for the critic to learn, too."""
    return follow(moment, action) + 3.0 * float(moment.seen[1])


def healthy(relu: bool = False) -> TRPO:
    return make_model({"reward": follow_and_tell}, relu, learning_rate=3e-3, gamma=0.5)


# ---------------------------------------------------------------- KL and line search


def outlier_among_states() -> TRPO:
    """Once the monitor knows what is usual, one state in a hundred is a sensor's glitch."""

    def observe(now: Moment) -> np.ndarray:
        glitch = now.total > 14 * N_STEPS and now.rng.random() < 0.005
        return now.rng.standard_normal(3) * (300.0 if glitch else 1.0)

    return make_model({"observe": observe}, relu=True)


def observations_change_scale() -> TRPO:
    def observe(now: Moment) -> np.ndarray:
        return now.rng.standard_normal(3) * (20.0 if now.total >= 6 * N_STEPS else 1.0)

    return make_model({"observe": observe, "reward": lambda now, action: follow(now, action) / 20.0}, relu=True)


def trust_region_too_large() -> TRPO:
    fixed = {"cg_damping": 1e-4, "adaptive_damping": False}
    return make_model(target_kl=0.5, line_search_shrinking_factor=0.95, line_search_max_iter=40, **fixed)


def one_candidate_only() -> TRPO:
    return make_model({}, target_kl=0.5, cg_damping=1e-4, adaptive_damping=False, line_search_max_iter=1)


def too_much_damping() -> TRPO:
    return make_model(cg_damping=1e3, adaptive_damping=False)


# ---------------------------------------------------------------- entropy


def loophole_and_large_steps() -> TRPO:
    return make_model({"action_space": DISCRETE, "reward": first_is_best}, target_kl=0.3)


def loophole_of_two_actions() -> TRPO:
    """At sb3-contrib's own target_kl."""
    return make_model({"action_space": spaces.Discrete(2), "reward": first_is_best}, target_kl=0.01)


def loophole_and_small_steps() -> TRPO:
    return make_model({"action_space": DISCRETE, "reward": first_is_best}, target_kl=0.02)


def noise_is_rewarded() -> TRPO:
    return make_model({"reward": lambda _, action: float(np.abs(action).sum())}, target_kl=0.05)


# ---------------------------------------------------------------- neurons


def planted(share: float) -> TRPO:
    model = make_model(relu=True)
    layer = model.policy.mlp_extractor.policy_net[2]
    with torch.no_grad():
        layer.bias[: round(share * len(layer.bias))] = -100.0
    return model


def steps_that_kill() -> TRPO:
    """A third of the critic's second layer dies within the first update."""
    return make_model(relu=True, learning_rate=0.1)


def saturated_critic() -> TRPO:
    """Rewards of thousands, and a critic that goes after them fast: what it explains is 0 but for rounding."""
    return make_model({"reward": lambda now, action: 1e3 * follow(now, action)}, learning_rate=0.03)


def observations_of_one_sign() -> TRPO:
    return make_model({"observe": lambda now: 0.4 + 0.3 * now.rng.random(3)}, relu=True)


def observations_without_a_scale() -> TRPO:
    return make_model({"observe": lambda now: 12.0 + now.rng.standard_normal(3)})


# ---------------------------------------------------------------- conjugate gradient


def unsolvable(**settings: Any) -> TRPO:
    return make_model(cg_precision="float32", cg_rtol=0.0, cg_max_steps=400, **settings)


# ---------------------------------------------------------------- critic


def learning_rate_grows() -> TRPO:
    """A schedule the wrong way round; a critic without hidden units has none to lose."""
    nets = {"net_arch": {"pi": [16], "vf": []}}
    return make_model(learning_rate=lambda remaining: 10.0 ** (6.0 - 6.0 * remaining), policy_kwargs=nets)


def rewards_become_noise() -> TRPO:
    def reward(now: Moment, action: np.ndarray) -> float:
        noise = 30.0 * float(now.rng.standard_normal()) if now.total > 12 * N_STEPS else 0.0
        return 3.0 * float(now.seen[0]) + noise

    return make_model({"reward": reward}, learning_rate=3e-3, gamma=0.5)


def wrong_and_smooth_critic() -> TRPO:
    """Values of neighbouring states are alike, whatever they are: bootstrapped targets look well explained."""

    def observe(now: Moment) -> np.ndarray:
        return now.seen + 0.05 * now.rng.standard_normal(3) if now.time else now.rng.standard_normal(3)

    model = make_model({"observe": observe, "horizon": 64}, gae_lambda=0.0, learning_rate=1e-9)
    with torch.no_grad():
        model.policy.value_net.weight.mul_(30.0)
    return model


# ---------------------------------------------------------------- advantages


def jackpot(now: Moment, action: np.ndarray) -> float:
    return 1000.0 * (now.rng.random() < 0.004) + follow(now, action)


def phase(now: Moment, _: np.ndarray) -> float:
    return (1.0 if now.time < 64 else -1.0) + 0.3 * float(now.rng.standard_normal())


def sometimes_nothing() -> TRPO:
    """A sensor that fails in one step of thirty."""

    def reward(now: Moment, action: np.ndarray) -> float:
        return float("nan") if now.rng.random() < 1.0 / 30.0 else follow(now, action)

    return make_model({"reward": reward}, on_nonfinite="truncate")


SCENARIOS: dict[str, tuple[Callable[[], TRPO], int]] = {
    "TR101": (outlier_among_states, 22),
    "TR102": (observations_change_scale, 8),
    "TR103": (trust_region_too_large, 12),
    "TR104": (one_candidate_only, 12),
    "TR105": (too_much_damping, 12),
    "TR201": (loophole_of_two_actions, 16),
    "TR202": (loophole_and_small_steps, 34),
    "TR203": (noise_is_rewarded, 20),
    "TR301": (steps_that_kill, 4),
    "TR302": (observations_without_a_scale, 4),
    "TR303": (lambda: planted(1.0), 4),
    "TR304": (saturated_critic, 5),
    "TR305": (observations_of_one_sign, 4),
    "TR401": (lambda: unsolvable(cg_damping=0.0, adaptive_damping=False), 5),
    "TR402": (lambda: unsolvable(cg_damping=1e-12, cg_damping_range=(1e-12, 10.0)), 5),
    "TR403": (lambda: make_model(cg_max_steps=1, cg_damping=1e-5), 12),
    "TR404": (lambda: make_model(cg_damping=1e-3, cg_damping_range=(1e-3, 1.1e-3), target_kl=1.0), 12),
    "TR501": (learning_rate_grows, 12),
    "TR502": (lambda: make_model({"reward": lambda now, action: 1e19 * follow(now, action)}), 2),
    "TR503": (saturated_critic, 24),
    "TR504": (rewards_become_noise, 26),
    "TR505": (wrong_and_smooth_critic, 12),
    "TR601": (lambda: make_model({"reward": lambda now, action: 1.0}, learning_rate=1e-9), 22),
    "TR602": (lambda: make_model({"reward": phase, "horizon": 128, "terminates": True}), 24),
    "TR603": (lambda: make_model({"reward": jackpot}, gamma=0.3, gae_lambda=0.3), 8),
    "TR604": (lambda: make_model({"reward": lambda *_: 1.0, "observe": lambda _: np.ones(3), "horizon": 1}), 4),
    "TR605": (sometimes_nothing, 2),
}
"""By code: a model, and how many updates it takes."""

OTHER_WAYS: list[tuple[str, Callable[[], TRPO], int]] = [
    ("TR201", loophole_and_large_steps, 12),
    ("TR503", lambda: make_model({"reward": lambda now, _: 0.02 * float(now.rng.standard_normal())}, learning_rate=1e-9), 22),
]
"""To the same alarm."""
