"""
A training that is killed, and goes on: it ends with the very weights of one that nobody has killed.

    python examples/resume.py --steps 50000
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext import TRPO, Checkpoints


def train(folder: Path, steps: int, kill_at: int | None = None) -> TRPO:
    """Begin, or go on where the newest checkpoint is: the same lines do both."""
    there = (folder / "checkpoints").is_dir()
    env = make_vec_env("Pendulum-v1", 4, seed=1, monitor_dir=str(folder), monitor_kwargs={"override_existing": not there})
    settings = {"n_steps": 512, "batch_size": 256, "gamma": 0.9, "seed": 1}
    model = TRPO.resume(folder, env=env) if there else TRPO("MlpPolicy", env, log_folder=str(folder), **settings)
    if there:
        print(f"{folder.name}: goes on from step {model.num_timesteps}", flush=True)
    return model.learn(steps, callback=[Checkpoints(every_updates=2), PowerCut(kill_at)])


class PowerCut(BaseCallback):
    """No exception, no signal handler, no time to save anything."""

    reads_step_values = False

    def __init__(self, at: int | None):
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.at is not None and self.num_timesteps >= self.at:
            print(f"killed at step {self.num_timesteps}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def main() -> None:
    """Train in one go; train with a power cut; compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--folder", type=Path, default=Path("resume_runs"))
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)  # how it calls itself
    args = parser.parse_args()
    if args.kill_at is not None:
        train(args.folder, args.steps, args.kill_at)
    whole = train(args.folder / "whole", args.steps)
    again = [sys.executable, __file__, "--steps", str(args.steps), "--folder", str(args.folder / "killed")]
    killed = subprocess.run([*again, "--kill-at", str(2 * args.steps // 3)], check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = train(args.folder / "killed", args.steps)
    pairs = zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True)
    print(f"{resumed.num_timesteps} steps; the same weights, bit for bit: {all(torch.equal(*pair) for pair in pairs)}")


if __name__ == "__main__":
    main()
