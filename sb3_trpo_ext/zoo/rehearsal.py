"""A rehearsal of what the Zoo will do: one environment and the model are made and closed again, without a trace."""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_trpo_ext.zoo.yaml_files import ConfigError

SHOW_TRACEBACK = "(--verbose 2 shows where)"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """
    Keep what is printed and warned of from the screen.

    :yields: nothing
    """
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        yield


def manager_of(args: argparse.Namespace) -> ExperimentManager:
    """
    Make the Zoo's manager, as it would itself, but silent and with no evaluation.

    :param args: flags of the Zoo's ``train``
    :return: the manager
    """
    return ExperimentManager(
        args,
        args.algo,
        args.env,
        args.log_folder,
        n_timesteps=args.n_timesteps,
        eval_freq=-1,
        hyperparams=args.hyperparams,
        env_kwargs=args.env_kwargs,
        eval_env_kwargs=args.eval_env_kwargs,
        trained_agent=args.trained_agent,
        storage=args.storage,
        study_name=args.study_name,
        verbose=0,
        device=args.device,
        config=args.conf_file,
        trial_id=args.trial_id,
    )


def rehearse(manager: ExperimentManager, entry: dict[str, Any], where: str, verbose: int) -> BaseAlgorithm | None:
    """
    Make one environment and the model, and close the environment again.

    :param manager: the Zoo's
    :param entry: what it has read
    :param where: that stands, for the message
    :param verbose: from 2, an error keeps its traceback
    :return: the model; None where a training goes on, whose model is loaded
    :raises ConfigError: if one of them can't be made
    """
    opened: list[Any] = []
    what = "the configuration can't be used"
    try:
        with silent():
            quiet = {key: value for key, value in entry.items() if key != "callback"}
            hyperparams, wrapper, _, manager.vec_env_wrapper = manager._preprocess_hyperparams(quiet)

            def remembered(env: gym.Env) -> gym.Env:
                opened.append(env)
                return env if wrapper is None else wrapper(env)

            what = "the environment can't be made"
            manager.env_wrapper = remembered
            venv = manager.create_envs(1, no_log=True)
            what = "the model can't be made"
            if manager.continue_training:
                return None
            return ALGOS[manager.algo](env=venv, device=manager.device, verbose=0, **hyperparams)
    except Exception as error:  # whatever an environment of anybody's raises
        if verbose >= 2:
            raise
        text = " ".join(str(error).split())
        detail = (
            text.removeprefix("TRPO: ") if text.startswith("TRPO: ") else f"{type(error).__name__}: {text} {SHOW_TRACEBACK}"
        )
        raise ConfigError(f"{where}: {what}: {detail}") from error
    finally:
        for env in opened:
            env.close()
