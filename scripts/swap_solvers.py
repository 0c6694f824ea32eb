"""
Does the linear solver explain a difference of learning curves? Each implementation with its own and with the other's.

Four variants at equal settings (the Zoo's for CartPole-v1): sb3-contrib; sb3-contrib with our conjugate
gradient (float64, re-orthogonalised, from zero); ours; ours with sb3-contrib's conjugate gradient (plain, from noise), in
float32 as there. If the curves follow the solver and not the implementation, the solver is the difference. Printed: area
under the curve of training-episode returns, a seed each, with a paired bootstrap interval against sb3-contrib.

    python scripts/swap_solvers.py --seeds 10 11 12 13 14 15 16 17 --csv results/swap_solvers.csv
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import sb3_contrib
import sb3_contrib.trpo.trpo as contrib_trpo
import torch
from rich.console import Console
from rich.table import Table
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import sb3_trpo_ext
from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.core import update as core_update
from sb3_trpo_ext.core.cg import CGResult, CGSettings, conjugate_gradient

ENV, STEPS, WINDOW = "CartPole-v1", 50_000, 2_500
SETTINGS: dict[str, Any] = {
    "n_steps": 512,
    "batch_size": 512,
    "cg_damping": 1e-3,
    "gae_lambda": 0.98,
    "gamma": 0.99,
    "learning_rate": 1e-3,
    "n_critic_updates": 20,
}
EQUAL = {"kl_reduction": "joint", "adaptive_damping": False, "max_critic_updates": 20, "cg_rtol": 0.0}
VARIANTS = ("sb3-contrib", "sb3-contrib, our solver", "ours", "ours, sb3-contrib's solver")


class Returns(BaseCallback):
    """Keeps the return of each training episode, and when it ended."""

    reads_step_values = False

    def __init__(self) -> None:
        super().__init__()
        self.episodes: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        ended = (info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        self.episodes.extend((self.num_timesteps, float(value)) for value in ended)
        return True


def our_solver(product: Any, b: torch.Tensor, max_iter: int = 10, residual_tol: float = 0.0) -> torch.Tensor:
    """Stand in for sb3-contrib's solver: its float32 products, our recurrence."""
    settings = CGSettings(max_iter, 0.0, keep=max_iter)
    return conjugate_gradient(lambda v: product(v.float()).double(), b.double(), settings).solution.float()


def their_solver(product: Any, g: torch.Tensor, settings: CGSettings, true_product: Any = None) -> CGResult:
    """Stand in for our solver: sb3-contrib's iterate, with the status of ours."""
    result = conjugate_gradient(product, g, settings, true_product)
    solution = conjugate_gradient_solver(product, g.clone(), max_iter=settings.max_steps)
    return dataclasses.replace(result, solution=solution, damped_product=(true_product or product)(solution))


def area(job: tuple[str, int]) -> tuple[str, int, float]:
    """
    Train once.

    :param job: variant and seed
    :return: the same, and the mean over windows of the mean return of their training episodes
    """
    variant, seed = job
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    contrib_trpo.conjugate_gradient_solver = our_solver if variant == VARIANTS[1] else conjugate_gradient_solver
    core_update.conjugate_gradient = their_solver if variant == VARIANTS[3] else conjugate_gradient
    ours = variant.startswith("ours")
    extra = {**EQUAL, "cg_precision": "float32" if variant == VARIANTS[3] else "float64"} if ours else {}
    cls = sb3_trpo_ext.TRPO if ours else sb3_contrib.TRPO
    returns = Returns()
    cls("MlpPolicy", make_vec_env(ENV, 2, seed=seed), seed=seed, **SETTINGS, **extra).learn(STEPS, callback=returns)
    when, value = np.array(returns.episodes).T
    window = (when - 1) // WINDOW
    return variant, seed, float(np.mean([value[window == w].mean() for w in np.unique(window)]))


def interval(differences: np.ndarray) -> tuple[float, float]:
    """
    Bootstrap the mean.

    :param differences: one a seed
    :return: its 95 % interval
    """
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (10_000, len(differences))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Train all variants, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10, 18)))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    jobs = [(variant, seed) for seed in arguments.seeds for variant in VARIANTS]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        rows = pool.map(area, jobs, chunksize=1)
    areas = {variant: np.array([value for name, _, value in rows if name == variant]) for variant in VARIANTS}
    table = Table(
        "variant", "area under the curve", "difference to sb3-contrib [95 %]", title=f"{ENV}, {len(arguments.seeds)} seeds"
    )
    for variant, values in areas.items():
        low, high = interval(values - areas[VARIANTS[0]])
        difference = f"{(values - areas[VARIANTS[0]]).mean():.1f} [{low:.1f}, {high:.1f}]"
        table.add_row(variant, f"{values.mean():.1f}", "" if variant == VARIANTS[0] else difference)
    Console().print(table)
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["variant", "seed", "area", "steps", "numerics_version", "torch"])
            writer.writerows([*row, STEPS, NUMERICS_VERSION, torch.__version__] for row in rows)


if __name__ == "__main__":
    main()
