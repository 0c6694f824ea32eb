"""Small models in every action and observation space, and what the tests ask of them."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional as F

from sb3_trpo_ext import TRPO


def _sde(**policy_kwargs: Any) -> dict[str, Any]:
    # The Zoo's log_std_init: from std 1, SB3's detached latent makes some gradients no ascent at all.
    return {"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {"log_std_init": -2.0, **policy_kwargs}}


BOX = spaces.Box(-2.0, 2.0, (3,))
ACTIONS: dict[str, tuple[spaces.Space, dict[str, Any]]] = {
    "box": (BOX, {}),
    "sde": (BOX, _sde()),
    "sde_thin_expln": (BOX, _sde(full_std=False, use_expln=True)),
    "sde_squashed": (BOX, _sde(squash_output=True)),
    "sde_squashed_expln": (BOX, _sde(squash_output=True, use_expln=True)),
    "sde_squashed_thin": (BOX, _sde(squash_output=True, full_std=False)),
    "sde_squashed_thin_expln": (BOX, _sde(squash_output=True, full_std=False, use_expln=True)),
    "discrete": (spaces.Discrete(4), {}),
    "multidiscrete": (spaces.MultiDiscrete([3, 2]), {}),
    "multibinary": (spaces.MultiBinary(3), {}),
}
VECTOR = spaces.Box(-1.0, 1.0, (6,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS: dict[str, tuple[spaces.Space, str, dict[str, Any]]] = {
    "vector": (VECTOR, "MlpPolicy", {}),
    "image": (IMAGE, "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 8}}),
    "image_separate": (
        IMAGE,
        "CnnPolicy",
        {"features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": False},
    ),
    "dict": (spaces.Dict({"body": VECTOR, "mode": spaces.Discrete(3)}), "MultiInputPolicy", {}),
}


class RandomEnv(gym.Env):
    """Seeded random observations; the reward depends on observation and action, episodes are of unequal length."""

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, reward_scale: float = 1.0, horizon: int = 20
    ):
        self.observation_space = observation_space
        self.action_space = action_space
        self.reward_scale = reward_scale
        self.horizon = horizon
        self.step_count = 0

    def observe(self) -> Any:
        def draw(space: spaces.Space) -> Any:
            if isinstance(space, spaces.Dict):
                return {key: draw(part) for key, part in space.spaces.items()}
            if isinstance(space, spaces.Discrete):
                return int(self.np_random.integers(space.n))
            if space.dtype == np.uint8:
                return self.np_random.integers(0, 256, space.shape, dtype=np.uint8)
            return self.np_random.uniform(-1.0, 1.0, space.shape).astype(space.dtype)

        self.seen = draw(self.observation_space)
        return self.seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return self.observe(), {}

    def reward(self, action: Any) -> float:
        seen = self.seen["body"] if isinstance(self.seen, dict) else self.seen
        signal = float(np.asarray(seen, dtype=np.float64).reshape(-1)[:2].sum())
        chosen = np.asarray(action, dtype=np.float64).reshape(-1)
        return self.reward_scale * (signal * float(chosen[0]) - 0.5 * float((chosen**2).mean()))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.step_count += 1
        return self.observe(), reward, self.np_random.random() < 0.05, self.step_count >= self.horizon, {}


def make_env(action: str = "box", observation: str = "vector", n_envs: int = 2, **kwargs: Any) -> Any:
    spaces_of = {"observation_space": OBSERVATIONS[observation][0], "action_space": ACTIONS[action][0]}
    return make_vec_env(RandomEnv, n_envs=n_envs, seed=0, env_kwargs={**spaces_of, **kwargs})


def make_model(
    action: str = "box", observation: str = "vector", n_envs: int = 2, cls: Any = TRPO, env: Any = None, **kwargs: Any
) -> Any:
    """A tiny model; ``policy_kwargs`` are merged with those of the spaces."""
    policy = OBSERVATIONS[observation][1]
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_critic_updates": 2, "seed": 0, "device": "cpu"}
    if cls is TRPO:
        settings.update(kl_reduction="mean", warn_on_risky=False)
    settings.update(ACTIONS[action][1])
    policy_kwargs = {"net_arch": [8], **OBSERVATIONS[observation][2], **settings.get("policy_kwargs", {})}
    policy_kwargs |= kwargs.pop("policy_kwargs", {})
    settings.update(kwargs, policy_kwargs=policy_kwargs)
    return cls(policy, make_env(action, observation, n_envs) if env is None else env, **settings)


class Nothing(BaseCallback):
    reads_step_values = False

    def _on_step(self) -> bool:
        return True


def collect(model: Any, callback: BaseCallback | None = None) -> Any:
    """One rollout, as ``learn`` collects it."""
    steps = model.n_steps * model.n_envs
    _, prepared = model._setup_learn(steps, callback or Nothing(), reset_num_timesteps=model.num_timesteps == 0)
    assert model.collect_rollouts(model.env, prepared, model.rollout_buffer, model.n_steps)
    return model


def state_of(model: Any) -> dict[str, Any]:
    """Parameters, buffers and optimiser, copied."""
    return copy.deepcopy({"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict()})


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """NumPy has no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def n_hooks(policy: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in policy.modules())


class Witness:
    """SB3's own view of the policy before an update, on the whole batch, to be compared with that after it."""

    def __init__(self, model: Any):
        self.model = model
        buffer = model.rollout_buffer
        next(iter(buffer.get(1)))
        data = buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs))
        self.observations = data.observations
        self.actions = data.actions
        if isinstance(model.action_space, spaces.Discrete):
            self.actions = data.actions.long().flatten()
        self.advantages = data.advantages.double()
        if model.normalize_advantage:
            self.advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)
        self.state = state_of(model)
        self.old, self.old_log_prob = self._view()

    def _view(self) -> tuple[Any, torch.Tensor]:
        self.model.policy.set_training_mode(False)
        with torch.no_grad():
            distribution = copy.copy(self.model.policy.get_distribution(self.observations))
            return distribution, distribution.log_prob(self.actions).double()

    def kl(self) -> float:
        """Mean KL(new || old), averaged over action dimensions as sb3-contrib does."""
        new, _ = self._view()
        return float(kl_divergence(new, self.old).double().mean())

    def improvement(self) -> float:
        _, log_prob = self._view()
        return float((self.advantages * torch.expm1(log_prob - self.old_log_prob)).mean())

    def broken_promises_of_acceptance(self) -> list[str]:
        """Accepted => within the trust region and better, and the report says what was applied. Float32 accuracy."""
        report, kl, gain = self.model.last_update, self.kl(), self.improvement()
        broken = []
        if not report.accepted:
            broken.append(f"not accepted: {report.status}")
        if not kl <= self.model.target_kl * (1 + 1e-3) + 1e-6:
            broken.append(f"KL {kl} > {self.model.target_kl}")
        if not abs(kl - report.kl) <= 2e-3 * report.kl + 2e-6:
            broken.append(f"KL is {kl}, reported {report.kl}")
        if not gain > 0:
            broken.append(f"surrogate fell by {-gain}")
        if not abs(gain - report.surrogate_improvement) <= 2e-3 * abs(gain) + 2e-5:
            broken.append(f"surrogate rose by {gain}, reported {report.surrogate_improvement}")
        if not all(bool(torch.isfinite(p).all()) for p in self.model.policy.parameters()):
            broken.append("non-finite parameters")
        return broken

    def broken_promises_of_rejection(self) -> list[str]:
        """Rejected => the actor is bit-identical, and the report says that nothing was applied."""
        report = self.model.last_update
        broken = []
        if report.accepted:
            broken.append("accepted")
        if (report.kl, report.kl_joint, report.surrogate_improvement) != (0.0, 0.0, 0.0):
            broken.append("reports a step that was not applied")
        after = state_of(self.model)["policy"]
        broken += [f"{name} moved" for name in after if not same(after[name], self.state["policy"][name])]
        return broken


class _Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, features_dim=8)
        self.first = nn.Linear(6, 8)
        self.build()

    def build(self) -> None:
        pass


class InPlaceReLU(_Extractor):
    def build(self) -> None:
        self.net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.first(x))


class Recurrent(_Extractor):
    def build(self) -> None:
        self.gru = nn.GRU(2, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.first(x).view(len(x), 4, 2))[0][:, -1]


class LongShortTerm(Recurrent):
    def build(self) -> None:
        self.gru = nn.LSTM(2, 8, batch_first=True)


class Attention(_Extractor):
    def build(self) -> None:
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.first(x).view(len(x), 4, 2)
        return self.attention(tokens, tokens, tokens)[0].flatten(1)


class DotProduct(_Extractor):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.first(x).view(len(x), 1, 4, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)


class BatchNormed(_Extractor):
    def build(self) -> None:
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.norm(self.first(x)))


class BatchStatistics(BatchNormed):
    def build(self) -> None:
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)


class Dropped(_Extractor):
    def build(self) -> None:
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(torch.tanh(self.first(x)))


class AlwaysDropped(_Extractor):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(torch.tanh(self.first(x)), 0.5, training=True)


class OnlyFloat32(_Extractor):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first.weight.dtype is not torch.float32:
            raise RuntimeError("this kernel is for float32")
        return torch.tanh(self.first(x))


class TiedWeights(_Extractor):
    """One Parameter in two modules."""

    def build(self) -> None:
        self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8)
        self.third.weight = self.second.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.third(torch.tanh(self.second(torch.tanh(self.first(x))))))


class Frozen(_Extractor):
    def build(self) -> None:
        self.first.weight.requires_grad_(False)
        self.second = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


class ValueNamed(_Extractor):
    """sb3-contrib takes anything named "value" for the critic's."""

    def build(self) -> None:
        self.value_of_a_gate = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.value_of_a_gate(torch.tanh(self.first(x))))


EXTRACTORS = [
    InPlaceReLU,
    Recurrent,
    LongShortTerm,
    Attention,
    DotProduct,
    BatchNormed,
    Dropped,
    TiedWeights,
    Frozen,
    ValueNamed,
]


def with_extractor(extractor: type, action: str = "box", share: bool = True, **kwargs: Any) -> Any:
    policy_kwargs = {"features_extractor_class": extractor, "share_features_extractor": share}
    return make_model(action, policy_kwargs=policy_kwargs, **kwargs)
