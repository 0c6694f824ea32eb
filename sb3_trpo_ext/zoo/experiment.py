"""The RL Zoo's experiment, with checkpoints; and one that goes on where another was interrupted (``plan``)."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pprint import pprint
from typing import Any

import rl_zoo3.train
import torch
from rl_zoo3 import exp_manager
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.records.atomic import write_atomic
from sb3_trpo_ext.sb3.checkpoints.files import FOLDER_NAME, checkpoints_in
from sb3_trpo_ext.sb3.checkpoints.model_files import STATISTICS_NAME, statistics_in
from sb3_trpo_ext.sb3.ranks.group import of_first_rank
from sb3_trpo_ext.sb3.ranks.launch import place
from sb3_trpo_ext.sb3.ranks.training import callbacks_of
from sb3_trpo_ext.zoo.endings import first_raised, resuming, told_in_one_line
from sb3_trpo_ext.zoo.plan import Plan
from sb3_trpo_ext.zoo.threads import choose_threads


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
            self.params_path = f"{self.save_path}/{self.env_name}"
        self.seed = of_first_rank(self.seed)
        if place()[0] > 0:
            # Evaluation, the Zoo's own checkpoints, prints and the progress bar are rank 0's.
            self.eval_freq = self.save_freq = -1
            self.verbose, self.show_progress = 0, False

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Give those of the run that goes on, and show them.

        :return: for the model and its environments; and what is saved
        """
        if self.plan.resumed is None:
            return super().read_hyperparameters()
        print(f"Hyperparameters of the run, from {self.plan.resumed.path}:")
        pprint(self.plan.resumed.entry())
        return self.plan.resumed.entry(), self.plan.resumed.entry()

    def create_log_folder(self) -> None:
        """Make a folder that is this run's alone; or have the Monitor files of one that goes on appended to."""
        if self.plan.run is None:
            if place()[0] == 0:
                self._take_number()
            self.save_path = of_first_rank(self.save_path)
            self.params_path = f"{self.save_path}/{self.env_name}"
        super().create_log_folder()
        if self.plan.run is not None:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}

    def _take_number(self) -> None:
        """The Zoo has counted the runs when it began; one that began with it may have taken the number since."""
        os.makedirs(self.log_path, exist_ok=True)
        while True:
            try:
                os.mkdir(self.save_path)
                return
            except FileExistsError:
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")

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

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        """``-i best_model.zip`` goes on with the model's own statistics, not with those of the end of its training."""
        env = super()._maybe_normalize(env, eval_env)
        content = statistics_in(Path(self.trained_agent)) if self.trained_agent else None
        if content is not None and isinstance(env, VecNormalize):
            saved = pickle.loads(content)  # trusted as the model is
            vars(env).update({name: value for name, value in vars(saved).items() if name in ("obs_rms", "ret_rms")})
        return env

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if place()[0] == 0:
            super()._save_config(saved_hyperparams)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        asked, before = self.args.num_threads, torch.get_num_threads()
        if self.plan.run is None:
            model = super()._load_pretrained_agent(hyperparams, env)
            choose_threads(model.policy, asked)
            return model
        with warnings.catch_warnings():
            # Said before, in lines of our own.
            warnings.filterwarnings("ignore", message="TRPO: checkpoint .* is passed over")
            resumed = TRPO.resume(self.plan.run, env=env, device=self.device)
        if asked > 0:
            torch.set_num_threads(asked)
        elif torch.get_num_threads() != before:
            print(
                f"--resume: torch's number of threads is {torch.get_num_threads()}, as it was when the checkpoint was written"
            )
        return resumed

    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train; a training that a signal has ended is saved as one that is over, and ends the process as a shell expects.

        :param model: the model
        :raises SystemExit: 143 after SIGTERM, 130 after Ctrl-C
        :raises EndedError: if a worker died, the disk takes no more, or an evaluation would never end
        """
        try:
            with told_in_one_line(self.env_name.gym_id, Path(self.save_path)):
                self._learn(model)
        except SystemExit:
            self._save_interrupted(model)
            raise
        number = model.session.stop_signal if isinstance(model, TRPO) else None
        if number is not None:
            self._save_interrupted(model)
            sys.exit(128 + number)  # by this function: W&B listens to it

    def _learn(self, model: BaseAlgorithm) -> None:
        try:
            super().learn(model)
        except BaseException as error:
            first = first_raised(error, type(model).learn)  # type: ignore[arg-type]
            if first is error:
                raise
            raise first from first.__cause__

    def _save_interrupted(self, model: BaseAlgorithm) -> None:
        self.save_trained_model(model)
        if place()[0] == 0 and checkpoints_in(Path(self.save_path) / FOLDER_NAME):
            command = resuming(self.env_name.gym_id, Path(self.save_path))
            print(f"sb3_trpo_ext: resume this run with `{command}`", file=sys.stderr)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Save the model, once; or say what is left of the run.

        :param model: the model
        :raises EndedError: if the disk takes no more
        """
        if place()[0] > 0:
            return
        with told_in_one_line(self.env_name.gym_id, Path(self.save_path)):
            super().save_trained_model(model)
            content = statistics_in(Path(self.save_path, f"{self.env_name}.zip"))
            if content is not None:
                # The same bytes, so that anybody can see that the two files are of one moment.
                Path(self.params_path).mkdir(parents=True, exist_ok=True)
                write_atomic(Path(self.params_path, STATISTICS_NAME), content)
