"""
An environment of your own that behaves like hardware: it takes time, answers late, and its sensors drop out.

`on_nonfinite="truncate"` ends an episode in its last good state when a sensor gives NaN, and leaves that step out of the
batch; VecNormalize never sees it. What was dropped is counted. The environments run in worker processes, since waiting
for one robot is no reason to wait for the next.

    python examples/hardware.py --steps 200000 --workers 4
"""

import argparse
import os
import time
from collections import deque

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.sb3.vec_env import FastVecNormalize


class Cart(gym.Env):
    """
    A cart on a rail, to be brought to a mark: position and speed are measured, a force is applied.

    What is measured is 2 steps old when it arrives; so the last 2 actions, whose effect is not seen yet, are observed too:
    without them the task would be no Markov decision process.
    """

    LATENCY = 2  # control steps
    PERIOD = 0.0005  # seconds that a control step takes
    DROPOUT = 0.002  # probability of a broken measurement

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2 + self.LATENCY,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Put the cart somewhere, at rest."""
        super().reset(seed=seed)
        self.state, self.time = np.array([self.np_random.uniform(-1, 1), 0.0]), 0
        self.measured = deque([self.state] * (self.LATENCY + 1), self.LATENCY + 1)
        self.actions = deque([0.0] * self.LATENCY, self.LATENCY)
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        """Read the sensors, late."""
        sensors = self.measured[0] + self.np_random.normal(0, 0.005, 2)
        if self.np_random.random() < self.DROPOUT:
            sensors[0] = np.nan
        return np.array([*sensors, *self.actions], np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Push, and wait until the control period is over."""
        time.sleep(self.PERIOD)
        force = float(np.clip(action[0], -1, 1))
        position, speed = self.state
        speed += 0.1 * (2 * force - speed)
        self.state, self.time = np.array([position + 0.1 * speed, speed]), self.time + 1
        self.measured.append(self.state)
        self.actions.append(force)
        return self.observe(), -abs(position) - 0.01 * force**2, False, self.time >= 100, {}


class CountDrops(BaseCallback):
    """Add up what the reports of all updates say was dropped."""

    reads_step_values = False  # so that only the actor runs at each step, which saves time
    dropped = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.last_update is not None:
            self.dropped += self.model.last_update.samples_dropped

    _on_training_end = _on_rollout_start


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    env = FastVecNormalize(make_vec_env(Cart, args.workers, seed=1, vec_env_cls=SubprocVecEnv), gamma=0.95)
    bound = {"kl_reduction": "joint", "target_kl": 0.02}
    model = TRPO("MlpPolicy", env, n_steps=2048 // args.workers, gamma=0.95, on_nonfinite="truncate", seed=1, **bound)
    monitor, drops = TrustRegionMonitor(), CountDrops()
    model.learn(args.steps, callback=[monitor, drops])
    recent = np.mean([episode["r"] for episode in model.ep_info_buffer])
    print(f"mean return of the last episodes {recent:.1f} (of a cart that stands still: about -50)")
    print(f"steps dropped: {drops.dropped} of {model.num_timesteps}")
    print(f"VecNormalize is finite: {np.isfinite(env.obs_rms.mean).all() and np.isfinite(env.obs_rms.var).all()}")
    print("alarms:", *([alarm.code for alarm in monitor.alarms] or ["none"]))
    env.close()


if __name__ == "__main__":
    main()
