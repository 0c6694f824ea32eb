"""
A task of Gymnasium-Robotics: push a ball through a maze to a goal (pip install -e '.[robotics]' in a checkout).

TRPO is on-policy, so there is no hindsight replay: take the tasks whose reward is dense. (Fetch does not begin with
MuJoCo 4.0 beside NumPy 2.4: gymnasium-robotics 1.4.2 compares an enum with a NumPy integer.)

    python examples/robotics.py --steps 300000 --task PointMaze_UMazeDense-v3
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import gymnasium as gym
import gymnasium_robotics
import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.sb3.vec_env import FastVecNormalize


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000, help="at least 10,000")
    parser.add_argument("--task", default="PointMaze_OpenDense-v3")
    args = parser.parse_args()
    gym.register_envs(gymnasium_robotics)
    # Observation, achieved and desired goal are a Dict. After 100 steps there is another goal.
    env = make_vec_env(args.task, n_envs=4, seed=0, env_kwargs={"max_episode_steps": 100})
    env = FastVecNormalize(env, gamma=0.98)
    model = TRPO(
        "MultiInputPolicy",
        env,
        n_steps=512,
        batch_size=256,
        gamma=0.98,
        target_kl=0.03,
        cg_damping=0.2,
        kl_reduction="joint",
        policy_kwargs={"log_std_init": -0.5},
        seed=0,
    )
    monitor = TrustRegionMonitor()
    for steps in (10_000, args.steps - 10_000):
        model.learn(steps, callback=monitor, reset_num_timesteps=False)
        recent = np.mean([episode["r"] for episode in model.ep_info_buffer])
        print(f"{model.num_timesteps} steps: mean return of the last {len(model.ep_info_buffer)} episodes {recent:.1f}")
    print(f"KL of the last update {model.last_update.kl:.4f} of at most {model.last_update.target_kl}")
    model.save("maze.zip")
    env.save("maze_vecnormalize.pkl")


if __name__ == "__main__":
    main()
