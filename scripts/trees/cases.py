"""The trainings that are compared. They know the public names of the package only: what is inside may move."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize
from trees.environments import SmallEnv

RUN = "run"
"""Run folder, in the working directory."""

SMALL = {"n_steps": 32, "batch_size": 32, "n_critic_updates": 2, "policy_kwargs": {"net_arch": [8]}, "kl_reduction": "mean"}
IMAGES = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
NO_ARGUMENTS = ("callback", "normalize", "n_envs", "n_timesteps")
"""What the RL Zoo reads of an entry, and the algorithm does not."""


@dataclass(frozen=True)
class Case:
    """
    A short training.

    :param env: arguments of ``SmallEnv``, or the id of a task that has an entry in our YAML
    :param policy: SB3's name of it
    :param settings: further arguments of TRPO
    :param updates: how many
    :param ranks: processes
    :param watched: whether every monitor looks on, with a run folder and checkpoints
    """

    env: dict[str, Any] | str = field(default_factory=dict)
    policy: str = "MlpPolicy"
    settings: dict[str, Any] = field(default_factory=dict)
    updates: int = 5
    ranks: int = 1
    watched: bool = False


CASES: dict[str, Case] = {
    "Box": Case(),
    "Discrete": Case({"actions": "Discrete", "observations": "Discrete"}),
    "MultiDiscrete": Case({"actions": "MultiDiscrete", "observations": "MultiDiscrete"}),
    "MultiBinary": Case({"actions": "MultiBinary", "observations": "MultiBinary"}),
    "Dict": Case({"observations": "Dict"}, "MultiInputPolicy"),
    "image": Case({"actions": "Discrete", "observations": "image"}, "CnnPolicy", {"policy_kwargs": IMAGES}, 3),
    "gSDE": Case(settings={"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {"net_arch": [8], "log_std_init": -2.0}}),
    "K-FAC": Case(settings={"cg_preconditioner": "kfac"}),
    "sub-sampling": Case(settings={"sub_sampling_factor": 3}),
    "truncate": Case({"broken": True}, settings={"on_nonfinite": "truncate"}),
    "two ranks": Case(ranks=2),
    "monitors": Case(settings={"log_folder": RUN}, watched=True),
    "Hopper-v5": Case("Hopper-v5", updates=3),
    "HalfCheetah-v5": Case("HalfCheetah-v5", updates=2),
    "Ant-v5": Case("Ant-v5", updates=2),
    "CartPole-v1": Case("CartPole-v1", updates=3),
}


def entry(task: str, config: Path) -> dict[str, Any]:
    """
    Read an entry of our YAML.

    :param task: environment id
    :param config: the file
    :return: hyperparameters; ``policy_kwargs`` as the Zoo reads them
    """
    found: dict[str, Any] = yaml.safe_load(config.read_text())[task]
    if "policy_kwargs" in found:
        # The Zoo evaluates this text, too; the file is our own.
        found["policy_kwargs"] = eval(found["policy_kwargs"], {"nn": nn})
    return found


def make_task(task: str, config: Path) -> tuple[TRPO, list[Any]]:
    """
    Make a model from our YAML, as the command line does: in our wrappers, with the entry's callbacks.

    :param task: environment id
    :param config: the tree's file
    :return: the model, and the callbacks
    """
    settings = entry(task, config)
    env: Any = make_vec_env(task, settings["n_envs"], seed=0, vec_env_cls=FastDummyVecEnv)
    normalize = settings.get("normalize", False)
    if normalize:
        arguments = normalize if isinstance(normalize, dict) else {}
        env = FastVecNormalize(env, gamma=settings.get("gamma", 0.99), **arguments)
    module, _, name = settings["callback"].rpartition(".")
    callback = getattr(importlib.import_module(module), name)()
    arguments = {key: value for key, value in settings.items() if key not in NO_ARGUMENTS}
    return TRPO(env=env, seed=0, device="cpu", **arguments), [callback]


def make_small(case: Case) -> tuple[TRPO, list[Any]]:
    """
    Make a small model.

    :param case: one with a ``SmallEnv``
    :return: the model, and the callbacks
    """
    assert isinstance(case.env, dict)
    env: Any = make_vec_env(SmallEnv, 2, seed=0, env_kwargs=case.env, monitor_dir=RUN if case.watched else None)
    if case.env.get("observations", "Box") == "Box":
        env = VecNormalize(env)
    model = TRPO(case.policy, env, seed=0, device="cpu", warn_on_risky=False, **{**SMALL, **case.settings})
    if not case.watched:
        return model, []
    # Any drift is trouble to it, so that there is an alarm, and a dump of it.
    return model, [TrustRegionMonitor(kl={"drift_share": 0.0}), Checkpoints(every_updates=2, keep_last=1, keep_best=False)]


def make(case: Case, config: Path) -> tuple[TRPO, list[Any]]:
    """
    Make the model of a case.

    :param case: the case
    :param config: the tree's ``trpo.yml``
    :return: the model, and the callbacks
    """
    return make_task(case.env, config) if isinstance(case.env, str) else make_small(case)


def steps_of(case: Case, model: TRPO) -> int:
    """
    Count the steps of a training.

    :param case: the case
    :param model: its model
    :return: environment steps, of all ranks
    """
    return case.updates * model.n_steps * model.n_envs * case.ranks
