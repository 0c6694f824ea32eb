"""A user's own script, for torchrun: trains until something ends it; the first argument is a file that says how far it is."""

import sys
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.ranks.launch import place


class Tells(BaseCallback):
    every_rank = True

    def _on_rollout_start(self) -> None:
        path = Path(f"{sys.argv[1]}.{place()[0]}")
        path.write_text(str(self.model._n_updates))

    def _on_step(self) -> bool:
        return True


if __name__ == "__main__":
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=128, n_critic_updates=2, seed=0, kl_reduction="joint", device="cpu")
    model.learn(10_000_000, callback=Tells())
