"""Workers that leave Ctrl-C to the training."""

import os
import signal

import gymnasium as gym
import numpy as np

from sb3_trpo_ext.sb3.workers import PatientSubprocVecEnv


def make() -> gym.Env[np.ndarray, int]:
    return gym.make("CartPole-v1")


def test_workers_outlive_ctrl_c_and_end_with_the_training() -> None:
    env = PatientSubprocVecEnv([make, make])
    env.reset()
    for process in env.processes:
        os.kill(process.pid, signal.SIGINT)
    for _ in range(3):
        observations = env.step(np.zeros(2, dtype=np.int64))[0]
        assert observations.shape == (2, 4)
    assert all(process.is_alive() for process in env.processes)
    env.close()
    assert [process.exitcode for process in env.processes] == [0, 0]
