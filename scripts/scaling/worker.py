"""One rank of a measured training; rank 0 prints a line of JSON. Started by ``benchmark_scaling.py``, through torchrun."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.ranks.group import Traffic
from sb3_trpo_ext.sb3.ranks.launch import place
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv

WARM_UP = 2
"""Updates that make what later ones find made."""


class Timed(TRPO):
    """Notes what each iteration takes."""

    rows: list[dict[str, float]]
    priority: int | None
    begun: float
    collected: float
    sent: Traffic

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        begin = time.perf_counter()
        filled = super()._collect(env, callback, rollout_buffer, n_rollout_steps)
        self.collected = time.perf_counter() - begin
        return filled

    def collect_rollouts(self, *arguments: Any, **named: Any) -> bool:
        r"""
        Begin an iteration.

        :param \*arguments: of TRPO's
        :param \**named: of TRPO's
        :return: whether it was filled
        """
        if self.priority is not None and self._n_updates == WARM_UP:
            os.setpriority(os.PRIO_PROCESS, 0, self.priority)
        self.begun, before = time.perf_counter(), self.session.ranks.traffic
        self.sent = Traffic(before.collectives, before.bytes, before.seconds)
        return super().collect_rollouts(*arguments, **named)

    def train(self) -> None:
        """End it."""
        super().train()
        after = self.session.ranks.traffic
        self.rows.append(
            {
                "seconds": time.perf_counter() - self.begun,
                "collect": self.collected,
                "communication": after.seconds - self.sent.seconds,
                "collectives": after.collectives - self.sent.collectives,
                "bytes": after.bytes - self.sent.bytes,
            }
        )


def main() -> None:
    """Train, and print the rows."""
    parser = argparse.ArgumentParser()
    for name in ("samples", "width", "updates", "epochs", "batch_size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--priority", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_envs = 2
    model = Timed(
        "MlpPolicy",
        make_vec_env(options.env, n_envs, vec_env_cls=FastDummyVecEnv),
        n_steps=options.samples // n_envs,
        batch_size=options.batch_size,
        n_critic_updates=options.epochs,
        max_critic_updates=options.epochs,
        # As many products and trials in every update: else updates could not be compared.
        cg_max_steps=15,
        cg_rtol=0.0,
        kl_reduction="joint",
        policy_kwargs={"net_arch": [options.width, options.width]},
        seed=0,
        device="cpu",
        warn_on_risky=False,
    )
    model.rows, model.priority = [], options.priority
    model.learn(options.updates * options.samples * place()[1])
    n_parameters = sum(part.numel() for part in model.policy.parameters())
    if place()[0] == 0:
        print("MEASURED " + json.dumps({"rows": model.rows[WARM_UP:], "parameters": n_parameters}), flush=True)


if __name__ == "__main__":
    main()
