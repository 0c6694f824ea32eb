"""
What the watch over environments costs (docs/nonfinite.md): collection with and without it, in turns, in processor time.

    python scripts/benchmark_guard.py                 # the cells below
    python scripts/benchmark_guard.py --cells Hopper-v5:1 --pairs 400
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmark_training import parse_cell
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.integrity.env_guard import EnvGuard

CELLS = [("CartPole-v1", 1), ("CartPole-v1", 8), ("HalfCheetah-v5", 1), ("HalfCheetah-v5", 8), ("Humanoid-v5", 2)]
STEPS = 256
"""Of a rollout: few, so that what else runs on the machine meets both sides of a pair."""


class Unwatched(EnvGuard):
    """Watches nothing."""

    def watching(self, *_: Any) -> Any:
        """Stand in for the watch."""
        return nullcontext()


def collector(task: str, n_envs: int) -> tuple[TRPO, Callable[[], Any]]:
    """A model, and one rollout of it in VecNormalize, as the Zoo trains."""
    env = VecNormalize(make_vec_env(task, n_envs=n_envs, seed=0))
    model = TRPO("MlpPolicy", env, n_steps=STEPS, batch_size=STEPS * n_envs, kl_reduction="mean", warn_on_risky=False, seed=0)
    _, callback = model._setup_learn(10**9, CallbackList([]))
    return model, partial(model.collect_rollouts, env, callback, model.rollout_buffer, STEPS)


def seconds(model: TRPO, guard: EnvGuard, collect: Callable[[], Any]) -> float:
    """Processor time of one rollout."""
    model.session.env_guard = guard
    begin = time.thread_time()
    collect()
    return time.thread_time() - begin


def measure(task: str, n_envs: int, pairs: int) -> tuple[list[float], list[float]]:
    """Processor time of rollouts with and without, pair by pair; who begins changes."""
    model, collect = collector(task, n_envs)
    sides: list[tuple[EnvGuard, list[float]]] = [(EnvGuard(), []), (Unwatched(), [])]
    for number in range(pairs + 10):
        for guard, times in sides[:: 1 if number % 2 else -1]:
            times.append(seconds(model, guard, collect))
    return sides[0][1][10:], sides[1][1][10:]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", type=parse_cell, default=CELLS, metavar="ID:N")
    parser.add_argument("--pairs", type=int, default=100, metavar="K", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for task, n_envs in args.cells:
        on, off = measure(task, n_envs, args.pairs)
        low, middle, high = statistics.quantiles([a / b for a, b in zip(on, off, strict=True)], n=4)
        step = 1e6 / STEPS
        # What else runs only adds to a time: of the undisturbed quarter.
        added = (statistics.quantiles(on, n=4)[0] - (base := statistics.quantiles(off, n=4)[0])) * step
        print(
            f"{task:16s} {n_envs} environments: watched / not {middle:.4f} [{low:.4f}, {high:.4f}], "
            f"{added:+.1f} us a step of {base * step:.0f} us",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
