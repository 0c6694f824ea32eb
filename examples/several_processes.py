"""
One policy, trained by several processes: each has environments of its own, and all take one step together.

    torchrun --nproc-per-node=2 examples/several_processes.py --steps 100000

`python examples/several_processes.py` trains on the same batches in one process: a script needs no change.
"""

import argparse
import os

import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext import TRPO


def main() -> None:
    """Train, and let each process say what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16_000, help="of all processes together")
    args = parser.parse_args()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    # The batch of one process, divided: 4 environments in all, and minibatches of 256 samples.
    env = make_vec_env("Pendulum-v1", n_envs=4 // ranks, seed=1)
    model = TRPO("MlpPolicy", env, n_steps=512, batch_size=256 // ranks, gamma=0.9, seed=1)
    model.learn(args.steps)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()]).double()
    update = f"{model.last_update.n_samples} samples an update, {model.num_timesteps} steps"
    print(f"rank {rank} of {ranks}: {update}, norm of the weights {weights.norm():.15f}\n", end="", flush=True)


if __name__ == "__main__":
    main()
