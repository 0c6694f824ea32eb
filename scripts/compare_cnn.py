"""
SB3's Nature CNN: what precision of the Fisher products costs and buys, and how the time of one depends on chunks.

Policies: untrained, and after 16 updates of 128 frames on frames with one bright quarter, which the action must name. Batches
of ``--frames``. Precision: float64, mixed and float32 products in re-orthogonalised CG, in turn on the same batch; all that is
reported of a solution is evaluated in float64 (as in compare_precision.py). Chunks: products of forward + reverse, by
precision, all sizes in turn, the shortest of ``--repetitions``.

    python scripts/compare_cnn.py               # results/cnn_precision.csv, results/cnn_chunks.csv, and both on the screen
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import torch
from compare_precision import judge, write_rows
from evidence.provenance import REPO, provenance
from gymnasium import spaces
from precision_tables import RE_ORTHOGONALISED, REFERENCE, Row
from real_batches import PolicyStep, collect, policy_step
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import configure

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.core.fisher import FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.reduce import WeightedMean, chunked

PRECISION, CHUNKS = REPO / "results" / "cnn_precision.csv", REPO / "results" / "cnn_chunks.csv"
PRECISIONS = ("float64", "mixed", "float32")
ITERATIONS, DAMPINGS = 10, (0.1, 0.001)
SIZES = (8, 16, 32, 64, 128, 256, 512)
UPDATES, ROLLOUT, SEED = 16, 128, 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Quarter(gym.Env[np.ndarray, Any]):
    """Noisy frames with one bright quarter; the reward is 1 for the action that names it. Episodes are 32 steps long."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return self._frames(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        self._steps += 1
        reward = float(int(action) == self._bright)
        return self._frames(), reward, self._steps == 32, False, {}

    def _frames(self) -> np.ndarray:
        self._bright = int(self.np_random.integers(4))
        frames = self.np_random.integers(0, 160, (4, 84, 84), dtype=np.uint8)
        top, left = 42 * (self._bright // 2), 42 * (self._bright % 2)
        frames[:, top : top + 42, left : left + 42] += 95
        return frames


def policies(n_frames: int, console: Console) -> Iterator[tuple[str, PolicyStep]]:
    """
    Make the policies.

    :param n_frames: of a batch
    :param console: where to say how the training went
    :yields: name of the policy, its policy step
    """
    model = TRPO("CnnPolicy", Quarter(), n_steps=ROLLOUT, n_critic_updates=1, max_critic_updates=1, seed=0, device="cpu")
    model.set_logger(configure(None, []))
    for name, updates in (("untrained", 0), ("trained", UPDATES)):
        if updates:
            model.learn(updates * ROLLOUT)
            returns = [episode["r"] for episode in model.ep_info_buffer or ()]
            console.print(f"trained: mean return {np.mean(returns):.1f} of 32 (at random 8)")
        wide = TRPO("CnnPolicy", Quarter(), n_steps=n_frames, seed=SEED, device="cpu")
        wide.policy.load_state_dict(model.policy.state_dict())
        wide.set_logger(configure(None, []))
        collect(wide, SEED)
        yield name, policy_step(wide)


def solves(policy: str, step: PolicyStep, repetitions: int) -> Iterator[Row]:
    """
    Solve in each precision, in turn.

    :param policy: its name
    :param step: its policy step
    :param repetitions: of each solve
    :yields: a row for each precision and damping
    """
    for damping in DAMPINGS:
        seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        found: dict[str, Any] = {}
        for _ in range(repetitions):
            for precision in PRECISIONS:
                start = time.perf_counter()
                found[precision] = step.solve(precision, ITERATIONS, ITERATIONS, damping)
                seconds[precision].append(time.perf_counter() - start)
        best = found[REFERENCE[0]][0].solution
        for precision, (result, scale) in found.items():
            row: Row = {"policy": policy, "damping": damping, "precision": precision, "recurrence": RE_ORTHOGONALISED}
            yield {**row, "seconds": min(seconds[precision]), **judge(step, result, scale, best, damping)}


def products(step: PolicyStep, repetitions: int) -> Iterator[Row]:
    """
    Time one product of forward + reverse by chunk size, in turn.

    :param step: a policy step
    :param repetitions: of each
    :yields: a row for each precision and size
    """
    curvature = step.evaluated.problem.linearised.curvature
    n_frames = len(curvature.mean.weights)
    choice = RungChoice(Rung.FORWARD_REVERSE, retained=False)
    for precision, dtype in DTYPES.items():
        theta = tuple(part.to(dtype) for part in curvature.theta)
        n_parameters = sum(part.numel() for part in theta)
        vector = torch.randn(n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        operators = {}
        for size in (size for size in SIZES if size <= n_frames):
            mean = WeightedMean(curvature.mean.weights, chunked(n_frames, size))
            operators[size] = FisherOperator(replace(curvature, theta=theta, mean=mean), choice)
        seconds: dict[int, list[float]] = {size: [] for size in operators}
        for _ in range(repetitions):
            for size, operator in operators.items():
                start = time.perf_counter()
                operator.product(vector)
                seconds[size].append(time.perf_counter() - start)
        for size, taken in seconds.items():
            yield {"precision": precision, "frames": n_frames, "chunk": size, "ms_per_frame": 1e3 * min(taken) / n_frames}


def show(rows: list[Row], columns: tuple[str, ...], console: Console) -> None:
    """
    Print rows.

    :param rows: of one kind
    :param columns: which of their columns
    :param console: where
    """
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in columns))
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """
    Measure everything.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=512, help="of a batch (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="of each timing (default: %(default)s)")
    args, console = parser.parse_args(argv), Console()
    torch.set_num_threads(1)
    source = {"frames": args.frames, "numerics_version": NUMERICS_VERSION, **provenance()}
    solved: list[Row] = []
    timed: list[Row] = []
    for policy, step in policies(args.frames, console):
        solved += [{**row, **source} for row in solves(policy, step, args.repetitions)]
        if policy == "untrained":
            timed = [{**row, **source} for row in products(step, args.repetitions)]
    write_rows(PRECISION, solved)
    write_rows(CHUNKS, timed)
    show(solved, ("policy", "damping", "precision", "seconds", "gain_lost", "cosine", "kl_share", "status"), console)
    show(timed, ("precision", "chunk", "ms_per_frame"), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
