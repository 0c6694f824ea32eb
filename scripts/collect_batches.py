"""
Train policies whose updates other scripts measure, and keep them: an early and a late one of each task.

Trained is sb3_trpo_ext.TRPO with zoo_configs/trpo.yml, seed 0, as `rl_zoo3.train` does. Kept is, early (50,000 steps) and
late (500,000; Humanoid 300,000), between two updates: TASK-STAGE.zip, the model; TASK-STAGE.pkl, the statistics of
VecNormalize; TASK-STAGE.json, where they come from. What is there is not made again; a training that was interrupted begins
anew.

    python scripts/collect_batches.py                                  # all three tasks, two at a time: half an hour
    python scripts/collect_batches.py --tasks Hopper-v5 --late 100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from evidence.configurations import BadInput, make_run
from evidence.provenance import REPO, provenance
from evidence.runs import Run
from evidence.store import write_whole
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed

STEPS = {"Hopper-v5": 500_000, "HalfCheetah-v5": 500_000, "Humanoid-v5": 300_000}
EARLY = 50_000
STAGES = ("early", "late")
FOLDER = REPO / ".cache" / "batches"


@dataclass(frozen=True)
class Checkpoint:
    """
    A kept policy.

    :param folder: where
    :param task: environment id
    :param stage: one of ``STAGES``
    """

    folder: Path
    task: str
    stage: str

    def path(self, suffix: str) -> Path:
        """
        Name a file of it.

        :param suffix: "zip": the model; "pkl": VecNormalize; "json": where they come from
        :return: its path
        """
        return self.folder / f"{self.task}-{self.stage}.{suffix}"

    @property
    def finished(self) -> bool:
        """Whether it is there: the JSON is written last."""
        return self.path("json").exists()


class Keeper(BaseCallback):
    """
    Keeps the policy between two updates.

    :param run: what is trained
    :param folder: where to keep it
    :param early: steps of the early one, rounded up to whole updates
    """

    reads_step_values = False

    def __init__(self, run: Run, folder: Path, early: int):
        super().__init__()
        self.run, self.folder, self.early = run, folder, early

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.early:
            self._keep("early")

    def _on_training_end(self) -> None:
        if self.num_timesteps >= self.run.steps:  # the Zoo takes an interrupt for a normal end, and calls this twice
            self._keep("late")

    def _keep(self, stage: str) -> None:
        checkpoint = Checkpoint(self.folder, self.run.task, stage)
        if checkpoint.finished:
            return
        self.model.save(checkpoint.path("zip"))
        normalize = self.model.get_vec_normalize_env()
        if normalize is not None:
            normalize.save(str(checkpoint.path("pkl")))
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        about = {"steps": self.num_timesteps, "training_return": float(np.mean(returns)) if returns else None}
        write_whole(checkpoint.path("json"), json.dumps({**self.run.identity(), **about, **provenance()}, indent=1) + "\n")


def train(run: Run, folder: Path, early: int) -> None:
    """
    Train, and keep the policy early and late.

    :param run: what to train
    :param folder: where to keep it
    :param early: steps of the early one
    """
    from evidence.training import make_manager

    import sb3_trpo_ext.zoo  # noqa: F401  (puts our TRPO in the place of sb3-contrib's, for this process)

    torch.set_num_threads(1)
    set_random_seed(run.seed)
    with tempfile.TemporaryDirectory() as scratch:
        manager = make_manager(run, Path(scratch))
        model, _ = manager.setup_experiment()  # type: ignore[misc]
        manager.callbacks.append(Keeper(run, folder, early))
        manager.learn(model)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(STEPS), metavar="ID", help=f"default: {' '.join(STEPS)}")
    parser.add_argument("--early", type=int, default=EARLY, help="steps of the early policy (default: %(default)s)")
    parser.add_argument("--late", type=int, help="steps of the late one (default: 500,000; Humanoid 300,000)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to keep them (default: .cache/batches)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """
    Train what is missing: one task here, several in a process each.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parse_arguments(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    missing = [task for task in args.tasks if not all(Checkpoint(args.folder, task, stage).finished for stage in STAGES)]
    try:
        runs = [make_run("ours", task, args.seed, args.late or STEPS.get(task, STEPS["Hopper-v5"])) for task in missing]
    except BadInput as error:
        sys.exit(f"collect_batches: {error}")
    if len(args.tasks) == 1:
        for run in filter(None, runs):
            train(run, args.folder.resolve(), args.early)
        return 0
    shared = [f"--folder={args.folder}", f"--seed={args.seed}", f"--early={args.early}"]
    shared += [f"--late={args.late}"] if args.late else []

    def start(task: str) -> int:
        return subprocess.run([sys.executable, __file__, "--tasks", task, *shared], check=False).returncode

    with ThreadPoolExecutor(args.jobs) as pool:
        return max(pool.map(start, missing), default=0)


if __name__ == "__main__":
    sys.exit(main())
