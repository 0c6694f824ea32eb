"""
How far an update moves the policy that acts, beside the KL that was logged of it: incident (h), batch normalisation.

    python scripts/deployed_change.py --seed 1 --updates 20

The policy that acts is in eval mode. All numbers are over target_kl, on the rollout of the update; "before" is the KL, before
the update, from the policy that acted to the one in train mode, from which sb3-contrib measures.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from incident_suite.curvature import BATCH_NORM
from incident_suite.scenario import CONTRIB, OURS, make_model
from stable_baselines3.common.callbacks import BaseCallback
from torch.distributions import Distribution, kl_divergence


class Deployed(BaseCallback):
    """Compares the policy before and after each update, as it acts; ``rows``: (before, logged, deployed), over target_kl."""

    reads_step_values = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[float, float, float]] = []
        self._acted: tuple[torch.Tensor, Distribution, float] | None = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        observations = torch.as_tensor(model.rollout_buffer.observations.reshape(-1, *model.observation_space.shape))
        acting = self._policy(observations, train=False)
        self._acted = (observations, acting, self._share(acting, self._policy(observations, train=True)))

    def _on_rollout_start(self) -> None:
        if self._acted is None:
            return
        model: Any = self.model
        observations, acting, before = self._acted
        logged = float(model.logger.name_to_value["train/kl_divergence_loss"]) / model.target_kl
        self.rows.append((before, logged, self._share(acting, self._policy(observations, train=False))))

    def _policy(self, observations: torch.Tensor, *, train: bool) -> Distribution:
        policy: Any = copy.deepcopy(self.model.policy)  # a look moves no running statistics
        policy.set_training_mode(train)
        with torch.no_grad():
            found: Distribution = policy.get_distribution(observations).distribution
        return found

    def _share(self, old: Distribution, new: Distribution) -> float:
        return float(kl_divergence(old, new).mean()) / self.model.target_kl  # type: ignore[attr-defined]


def main(argv: list[str] | None = None) -> int:
    """
    Train both, and print a row for each update.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--updates", type=int, default=20, metavar="N")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for side in (CONTRIB, OURS):
        watch = Deployed()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, trouble = make_model(BATCH_NORM, side, args.seed, Path(folder))
            steps = (args.updates + 1) * model.n_steps * model.n_envs  # type: ignore[attr-defined]
            model.learn(steps, callback=[*trouble, watch])
        print(f"{side}: update, before, logged, deployed")
        for update, row in enumerate(watch.rows, start=1):
            print(f"{update:6} " + " ".join(f"{value:8.2f}" for value in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
