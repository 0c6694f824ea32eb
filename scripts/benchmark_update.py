"""
Time one update of ours and of sb3-contrib's, alternating in one run, and print the ratio.

Equal work: the same settings, samples, network, CG iterations (early exits of both are off), critic epochs. Each repetition
collects a fresh rollout outside of the timing. The machine is noisy: only ratios of medians in one run mean anything, and
background trainings must be stopped first.

    python scripts/benchmark_update.py                       # HalfCheetah's shape, the Zoo's settings
    python scripts/benchmark_update.py --shape humanoid --repetitions 5
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import sb3_contrib
import sb3_contrib.trpo.trpo as contrib_trpo
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo_ext
from sb3_trpo_ext.core import NUMERICS_VERSION

SHAPES = {"halfcheetah": (17, 6), "hopper": (11, 3), "humanoid": (348, 17)}
N_ENVS = 2


class NoiseEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    An environment that costs nothing: Gaussian observations, and a reward that depends on the action.

    :param observation_dim: number of observations
    :param action_dim: number of actions
    """

    def __init__(self, observation_dim: int, action_dim: int):
        self.observation_space = spaces.Box(-np.inf, np.inf, (observation_dim,))
        self.action_space = spaces.Box(-1.0, 1.0, (action_dim,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step; episodes are 1,000 steps on average."""
        reward = float(action.sum() * self.last[0] - 0.1 * np.square(action).sum())
        return self._observe(), reward, bool(self.np_random.random() < 1e-3), False, {}

    def _observe(self) -> np.ndarray:
        self.last = self.np_random.standard_normal(self.observation_space.shape[0]).astype(np.float32)  # type: ignore[index]
        return self.last


def make_model(kind: str, arguments: argparse.Namespace, critic_epochs: int) -> sb3_contrib.TRPO:
    """
    Make a model whose ``train()`` can be timed.

    :param kind: "sb3-contrib", or a precision of ours
    :param arguments: command line
    :param critic_epochs: critic epochs of an update; 0 times the policy step alone
    :return: the model, ready to collect
    """
    shape = SHAPES[arguments.shape]
    settings: dict[str, Any] = {
        "n_steps": arguments.samples // N_ENVS,
        "batch_size": 128,
        "cg_max_steps": arguments.cg_steps,
        "n_critic_updates": critic_epochs,
        "stats_window_size": 1,
        "seed": 0,
        "device": "cpu",
    }
    if kind != "sb3-contrib":
        equal_work = {"adaptive_damping": False, "cg_rtol": 0.0, "max_critic_updates": critic_epochs}
        settings |= {"kl_reduction": "mean", "cg_precision": kind, "warn_on_risky": False, **equal_work}
    cls = sb3_contrib.TRPO if kind == "sb3-contrib" else sb3_trpo_ext.TRPO
    env = DummyVecEnv([lambda: NoiseEnv(*shape) for _ in range(N_ENVS)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cls("MlpPolicy", env, **settings)
    model.set_logger(configure(None, []))
    _, model._callback = model._setup_learn(10**9)  # type: ignore[attr-defined]
    return model


def timed_update(model: sb3_contrib.TRPO) -> float:
    """
    Collect a rollout, then time one update.

    :param model: from ``make_model``
    :return: seconds of ``train()``
    """
    model.collect_rollouts(model.env, model._callback, model.rollout_buffer, model.n_steps)  # type: ignore[arg-type,attr-defined]
    start = time.perf_counter()
    model.train()
    return time.perf_counter() - start


def alternate(makers: dict[str, Callable[[], sb3_contrib.TRPO]], repetitions: int) -> dict[str, list[float]]:
    """
    Time several models in turn, so that the machine's moods hit all of them.

    :param makers: model by name
    :param repetitions: timed updates of each, after one that is not
    :return: seconds of each update by name
    """
    models = {name: make() for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for repetition in range(repetitions + 1):
        for name, model in models.items():
            taken = timed_update(model)
            if repetition > 0:
                seconds[name].append(taken)
    return seconds


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """
    Print the table, and write it if asked for.

    :param rows: one row a model and part
    :param arguments: command line
    """
    title = (
        f"{arguments.shape}, N = {arguments.samples}, {arguments.cg_steps} CG iterations, torch {torch.__version__}, 1 thread"
    )
    table = Table(title=title)
    for column in ("part", "model", "median ms", "quartiles ms", "ratio to sb3-contrib"):
        table.add_column(column, justify="left" if column in ("part", "model") else "right")
    for row in rows:
        quartiles = f"{row['low_ms']:.0f} - {row['high_ms']:.0f}"
        table.add_row(row["part"], row["model"], f"{row['median_ms']:.1f}", quartiles, f"{row['ratio']:.2f}")
    Console().print(table)
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="halfcheetah")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--cg-steps", type=int, default=25)
    parser.add_argument("--critic-epochs", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--precisions", nargs="+", default=["float64", "mixed"])
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # sb3-contrib's solver stops at an absolute residual, which this noise reaches early and a trained policy never.
    contrib_trpo.conjugate_gradient_solver = partial(contrib_trpo.conjugate_gradient_solver, residual_tol=0.0)
    rows = []
    for part, epochs in (("policy step", 0), ("whole update", arguments.critic_epochs)):
        kinds = ["sb3-contrib", *arguments.precisions]
        makers = {kind: (lambda kind=kind, epochs=epochs: make_model(kind, arguments, epochs)) for kind in kinds}
        seconds = alternate(makers, arguments.repetitions)
        base = statistics.median(seconds["sb3-contrib"])
        for kind, values in seconds.items():
            low, median, high = statistics.quantiles(values, n=4)
            rows.append(
                {
                    "part": part,
                    "model": kind if kind == "sb3-contrib" else f"ours, {kind}",
                    "median_ms": 1e3 * median,
                    "low_ms": 1e3 * low,
                    "high_ms": 1e3 * high,
                    "ratio": median / base,
                    "shape": arguments.shape,
                    "samples": arguments.samples,
                    "cg_steps": arguments.cg_steps,
                    "critic_epochs": epochs,
                    "numerics_version": NUMERICS_VERSION,
                    "torch": torch.__version__,
                    "machine": platform.processor() or platform.machine(),
                }
            )
    report(rows, arguments)


if __name__ == "__main__":
    main()
