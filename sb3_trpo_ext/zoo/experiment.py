"""The RL Zoo's experiment, with checkpoints; and one that goes on where another was interrupted (``train … --resume``)."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rl_zoo3.train
from rl_zoo3 import exp_manager
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import EnvironmentName, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.sb3.checkpoint import EVERY_UPDATES
from sb3_trpo_ext.sb3.checkpoint_files import FOLDER_NAME, Checkpoint, checkpoints_in, newest_whole
from sb3_trpo_ext.sb3.checkpoint_lock import claim
from sb3_trpo_ext.sb3.distributed import of_first_rank
from sb3_trpo_ext.sb3.launched import place
from sb3_trpo_ext.sb3.rank_training import callbacks_of
from sb3_trpo_ext.zoo.preflight import CheckingParser

NEWEST = ""
"""``--resume`` without a folder."""


@dataclass(frozen=True)
class Plan:
    """
    What our own flags ask for.

    :param every_updates: updates between checkpoints; 0: none are written
    :param run: folder of the run that is resumed; None: a new run
    :param found: the checkpoint that it goes on from
    """

    every_updates: int = EVERY_UPDATES
    run: Path | None = None
    found: Checkpoint | None = None


def own_flags() -> argparse.ArgumentParser:
    """
    Make a parser of the flags that the Zoo does not know.

    :return: the parser
    """
    parser = CheckingParser(
        prog="python -m sb3_trpo_ext train",
        usage="%(prog)s [flags below, which are ours] [the RL Zoo's flags]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="RUN_FOLDER",
        help="go on with the newest run of --env in the log folder, or with this one, from its newest whole checkpoint; "
        "-n is the number of steps of the whole training. Without a folder it begins anew where that run has no checkpoint",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=_count,
        default=EVERY_UPDATES,
        metavar="N",
        help="updates between checkpoints (default: %(default)s, or a minute if that is less); 0: none",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of updates, or 0 for no checkpoints")
    return int(text)


def make_plan(arguments: list[str]) -> tuple[Plan, list[str]]:
    """
    Take our own flags out of a command line.

    :param arguments: of ``train``
    :return: what they ask for, and the arguments for the Zoo
    :raises ValueError: if a flag is impossible, if the run has checkpoints and none of them is whole, and if the run that is
        named has none, or is another environment's, or is still trained
    """
    own, rest = own_flags().parse_known_args(arguments)
    if own.resume is None:
        return Plan(own.checkpoint_every), rest
    parser = argparse.ArgumentParser(add_help=False)
    for flags, default in (
        (["--env"], "CartPole-v1"),
        (["--algo"], "trpo"),
        (["-f", "--log-folder"], "logs"),
        (["--seed"], None),
    ):
        parser.add_argument(*flags, default=default)
    known = parser.parse_known_args(rest)[0]
    if known.algo != "trpo":
        raise ValueError(f"--resume goes on with trpo only; this is --algo {known.algo}.")
    if own.resume == NEWEST:
        run = _newest_run(Path(known.log_folder, known.algo), known.env)
    else:
        run = Path(own.resume)
        _check_named(run, known.env)
    found = _find(run)
    if run is None or found is None:
        return Plan(own.checkpoint_every), rest
    if known.seed is None and found.about.get("seed") is not None:
        rest = [*rest, "--seed", str(found.about["seed"])]
    if "--track" in rest and found.about.get("wandb_run"):
        os.environ |= {"WANDB_RUN_ID": str(found.about["wandb_run"]), "WANDB_RESUME": "allow"}
    return Plan(own.checkpoint_every, run, found), rest


def _newest_run(folder: Path, env_id: str) -> Path | None:
    name = EnvironmentName(env_id)
    number = get_latest_run_id(str(folder), name)
    return folder / f"{name}_{number}" if number > 0 else None


def _check_named(run: Path, env_id: str) -> None:
    if not checkpoints_in(run / FOLDER_NAME):
        why = "holds no checkpoint" if run.is_dir() else "is no folder"
        raise ValueError(f"--resume {run}: {why} (--resume without a folder takes the newest run of --env)")
    trained = [path.parent.name for path in run.glob("*/args.yml")]
    if trained and EnvironmentName(env_id) not in trained:
        raise ValueError(f"--resume {run}: is a run of {trained[0]}; this is --env {env_id}")


def _find(run: Path | None) -> Checkpoint | None:
    if run is None or not checkpoints_in(run / FOLDER_NAME):
        print(
            f"--resume: {run or 'the log folder'} holds no checkpoint of this environment: a new run begins", file=sys.stderr
        )
        return None
    found, passed_over = newest_whole(run)
    if found is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
        raise ValueError(f"--resume: no checkpoint of {run} is whole ({reasons}).")
    claim(run / FOLDER_NAME)
    for name, reason in passed_over.items():
        print(f"--resume: {name} is passed over: {reason}", file=sys.stderr)
    steps, total = found.about["num_timesteps"], found.about["total_timesteps"]
    print(f"--resume: {run} goes on behind update {found.n_updates} ({steps} of {total} steps), with its own hyperparameters")
    return found


@contextmanager
def planned(plan: Plan) -> Iterator[None]:
    """
    Have the Zoo's ``train`` do it.

    :param plan: what was asked for
    :yields: nothing
    """
    vars(rl_zoo3.train).update(ExperimentManager=partial(Experiment, plan))
    try:
        yield
    finally:
        vars(rl_zoo3.train).update(ExperimentManager=ExperimentManager)


class Experiment(ExperimentManager):
    r"""
    The Zoo's, with checkpoints among the callbacks, perhaps in an earlier run's folder.

    :param plan: what was asked for
    :param \*arguments: of the Zoo's
    :param \**named: of the Zoo's
    """

    def __init__(self, plan: Plan, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.plan = plan
        if plan.run is not None:
            self.continue_training = True
            self.save_path = str(plan.run)
        self.save_path, self.seed = of_first_rank((self.save_path, self.seed))
        self.params_path = f"{self.save_path}/{self.env_name}"
        if place()[0] > 0:
            # Evaluation, the Zoo's own checkpoints, prints and the progress bar are rank 0's.
            self.eval_freq = self.save_freq = -1
            self.verbose, self.show_progress = 0, False

    def create_log_folder(self) -> None:
        """Have Monitor files appended to."""
        super().create_log_folder()
        if self.plan.run is not None:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}

    def create_callbacks(self) -> None:
        """Add checkpoints, unless the YAML has its own; on ranks behind the first there is hardly anybody to call back."""
        rank, size = place()
        if size > 1:
            # Counted in steps of all ranks.
            self.eval_freq = max(self.eval_freq // size, 1) if self.eval_freq > 0 else self.eval_freq
            self.save_freq = max(self.save_freq // size, 1) if self.save_freq > 0 else self.save_freq
        super().create_callbacks()
        if rank > 0:
            self.callbacks = callbacks_of(rank, self.callbacks)
            return
        wanted = self.algo == "trpo" and self.plan.every_updates > 0 and not self.optimize_hyperparameters
        if wanted and not any(isinstance(callback, Checkpoints) for callback in self.callbacks):
            self.callbacks.append(Checkpoints(every_updates=self.plan.every_updates))

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        Make environments; those of different ranks write different Monitor files.

        :param n_envs: how many
        :param eval_env: whether they are for evaluation
        :param no_log: whether there shall be no Monitor files
        :return: the environments
        """
        first = 0 if eval_env else place()[0] * n_envs
        vars(exp_manager).update(make_vec_env=partial(make_vec_env, start_index=first))
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            vars(exp_manager).update(make_vec_env=make_vec_env)

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if place()[0] == 0:
            super()._save_config(saved_hyperparams)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Save the trained model, once.

        :param model: the model
        """
        if place()[0] == 0:
            super().save_trained_model(model)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        if self.plan.run is None:
            return super()._load_pretrained_agent(hyperparams, env)
        with warnings.catch_warnings():
            # Said before, in lines of our own.
            warnings.filterwarnings("ignore", message="TRPO: checkpoint .* is passed over")
            return TRPO.resume(self.plan.run, env=env, device=self.device)

    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train; a training that a signal has ended is saved as one that is over, and ends the process as a shell expects.

        :param model: the model
        :raises SystemExit: 143 after SIGTERM, 130 after Ctrl-C
        """
        try:
            super().learn(model)
        except SystemExit:
            self.save_trained_model(model)
            raise
        number = getattr(model, "stop_signal", None)
        if number is not None:
            self.save_trained_model(model)
            sys.exit(128 + number)  # by this function: W&B listens to it
