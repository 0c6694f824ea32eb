"""What an incident is, and the small task that all of them happen to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import sb3_contrib
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import sb3_trpo_ext
from sb3_trpo_ext.core import NUMERICS_VERSION

HEALTHY, CONTRIB, OURS, CURED = "sb3-contrib, healthy", "sb3-contrib", "ours", "ours, cured"
SIDES = (HEALTHY, CONTRIB, OURS, CURED)

TASK, RANDOM_RETURN, BEST_RETURN = "CartPole-v1", 22.0, 500.0
"""A pole to balance; returns of the random policy and of one that never drops it."""

BASE: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "target_kl": 0.01, "device": "cpu"}
N_ENVS = 8
"""1,024 samples an update; everything else is sb3-contrib's default. delta is in sb3-contrib's unit on all sides (of one
categorical action the two units are the same)."""

HEALTHY_UPDATES = 45
"""At least: then one healthy run serves several incidents."""
SEEDS, FRESH_SEEDS = (1, 2, 3, 4, 5), (6, 7, 8, 9, 10)
"""Reported; fresh ones for an incident that was designed again after seeds of its first form had been seen."""

Settings = dict[str, Any]


@dataclass
class Kit:
    """
    What turns the healthy training into one side of an incident; the same means for sb3-contrib and for ours.

    :param settings: arguments of both algorithms
    :param policy: policy class, or its name
    :param wrapper: of the environments, around the Monitor: returns stay the task's own
    :param callbacks: makes them
    """

    settings: Settings = field(default_factory=dict)
    policy: Any = "MlpPolicy"
    wrapper: Callable[[gym.Env, int], gym.Env] | None = None
    callbacks: Callable[[], list[BaseCallback]] = list


@dataclass(frozen=True)
class Incident:
    """
    One production incident.

    :param letter: as the issue names it
    :param name: a few words
    :param updates: length of a run
    :param onset: the update from which trouble acts; 1: from the start
    :param trouble: what is wrong, in words
    :param cure: what the third curve has, in words
    :param kit: what the trouble is made of
    :param alarms: of ours that are about this trouble, named before the reported seeds were run
    :param healthy: the same without the trouble
    :param cured: the trouble, with the cure; None: as ``kit``
    :param ours: arguments of ours, for the cure
    :param monitor: arguments of TrustRegionMonitor, for the cure
    :param seeds: reported ones, named before any of them was run
    """

    letter: str
    name: str
    updates: int
    onset: int
    trouble: str
    cure: str
    kit: Kit
    alarms: tuple[str, ...] = ()
    healthy: Kit = field(default_factory=Kit)
    cured: Kit | None = None
    ours: Settings = field(default_factory=dict)
    monitor: Settings = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS

    @property
    def title(self) -> str:
        """Letter and name."""
        return f"({self.letter}) {self.name}"

    def kit_of(self, side: str) -> Kit:
        """
        Choose what a side is equipped with.

        :param side: of ``SIDES``
        :return: its kit
        """
        if side == HEALTHY:
            return self.healthy
        return self.cured or self.kit if side == CURED else self.kit

    def length(self, side: str) -> int:
        """
        Say how long a run is.

        :param side: of ``SIDES``
        :return: updates
        """
        return max(HEALTHY_UPDATES, self.updates) if side == HEALTHY else self.updates

    def key(self, side: str) -> str:
        """
        Name what a side runs, so that it is run again when that changes, and a healthy run serves several incidents.

        :param side: of ``SIDES``
        :return: twelve hex digits
        """
        kit = self.kit_of(side)
        text: list[Any] = [BASE, N_ENVS, kit.settings, side, self.length(side)]
        if kit.wrapper is not None or kit.callbacks is not list or kit.policy != "MlpPolicy":
            text += [self.letter, self.trouble, self.cure]
        if side in (OURS, CURED):
            text.append(NUMERICS_VERSION)
        if side == CURED:
            text += [self.ours, self.monitor]
        return hashlib.sha256(json.dumps(text, default=_named).encode()).hexdigest()[:12]


def _named(value: Any) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def make_model(incident: Incident, side: str, seed: int, folder: Path) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """
    Build one side of an incident.

    :param incident: the incident
    :param side: of ``SIDES``
    :param seed: of environments and algorithm
    :param folder: run folder of ours
    :return: the model and the callbacks that belong to the trouble
    """
    kit = incident.kit_of(side)
    env = make_vec_env(TASK, N_ENVS, seed=seed)
    if kit.wrapper is not None:
        env.envs = [kit.wrapper(one, index) for index, one in enumerate(env.envs)]  # type: ignore[attr-defined]
    settings = {**BASE, **kit.settings, "seed": seed}
    if side in (HEALTHY, CONTRIB):
        return sb3_contrib.TRPO(kit.policy, env, **settings), kit.callbacks()
    own = {"kl_reduction": "mean", "log_folder": str(folder), **(incident.ours if side == CURED else {})}
    return sb3_trpo_ext.TRPO(kit.policy, env, **settings, **own), kit.callbacks()
