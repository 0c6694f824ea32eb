"""One training of a trial: the Zoo's way from settings to a model, seeded and silent, looked at after each quarter."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from evidence.runs import Run
from evidence.training import CURVE_SEED, evaluate
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from tuning.pruner import QUARTERS

EVALUATIONS = 3
"""A quarter's score is the mean of so many evaluations, evenly spaced in it: one alone says as much about the last update as
about the settings."""
EPISODES = 5
"""Of an evaluation: deterministic, the normalisation frozen, rewards as they are. That is what reports state, and, unlike the
return of training episodes, it does not favour policies that explore less."""

Tell = Callable[[float], bool]


class TrialManager(ExperimentManager):
    """
    The Zoo's manager for one set of settings, which are handed over; it neither reads nor writes files.

    :param run: what to train
    """

    def __init__(self, run: Run):
        super().__init__(
            Namespace(),
            "trpo",
            run.task,
            "trials",
            n_timesteps=run.steps,
            eval_freq=-1,
            log_interval=-2,  # none
            seed=run.seed,
            verbose=0,
            device="cpu",
        )
        self.entry = {key: value for key, value in run.entry.items() if key != "callback"}

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Give the settings of the run, without its callbacks: those of the entries only look on."""
        return {"n_timesteps": self.n_timesteps, **copy.deepcopy(self.entry)}, OrderedDict()

    def create_log_folder(self) -> None:
        """Make none."""

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        """Save none: the study holds what was tried."""

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        Create environments that log nothing.

        :param n_envs: how many
        :param eval_env: whether for evaluation
        :param no_log: True whatever is asked for
        :return: environments, wrapped
        """
        return super().create_envs(n_envs, eval_env, no_log=True)


class Quarters(BaseCallback):
    """
    Evaluates, tells the score of each quarter, and ends the training when told so.

    :param run: what is trained
    :param eval_env: environments for the evaluations, an episode each
    :param tell: given a quarter's score, says whether to go on
    """

    reads_step_values = False

    def __init__(self, run: Run, eval_env: VecEnv, tell: Tell):
        super().__init__()
        self.eval_env, self.tell = eval_env, tell
        points = QUARTERS * EVALUATIONS
        self._points = [round(run.steps * (point + 1) / points) for point in range(points)]
        self._seed = CURVE_SEED + 1_000 * run.seed
        self._returns: list[float] = []

    def _on_step(self) -> bool:
        while len(self._returns) < len(self._points) and self.num_timesteps >= self._points[len(self._returns)]:
            # Start states differ from point to point, and are the same in all trials
            seed = self._seed + EPISODES * len(self._returns)
            self._returns.append(evaluate(self.model, self.eval_env, EPISODES, seed)["return_mean"])
            if len(self._returns) % EVALUATIONS == 0 and not self.tell(float(np.mean(self._returns[-EVALUATIONS:]))):
                return False
        return True


def train(run: Run, tell: Tell) -> None:
    """
    Train; seeds and settings do what they do in the Zoo and in the Evidence runner.

    :param run: what to train
    :param tell: given the score of each quarter, says whether to go on
    """
    from sb3_trpo_ext.zoo.cli import use_fast_wrappers  # importing it puts our TRPO in its place

    use_fast_wrappers()
    manager = TrialManager(run)
    set_random_seed(run.seed)  # as rl_zoo3.train does, before anything is made
    model, _ = manager.setup_experiment()  # type: ignore[misc]
    eval_env = manager.create_envs(EPISODES, eval_env=True)
    manager.callbacks.append(Quarters(run, eval_env, tell))
    manager.learn(model)
    eval_env.close()
