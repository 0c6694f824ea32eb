"""Environments in worker processes that leave Ctrl-C to the training: a terminal sends it to every process at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv


class PatientSubprocVecEnv(SubprocVecEnv):
    """
    SB3's SubprocVecEnv, whose workers outlive Ctrl-C, so that an update can be finished; they end with the training.

    :param env_fns: make the environments
    :param start_method: of the processes, as in SB3
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], start_method: str | None = None):
        super().__init__([partial(_made_patiently, env_fn) for env_fn in env_fns], start_method)


def _made_patiently(env_fn: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """In the worker. (SIGTERM still ends it: that is how Python ends workers when it exits.)"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return env_fn()
