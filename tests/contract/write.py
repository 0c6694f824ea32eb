"""
Write what a version leaves behind, for versions to come: ``python -m tests.contract.write FOLDER``.

``tests/contract/1`` was written by the code before the rooms of ``sb3/`` were rebuilt, ``2`` (a run folder without its dump)
since a checkpoint's state is plain data. They stay as they are: files of users do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.monitoring import TrustRegionMonitor

TASK = "Pendulum-v1"
RUN, ZOO = "run", "zoo"
UPDATES, SAMPLES = 4, 128


def environments(folder: Path | None = None) -> VecNormalize:
    """
    Make the environments of the run.

    :param folder: of its Monitor files
    :return: two, normalised
    """
    again = {"override_existing": folder is None or not any(folder.glob("*.monitor.csv"))}
    return VecNormalize(
        make_vec_env(TASK, 2, seed=1, monitor_dir=None if folder is None else str(folder), monitor_kwargs=again)
    )


def callbacks() -> list[object]:
    """
    Make the callbacks of the run.

    :return: monitors with a flight recorder, an evaluation, and checkpoints
    """
    evaluation = EvalCallback(VecNormalize(make_vec_env(TASK, 1, seed=2), training=False), n_eval_episodes=1, eval_freq=128)
    # Any drift is trouble to it, so that there is an alarm, and a dump of it.
    monitor = TrustRegionMonitor(kl={"drift_share": 0.0})
    return [monitor, evaluation, Checkpoints(every_updates=2, keep_last=1, keep_best=False)]


def write(folder: Path) -> None:
    """
    Train, and leave a run folder with a checkpoint, a dump, a zip and a run of the Zoo.

    :param folder: where; it must not exist
    """
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ["SB3_LOGDIR"] = RUN  # not a folder of this machine
    torch.set_num_threads(1)
    settings = {"kl_reduction": "joint", "target_kl": 0.02, "use_sde": True, "policy_kwargs": {"net_arch": [8]}, "seed": 1}
    model = TRPO("MlpPolicy", environments(Path(RUN)), n_steps=64, batch_size=64, log_folder=RUN, device="cpu", **settings)
    model.learn(UPDATES * SAMPLES, callback=callbacks())
    model.save("model.zip")
    # Imported here: it needs the RL Zoo, which reads the command line.
    from sb3_trpo_ext.zoo.cli import run

    options = ["-n", "128", "--eval-freq", "64", "--eval-episodes", "1", "--seed", "1", "--verbose", "0", "-f", ZOO]
    run(["train", "--env", TASK, *options, "-params", "n_steps:64", "policy_kwargs:dict(net_arch=[8])", "normalize:True"])
    for spare in (*Path().rglob("*.monitor.csv"), *Path().rglob("command.txt")):
        spare.unlink()
    shutil.rmtree(next(Path(ZOO).rglob("checkpoints")))  # the run folder has one


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(arguments.folder.absolute())


if __name__ == "__main__":
    main()
