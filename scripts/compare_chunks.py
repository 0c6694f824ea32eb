"""
The time of a solve of ten CG iterations by chunk size, on networks with no closed form: kept graphs of the batch, or chunks.

Each solve, mixed precision, in turn on the same batch; the shortest of ``--repetitions``. Networks: SB3's Nature CNN on
frames of 84x84x4, and an extractor of two layers of 256 with layer normalisation on 17 observations.

    python scripts/compare_chunks.py            # results/chunks.csv, and on the screen
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks.large import CNN, ENVS, MLP, Noise
from compare_precision import write_rows
from evidence.provenance import REPO, provenance
from gymnasium import spaces
from precision_tables import Row
from real_batches import PolicyStep, collect, policy_step
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core import NUMERICS_VERSION

CSV = REPO / "results" / "chunks.csv"
WIDTH, ITERATIONS, DAMPING = 256, 10, 0.1
NORMED = "2 x 256, layer norm"
SAMPLES = {NORMED: (512, 1024, 2048, 4096, 16384), CNN: (64, 512)}
PARTS = (1, 2, 4, 8, 16)


class Normed(BaseFeaturesExtractor):
    """
    Layers that the closed form does not know.

    :param observation_space: vectors
    """

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, WIDTH)
        sizes = (observation_space.shape[0], WIDTH, WIDTH)
        layers = [(nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()) for a, b in pairwise(sizes)]
        self.net = nn.Sequential(*(layer for block in layers for layer in block))

    def forward(self, observations: Tensor) -> Tensor:
        """Extract features."""
        features: Tensor = self.net(observations)
        return features


def step_of(network: str, n_samples: int, chunk: int) -> PolicyStep:
    """
    Make a policy step.

    :param network: of ``SAMPLES``
    :param n_samples: in the batch
    :param chunk: samples that are evaluated together
    :return: an untrained policy's
    """
    frames = network == CNN
    env = DummyVecEnv([lambda: Noise(CNN if frames else MLP)] * ENVS)
    settings: dict[str, Any] = {"n_steps": n_samples // ENVS, "fisher_chunk_size": chunk, "seed": 0, "device": "cpu"}
    if not frames:
        settings["policy_kwargs"] = {"features_extractor_class": Normed, "net_arch": {"pi": [], "vf": []}}
    model = TRPO("CnnPolicy" if frames else "MlpPolicy", env, **settings)
    model.set_logger(configure(None, []))
    collect(model, 0)
    return policy_step(model)


def timed(network: str, n_samples: int, repetitions: int) -> Iterator[Row]:
    """
    Time the solves of one batch.

    :param network: of ``SAMPLES``
    :param n_samples: in the batch
    :param repetitions: of each solve
    :yields: a row for each chunk size
    """
    steps = {n_samples // parts: step_of(network, n_samples, n_samples // parts) for parts in PARTS}
    seconds: dict[int, list[float]] = {chunk: [] for chunk in steps}
    for _ in range(repetitions):
        for chunk, step in steps.items():
            start = time.perf_counter()
            step.solve("mixed", ITERATIONS, ITERATIONS, DAMPING)
            seconds[chunk].append(time.perf_counter() - start)
    whole = min(seconds[n_samples])
    for chunk, step in steps.items():
        choice = step.evaluated.choice
        row: Row = {"network": network, "samples": n_samples, "chunk": chunk, "rung": choice.rung.name if choice else ""}
        yield {**row, "seconds": min(seconds[chunk]), "share_of_whole": min(seconds[chunk]) / whole}


def main(argv: list[str] | None = None) -> int:
    """
    Measure everything.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(SAMPLES), default=list(SAMPLES), help="default: all")
    parser.add_argument("--repetitions", type=int, default=4, help="of each solve (default: %(default)s)")
    args, console = parser.parse_args(argv), Console()
    warnings.simplefilter("ignore")  # batch sizes that the critic would not divide
    torch.set_num_threads(1)
    source = {"numerics_version": NUMERICS_VERSION, **provenance()}
    rows: list[Row] = []
    for network in args.networks:
        for n_samples in SAMPLES[network]:
            rows += [{**row, **source} for row in timed(network, n_samples, args.repetitions)]
    write_rows(CSV, rows)
    columns = ("network", "samples", "chunk", "rung", "seconds", "share_of_whole")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in columns))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
