"""
What bounds the memory of Fisher products better, and at what price: smaller chunks, or recomputing activations?

Products of SB3's Nature CNN and of a deep residual network (24 blocks of two 3x3 convolutions at full resolution), on 84x84x4
frames in float32, by rung, chunk size and with and without recomputation. Memory: the high-water mark over what stood there.

    python scripts/compare_recomputation.py        # results/recomputation.csv, and a table
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from benchmarks.large import peak, reset_peak
from evidence.provenance import REPO, provenance
from evidence.store import write_whole
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.reduce import WeightedMean, chunked
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction

CSV = REPO / "results" / "recomputation.csv"
SOURCE = ["numerics_version", "commit", "dirty", "torch", "machine", "finished"]
COLUMNS = ["network", "rung", "frames", "chunk", "recomputed", "ms_per_frame", "mib", *SOURCE]
BLOCKS, CHANNELS = 24, 16


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add to the input."""
        result: Tensor = x + self.net(x)
        return result


class Deep(BaseFeaturesExtractor):
    """
    A stack of residual blocks.

    :param observation_space: frames
    """

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, features_dim=16 * CHANNELS)
        blocks = [Block() for _ in range(BLOCKS)]
        self.net = nn.Sequential(nn.Conv2d(4, CHANNELS, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Extract features."""
        features: Tensor = self.net(x)
        return features


NETWORKS: dict[str, tuple[type[BaseFeaturesExtractor], int, tuple[int, ...]]] = {
    "nature cnn": (NatureCNN, 128, (4, 16, 64, 128)),
    "24 residual blocks": (Deep, 16, (1, 4, 16)),
}


def products(name: str) -> Iterator[dict[str, Any]]:
    """
    Measure a network.

    :param name: of ``NETWORKS``
    :yields: a row for each way
    """
    extractor, n_frames, sizes = NETWORKS[name]
    torch.manual_seed(0)
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    policy = ActorCriticCnnPolicy(space, spaces.Discrete(6), lambda _: 1e-3, features_extractor_class=extractor)
    frames = torch.randint(0, 256, (n_frames, 4, 84, 84), dtype=torch.uint8)
    function = PolicyFunction(policy, frames, torch.device("cpu"))
    function.own(chunked(n_frames, 1)[:1])
    theta = function.theta(torch.float32)
    vector = torch.randn(sum(part.numel() for part in theta), dtype=torch.float64)
    for rung in (Rung.FORWARD_REVERSE, Rung.DOUBLE_VJP):
        for recomputed in (False, True):
            for size in sizes:
                function.recomputes = recomputed
                mean = WeightedMean(torch.ones(n_frames, dtype=torch.float64), chunked(n_frames, size))
                curvature = Curvature(function, theta, action_distribution(policy), 1.0, mean)
                operator = FisherOperator(curvature, RungChoice(rung, retained=False))
                milliseconds, mib = measured(operator, vector)
                yield {
                    "network": name,
                    "rung": rung.value,
                    "frames": n_frames,
                    "chunk": size,
                    "recomputed": recomputed,
                    "ms_per_frame": milliseconds / n_frames,
                    "mib": mib,
                }


def measured(operator: FisherOperator, vector: Tensor) -> tuple[float, float]:
    """
    Measure one product.

    :param operator: the matrix
    :param vector: what it is multiplied with
    :return: milliseconds, the shortest of three; MiB, of the first
    """
    before = reset_peak()
    times, highest = [], 0
    for _ in range(3):
        start = time.perf_counter()
        operator.product(vector)
        times.append(1e3 * (time.perf_counter() - start))
        highest = highest or peak()
    return min(times), (highest - before) / 2**20


def main() -> int:
    """
    Measure everything.

    :return: exit code
    """
    torch.set_num_threads(1)
    source = {"numerics_version": NUMERICS_VERSION, **provenance()}
    lines = [",".join(COLUMNS)]
    for name in NETWORKS:
        for row in products(name):
            cells = {**row, "ms_per_frame": f"{row['ms_per_frame']:.3g}", "mib": f"{row['mib']:.0f}", **source}
            lines.append(",".join(f'"{cells[c]}"' if "," in str(cells[c]) else str(cells[c]) for c in COLUMNS))
            print(" | ".join(str(cells[c]) for c in COLUMNS[:7]), flush=True)
    write_whole(CSV, "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
