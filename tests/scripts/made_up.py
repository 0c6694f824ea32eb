"""Results that were never measured, for tests of what reads results."""

from pathlib import Path

import numpy as np
from evidence.runs import RANDOM, Run, curve_steps
from evidence.store import Store

SOURCE = {"commit": "0", "dirty": False, "machine": "none", "torch": "2", "finished": "2026-01-01T00:00:00Z"}
HEIGHTS = {"Hopper-v5": 2_000.0, "HalfCheetah-v5": 3_000.0, "Pendulum-v1": 900.0}
FLOORS = {"Hopper-v5": 18.0, "HalfCheetah-v5": -280.0, "Pendulum-v1": -1_200.0}
GAINS = {"contrib-zoo": 1.0, "ours": 1.3, "ppo-zoo": 0.8}


def store_at(folder: Path) -> Store:
    return Store(folder / "results", folder / "work")


def make_up(folder: Path, tasks: list[str], methods: list[str], n_seeds: int, steps: int = 1_000_000) -> Store:
    """Fill a store with rising curves and final scores."""
    store, noise = store_at(folder), np.random.default_rng(0)
    for task in tasks:
        store.add(Run(task, 0, RANDOM, 0), {"return_mean": FLOORS[task], **SOURCE}, [])
        for method in methods:
            for seed in range(n_seeds):
                run = Run(task, seed, method, steps, {"gamma": 0.99}, numerics_version=1 if method == "ours" else None)
                points = np.array(curve_steps(steps))
                rise = (1 - np.exp(-4 * points / steps)) * GAINS[method] * (1 + 0.15 * noise.standard_normal())
                returns = FLOORS[task] + HEIGHTS[task] * (rise + 0.05 * noise.standard_normal(len(points)))
                curve = [
                    {"steps": int(at), "return_mean": float(value), "training_return": float(value) if at else None}
                    for at, value in zip(points, returns, strict=True)
                ]
                more = {"updates_lowered_share": 0.4, "largest_kl_ratio": 0.98}
                store.add(run, {"return_mean": float(returns[-1]), **more, **SOURCE}, curve)
    return store
