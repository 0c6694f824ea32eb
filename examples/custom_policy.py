"""
A policy and a features extractor of your own. The names of its parameters do not matter.

TRPO moves what the actor depends on, and the critic's optimiser all else. Which is which is found from the graph of
the action distribution, not from names: here one tower is shared, and nothing is called as in SB3.

    python examples/custom_policy.py --steps 100000
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_ext import TRPO


class SinesAndCosines(BaseFeaturesExtractor):
    """Observations beside waves of them, whose frequencies are learnt."""

    def __init__(self, observation_space: spaces.Box, waves: int = 8):
        super().__init__(observation_space, features_dim=observation_space.shape[0] + 2 * waves)
        self.frequencies = nn.Linear(observation_space.shape[0], waves)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Concatenate."""
        phases = self.frequencies(observations)
        return torch.cat([observations, phases.sin(), phases.cos()], dim=1)


class Towers(nn.Module):
    """An actor with a bypass, and a critic: what SB3 asks of an mlp_extractor."""

    def __init__(self, width: int):
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = width + 32, 64
        self.reflexes = nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.judgement = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        """What the action depends on."""
        return torch.cat([features, self.reflexes(features)], dim=1)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        """What the value depends on."""
        return self.judgement(features)


class TowerPolicy(ActorCriticPolicy):
    """SB3's policy with our towers."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Towers(self.features_dim)


def main() -> None:
    """Train, and see who moved what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    env = make_vec_env("Pendulum-v1", n_envs=4, seed=1)
    policy_kwargs = {"features_extractor_class": SinesAndCosines, "features_extractor_kwargs": {"waves": 8}}
    model = TRPO(TowerPolicy, env, policy_kwargs=policy_kwargs, n_steps=512, batch_size=256, gamma=0.9, seed=1)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(args.steps)
    still = [name for name, parameter in model.policy.named_parameters() if torch.equal(before[name], parameter)]
    print(f"{len(before)} tensors, among them features_extractor.frequencies.weight; not moved: {still or 'none'}")
    report = model.last_update
    print(f"last update: {report.status}, KL {report.kl:.5f} of at most {report.target_kl}")
    print(f"Fisher products: {report.fisher_rung}")
    print(f"mean return {sum(episode['r'] for episode in model.ep_info_buffer) / len(model.ep_info_buffer):.0f}")


if __name__ == "__main__":
    main()
