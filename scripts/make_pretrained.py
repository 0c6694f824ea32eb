"""
Pack a finished run as the trained agent that comes with the package (``enjoy --pretrained``), and say how well it does.

    python -m sb3_trpo_ext train --env Hopper-v5 -n 1000000 --seed 0 --eval-freq -1
    python scripts/make_pretrained.py logs/trpo/Hopper-v5_1

The training is one run of the shipped hyperparameters, of three (seeds 0, 1 and 4) the one with the median return, and its
policy at the end. When that entry of the YAML changes, all is run again. The second writes ``docs/pretrained.md``
too: the score of what was packed: the policy, the statistics of its observations and the configuration; no moments of the
optimiser, no machine's name.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml
from evidence.provenance import REPO, provenance
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo.pretrained import FOLDER

ENV, STEPS, EPISODES, SEED = "Hopper-v5", 1_000_000, 100, 1000
AGENT = FOLDER / "trpo" / f"{ENV}_1"
PAGE = REPO / "docs" / "pretrained.md"
LARGEST = 200_000
"""Bytes of all files: every wheel carries them."""

OF_THE_TRAINING = ["ep_info_buffer", "ep_success_buffer", "_last_obs", "_last_original_obs", "_last_episode_starts"]
SETTINGS = ("n_envs", "n_steps", "target_kl", "cg_damping", "kl_reduction", "n_critic_updates", "gamma", "gae_lambda")


def pack(run: Path) -> None:
    """
    Write the agent's folder anew.

    :param run: folder of a finished run of the Zoo
    :raises SystemExit: if it is not finished, or too large
    """
    model = TRPO.load(run / f"{ENV}.zip", device="cpu")
    if model.num_timesteps < STEPS:
        raise SystemExit(f"{run}: {model.num_timesteps} of {STEPS} steps")
    model.policy.optimizer.state.clear()
    shutil.rmtree(AGENT, ignore_errors=True)
    (AGENT / ENV).mkdir(parents=True)
    shutil.copyfile(run / ENV / "config.yml", AGENT / ENV / "config.yml")
    statistics = VecNormalize.load(str(run / ENV / "vecnormalize.pkl"), make_vec_env(ENV))
    # numpy 1 reads no generator of numpy 2, and its arrays only in the pickles of protocol 4.
    for owner in (model, statistics):
        for space in (owner.observation_space, owner.action_space):
            space._np_random = None
    statistics.save(str(AGENT / ENV / "vecnormalize.pkl"))
    with patch("cloudpickle.cloudpickle.DEFAULT_PROTOCOL", 4):
        model.save(AGENT / "whole.zip", exclude=OF_THE_TRAINING)
    with (
        zipfile.ZipFile(AGENT / "whole.zip") as whole,
        zipfile.ZipFile(AGENT / f"{ENV}.zip", "w", zipfile.ZIP_DEFLATED) as kept,
    ):
        for name in whole.namelist():
            if name != "system_info.txt":  # names the machine's kernel
                kept.writestr(zipfile.ZipInfo(name), whole.read(name), zipfile.ZIP_DEFLATED)
    (AGENT / "whole.zip").unlink()
    if size() > LARGEST:
        raise SystemExit(f"{AGENT}: {size()} bytes, more than {LARGEST}")


def size() -> int:
    """
    Weigh the agent.

    :return: bytes of its files
    """
    return sum(path.stat().st_size for path in AGENT.rglob("*") if path.is_file())


def returns_of(episodes: int, deterministic: bool) -> np.ndarray[Any, Any]:
    """
    Let the packed agent hop.

    :param episodes: how many
    :param deterministic: the mean action, or one that is drawn
    :return: undiscounted returns, of the environment's own rewards
    """
    env = VecNormalize.load(str(AGENT / ENV / "vecnormalize.pkl"), make_vec_env(ENV, n_envs=10, seed=SEED))
    env.training = env.norm_reward = False
    model = TRPO.load(AGENT / f"{ENV}.zip", device="cpu", seed=SEED)
    found, _ = evaluate_policy(model, env, episodes, deterministic, return_episode_rewards=True)
    return np.array(found)


def page() -> str:
    """
    Evaluate, and write the page.

    :return: Markdown
    """
    rows = ""
    for deterministic, name in ((True, "deterministic (`enjoy`'s default)"), (False, "stochastic (`--stochastic`)")):
        found = returns_of(EPISODES, deterministic)
        worst, median, best = np.quantile(found, (0, 0.5, 1))
        rows += f"| {name} | {found.mean():.0f} | {found.std(ddof=1):.0f} | {worst:.0f} | {median:.0f} | {best:.0f} |\n"
    config = dict(yaml.unsafe_load((AGENT / ENV / "config.yml").read_text()))
    settings = ", ".join(f"`{name}` {config[name]}" for name in SETTINGS)
    seed = TRPO.load(AGENT / f"{ENV}.zip", device="cpu").seed
    where = provenance()
    versions = ", ".join(f"{name} {where[name]}" for name in ("python", "torch", "sb3", "gymnasium", "mujoco", "numpy"))
    return f"""# A trained agent to look at

Written by `python scripts/make_pretrained.py`: do not edit.

A {ENV} comes with the package, so that there is something to watch before anything is trained:

```
python -m sb3_trpo_ext enjoy --env {ENV} --pretrained                # in a window
python -m sb3_trpo_ext enjoy --env {ENV} --pretrained --no-render    # returns only
python -m sb3_trpo_ext record_video --env {ENV} --pretrained         # a film in logs/videos; needs no screen
```

| actions | mean return | std | worst | median | best |
|---|---|---|---|---|---|
{rows}
{EPISODES} episodes each, environments seeded from {SEED}; {versions}.
It is one run (seed {seed}), the policy at its end: the median of three (seeds 0, 1 and 4), not the best. Five seeds are in
[results](results.md); the same seed ended elsewhere there, on another kind of processor, which rounds in another way.

It was trained by `python -m sb3_trpo_ext train --env {ENV} -n {STEPS} --seed {seed} --eval-freq -1`, with the entry of
`zoo_configs/trpo.yml` as it then was: {settings}. Its optimiser's moments are not kept: to train further, train anew.

The files ({size() // 1000} kB, in `sb3_trpo_ext/zoo/trained_agents`, laid out as a log folder of the Zoo) are SB3's own:
`TRPO.load` and `VecNormalize.load` read them, and so does sb3-contrib. They hold pickles, which run what their author wants:
trust them as you trust the package, and [other people's](resilience_files.md) only as you trust those people.
"""


def main() -> None:
    """Pack, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the finished run")
    pack(parser.parse_args().run)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
