"""
Dict observations: a picture and numbers, each through a network of its own (MultiInputPolicy).

The numbers are normalised, the picture is not (`norm_obs_keys`): SB3 divides pictures by 255 itself.

    python examples/dict_observations.py --steps 20000
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.vec_env import FastVecNormalize


class Reach(gym.Env):
    """Bring a hand, which is felt, to a ball, which is only seen."""

    size = 36  # the least that SB3's NatureCNN takes

    def __init__(self) -> None:
        picture = spaces.Box(0, 255, (self.size, self.size, 1), np.uint8)
        self.observation_space = spaces.Dict({"camera": picture, "hand": spaces.Box(-100.0, 100.0, (2,))})
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Put the ball somewhere."""
        super().reset(seed=seed)
        self.hand, self.ball, self.time = np.zeros(2), self.np_random.uniform(-1, 1, 2), 0
        self.picture = np.zeros((self.size, self.size, 1), np.uint8)
        row, column = ((self.ball + 1) / 2 * (self.size - 8)).astype(int)
        self.picture[row : row + 8, column : column + 8] = 255
        return self.observe(), {}

    def observe(self) -> dict[str, np.ndarray]:
        """See and feel (in centimetres)."""
        return {"camera": self.picture, "hand": (100 * self.hand).astype(np.float32)}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Move."""
        self.hand, self.time = np.clip(self.hand + 0.2 * np.clip(action, -1, 1), -1, 1), self.time + 1
        return self.observe(), -float(np.linalg.norm(self.hand - self.ball)), False, self.time >= 20, {}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6_000, help="after the first 2,000")
    args = parser.parse_args()
    env = FastVecNormalize(make_vec_env(Reach, n_envs=8, seed=1), norm_obs_keys=["hand"], gamma=0.9)
    networks = {"features_extractor_kwargs": {"cnn_output_dim": 32}, "log_std_init": -0.5}
    # Convolutions are slow on a CPU: a quarter of the batch is enough for the Fisher matrix.
    cheap = {"sub_sampling_factor": 4, "n_critic_updates": 5}
    bound = {"kl_reduction": "joint", "target_kl": 0.03}
    model = TRPO("MultiInputPolicy", env, n_steps=64, gamma=0.9, seed=1, policy_kwargs=networks, **cheap, **bound)
    for steps in (2_000, args.steps):
        model.learn(steps, reset_num_timesteps=False)
        recent = np.mean([episode["r"] for episode in model.ep_info_buffer])
        print(f"{model.num_timesteps} steps: mean return of the last 100 episodes {recent:.1f}")
    print(f"features: {model.policy.features_extractor.features_dim}, normalised: {list(env.obs_rms)}")


if __name__ == "__main__":
    main()
