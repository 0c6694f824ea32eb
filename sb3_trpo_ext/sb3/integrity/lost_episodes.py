"""
Episodes that end above their Monitor, which therefore never says so: a TimeLimit, or another wrapper, outside of it.

SB3's ``evaluate_policy`` counts what a Monitor reports, and would wait forever; ``rollout/ep_rew_mean`` would stay empty.
Where an episode ends and its Monitor was reset without having reported it, the report (``info["episode"]``) is supplied here,
from the rewards that come out of all wrappers of the environment. Where the Monitor was not reset (a life is lost in an Atari
game), the episode continues, as in SB3. A Monitor in another process is not asked, since a wrapper outside of it may answer in
its place, or raise, which ends the worker: there an episode counts as lost if it was cut off by a time limit.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_trpo_ext.sb3.errors import EpisodeError
from sb3_trpo_ext.sb3.integrity.finiteness import NON_FINITE

ENDINGS = 1000
"""Endings in a row within one episode of a Monitor, after which an evaluation is taken to be endless; Atari games have up to
about ten lives."""

UNSEEN = np.iinfo(np.int64).min
"""Length of an episode in another process that began before anybody looked; it stays negative."""


def _monitor_of(env: Any) -> Monitor:
    while not isinstance(env, Monitor):
        env = env.env
    return env


class LostEpisodes:
    """
    Looks for episodes of one VecEnv that their Monitors lose.

    :param venv: the innermost VecEnv
    """

    def __init__(self, venv: VecEnv):
        self._venv = venv
        self._monitored: bool | None = None
        self._monitors: list[Monitor] | None = None
        self._warned = False
        self._n_endings: Counter[int] = Counter()
        # By environment, after an ending: the number of the step at which its Monitor's episode has begun.
        self._marks: dict[int, int] = {}
        self._begin(None, None)

    def _begin(self, returns: Any, lengths: Any) -> None:
        self._returns, self._lengths, self._began = returns, lengths, np.full(self._venv.num_envs, time.time())

    def reset(self) -> None:
        """All episodes begin anew."""
        self._begin(np.zeros(self._venv.num_envs), np.zeros(self._venv.num_envs, np.int64))
        self._n_endings.clear()
        self._marks.clear()

    def report(self, rewards: Any, dones: Any, infos: Any, evaluates: bool) -> Any:
        """
        Look at a step.

        :param rewards: shape (n_envs,)
        :param dones: whether each environment's episode has ended
        :param infos: one of each environment
        :param evaluates: whether somebody waits for reports
        :return: the infos; those of lost episodes with a report
        :raises EpisodeError: if an evaluation would wait forever
        """
        if self._monitored is None:
            self._monitored = self._has_monitors()
            if self._monitored and isinstance(self._venv, DummyVecEnv):
                self._monitors = [_monitor_of(env) for env in self._venv.envs]
        if not self._monitored:
            return infos
        ended = np.flatnonzero(dones).tolist() if np.count_nonzero(dones) else []
        self._add(rewards, ended)
        reported = list(infos) if ended else infos
        for index in ended:
            if "episode" in infos[index]:
                self._n_endings[index] = 0
                self._marks.pop(index, None)
            elif self._is_lost(index, infos[index]):
                # A return means nothing if the episode was ended because it was not finite, or nobody saw it begin.
                if NON_FINITE not in infos[index] and self._lengths[index] >= 0:
                    reported[index] = {**infos[index], "episode": self._episode(index)}
                    self._warn(index, evaluates)
            elif evaluates:
                self._refuse_endless(index)
            self._returns[index], self._lengths[index], self._began[index] = 0.0, 0, time.time()
        return reported

    def _has_monitors(self) -> bool:
        try:
            return all(self._venv.env_is_wrapped(Monitor))
        except (NotImplementedError, AttributeError):
            return False  # a VecEnv of somebody's own may know no single environments

    def _is_lost(self, index: int, info: dict[str, Any]) -> bool:
        """Whether a Monitor has begun another episode. Its reset may have made steps already (no-ops in Atari games)."""
        if self._monitors is None:
            return bool(info.get("TimeLimit.truncated", False))
        monitor = self._monitors[index]
        before, self._marks[index] = self._marks.get(index), monitor.get_total_steps() - len(monitor.rewards)
        return not monitor.rewards or before not in (None, self._marks[index])

    def _add(self, rewards: Any, ended: list[int]) -> None:
        if self._returns is not None:
            self._returns += rewards
            self._lengths += 1
            return
        # Of episodes that began before we were there, this step included.
        if self._monitors is None:
            self._begin(np.zeros(self._venv.num_envs), np.full(self._venv.num_envs, UNSEEN))
            return
        earlier = [monitor.rewards for monitor in self._monitors]
        returns, lengths = np.array([float(sum(each)) for each in earlier]), np.array([len(each) for each in earlier])
        missing = [index for index in ended if not earlier[index]]
        returns[missing], lengths[missing] = np.asarray(rewards)[missing], 1
        self._begin(returns, lengths)

    def _episode(self, index: int) -> dict[str, Any]:
        """As a Monitor reports it."""
        seconds = round(time.time() - float(self._began[index]), 6)
        return {"r": round(float(self._returns[index]), 6), "l": int(self._lengths[index]), "t": seconds}

    def _warn(self, index: int, evaluates: bool) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"TRPO: a wrapper outside the Monitor ends episodes of environment {index}{' of the evaluation' * evaluates} (a "
            "TimeLimit, for example), and the Monitor does not notice: their returns and lengths are counted from the rewards "
            "outside all wrappers instead, and its file lacks them. Put a Monitor outside that wrapper, or give a time limit "
            "to gym.make (max_episode_steps).",
            UserWarning,
            stacklevel=2,
        )

    def _refuse_endless(self, index: int) -> None:
        self._n_endings[index] += 1
        if self._n_endings[index] >= ENDINGS:
            raise EpisodeError(
                f"environment {index} of the evaluation has ended {ENDINGS} times without an end of its Monitor's episode, "
                "for which the evaluation waits: a wrapper outside the Monitor ends episodes and does not pass resets on. Put "
                "a Monitor outside that wrapper."
            )
