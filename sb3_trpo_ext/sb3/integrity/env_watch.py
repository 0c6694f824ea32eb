"""
One VecEnv, watched: what is not finite raises before anything above has seen it, or ends its environment's episode.

``on_nonfinite="raise"``: the step raises. "truncate": the step becomes the end of its environment's episode in the last finite
state, marked ``NON_FINITE`` in its info, and the environment is reset.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.sb3.errors import NonFiniteError
from sb3_trpo_ext.sb3.integrity.finiteness import DEPLOYED, NON_FINITE, Bounds, parts
from sb3_trpo_ext.sb3.integrity.lost_episodes import LostEpisodes

RESETS = 10
"""An environment that starts so many times in a row in a state that is not finite is broken."""

EPISODES = 100
"""As is one in which so many episodes in a row had to be ended while a policy is evaluated: that might never end."""

UNHARMED = "Policy, optimiser and the statistics of VecNormalize are as they were before this step."

Position = Callable[[], int | None]
StepReturn = tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]


class Watch:
    """
    One VecEnv, watched.

    :param venv: the VecEnv
    """

    def __init__(self, venv: VecEnv):
        self.venv = venv
        self.truncates = False
        self.evaluates = False
        self.bounds = Bounds(normalised=False)
        self.position: Position = nowhere
        self._last: Any = None
        self._warned = False
        self._n_cut: Counter[int] = Counter()
        # Only of the innermost VecEnv, where Monitors are.
        self.lost: LostEpisodes | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """
        Stand before the methods of this one object.

        :yields: nothing
        """
        venv, own = self.venv, vars(self.venv)
        names = ["step_wait", "reset"]
        if type(venv).step is not VecEnv.step:
            # It may not come by step_wait; if it does, it is looked at twice.
            names.append("step")
        held = {name: own[name] for name in names if name in own}
        try:
            for name in names:
                # Of bound methods, so that a copy of the VecEnv that is made meanwhile steps itself.
                setattr(venv, name, partial(self._reset_by if name == "reset" else self._step_by, getattr(venv, name)))
            yield
        finally:
            for name in names:
                own.pop(name, None)
            own.update(held)

    def __getstate__(self) -> dict[str, Any]:
        """A copy does not know the rollout."""
        return {**vars(self), "position": nowhere}

    def _step_by(self, method: Callable[..., StepReturn], *args: Any) -> StepReturn:
        returned = obs, rewards, dones, infos = method(*args)
        ended = np.count_nonzero(dones) > 0
        if not (DEPLOYED.hold(rewards) and self.bounds.hold(obs) and (not ended or self._endings_hold(dones, infos))):
            returned = self._mended(obs, rewards, dones, infos)
        if self.lost is not None:
            returned = (*returned[:3], self.lost.report(returned[1], returned[2], returned[3], self.evaluates))
        if self.evaluates:
            self._refuse_endless(returned[2], returned[3])
        # A copy: a VecEnv may use its arrays again.
        self._last = _copied(returned[0])
        return returned

    def _reset_by(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        obs = method(*args, **kwargs)
        if not self.bounds.hold(obs):
            obs = self._restarted(obs, [i for i in range(self.venv.num_envs) if self._in_observation(obs, i)])
        if self.lost is not None:
            self.lost.reset()
        self._last = _copied(obs)
        return obs

    def _endings_hold(self, dones: Any, infos: Sequence[dict[str, Any]]) -> bool:
        endings = [infos[index].get("terminal_observation") for index, done in enumerate(dones) if done]
        return all(ending is None or self.bounds.hold(ending) for ending in endings)

    def _in_observation(self, obs: Any, index: int | None) -> list[str]:
        """What is not finite in an environment's row, or (None) in one observation."""
        found = []
        for key, part in parts(obs):
            bad = self.bounds.first_beyond(part if index is None else part[index])
            if bad is not None:
                found.append(f"observations{key}{bad}")
        return found

    def _in_step(self, obs: Any, reward: Any, done: bool, info: dict[str, Any], index: int) -> list[str]:
        """What is not finite in a transition; where its episode ended, the next one's first observation is none of it."""
        found = self._in_observation(info.get("terminal_observation"), None) if done else self._in_observation(obs, index)
        found = [f"terminal {text}" if done else text for text in found]
        bad = DEPLOYED.first_beyond(reward)
        return found if bad is None else [*found, f"rewards{bad}"]

    def _mended(self, obs: Any, rewards: Any, dones: Any, infos: Sequence[dict[str, Any]]) -> StepReturn:
        found = {
            index: ", ".join(texts)
            for index in range(self.venv.num_envs)
            if (texts := self._in_step(obs, rewards[index], dones[index], infos[index], index))
        }
        if found and not self.truncates:
            raise NonFiniteError(self._message(found))
        if found:
            self._warn(found)
        # Copies: some VecEnvs give out the arrays that they go on with.
        rewards, dones, infos = np.array(rewards), np.array(dones), list(infos)
        for index, text in found.items():
            infos[index] = self._ending(infos[index], text, index)
            rewards[index] = 0
        begin = [i for i in range(len(dones)) if (i in found and not dones[i]) or (dones[i] and self._in_observation(obs, i))]
        dones[list(found)] = True
        return self._restarted(obs, begin), rewards, dones, infos

    def _ending(self, info: dict[str, Any], text: str, index: int) -> dict[str, Any]:
        ending = {**info, "TimeLimit.truncated": True, NON_FINITE: text}
        ending.pop("terminal_observation", None)
        if self._last is not None:
            last = (
                {key: part[index] for key, part in self._last.items()} if isinstance(self._last, dict) else self._last[index]
            )
            ending["terminal_observation"] = _copied(last)
        if not DEPLOYED.hold(ending.get("episode", {}).get("r", 0.0)):
            # A Monitor's sum; the mean of the last episodes shall not be NaN for a hundred of them.
            del ending["episode"]
        return ending

    def _restarted(self, obs: Any, environments: list[int]) -> Any:
        """The same observations, but those of some environments after another reset."""
        if not environments:
            return obs
        if not self.truncates:
            raise NonFiniteError(
                self._message({i: ", ".join(self._in_observation(obs, i)) for i in environments}, " of reset()")
            )
        obs = _copied(obs)
        for index in environments:
            first = self._reset(index)
            for key, part in obs.items() if isinstance(obs, dict) else [(None, obs)]:
                part[index] = first if key is None else first[key]
        return obs

    def _reset(self, index: int) -> Any:
        for _ in range(RESETS):
            try:
                [(obs, info)] = self.venv.env_method("reset", indices=[index])
            except Exception as error:  # a VecEnv may do anything here
                raise NonFiniteError(
                    f"environment {index} is no longer finite, and its episode can't be ended in its place: "
                    f"{type(self.venv).__name__}.env_method('reset', indices=[{index}]) raised {error!r}. Mend the "
                    "environment, or use a VecEnv that can reset one of its environments, as SB3's can."
                ) from error
            if not self._in_observation(obs, None):
                infos = list(self.venv.reset_infos)
                infos[index] = info
                self.venv.reset_infos = infos
                return obs
        raise NonFiniteError(
            f"environment {index} is broken: {RESETS} resets in a row gave observations that are not finite. {UNHARMED}"
        )

    def _refuse_endless(self, dones: Any, infos: Sequence[dict[str, Any]]) -> None:
        """An evaluation waits for whole episodes."""
        for index in map(int, np.flatnonzero(dones)):
            self._n_cut[index] = self._n_cut[index] + 1 if NON_FINITE in infos[index] else 0
            if self._n_cut[index] == EPISODES:
                raise NonFiniteError(
                    f"environment {index} of the evaluation is broken: {EPISODES} episodes in a row gave something that is "
                    f"not finite, the last {infos[index][NON_FINITE]}; an evaluation would never end. {UNHARMED}"
                )

    def _message(self, found: dict[int, str], of: str = "") -> str:
        remedy = "on_nonfinite='truncate' would end the episode in its last finite state and go on"
        if self.venv is not self.venv.unwrapped:
            remedy = "a wrapper above the environments made it, so that on_nonfinite='truncate' can't help"
        return (
            f"{self._where(found, of)} ({len(found)} affected). {UNHARMED} The next learn() begins with a reset. Check the "
            f"environment there (a sensor, a division, an exploding simulation); {remedy}."
        )

    def _where(self, found: dict[int, str], of: str = "") -> str:
        (index, text), step = next(iter(found.items())), self.position()
        of_which = f"environment {index}" + (" of the evaluation" if self.evaluates else "")
        return f"non-finite {text}{of} from {of_which}" + ("" if step is None or of else f", step {step}")

    def _warn(self, found: dict[int, str]) -> None:
        if self._warned:
            return
        self._warned = True
        rest = "the sample is dropped. From now on this is only counted (train/samples_dropped)."
        if self.evaluates:
            rest = "it counts in no mean of a Monitor's. From now on nothing is said of it."
        warnings.warn(
            f"TRPO: {self._where(found)}: its episode was ended in its last finite state, and {rest}",
            UserWarning,
            stacklevel=2,
        )


def nowhere() -> None:
    """No step of a rollout."""


def _copied(obs: Any) -> Any:
    return {key: np.array(part) for key, part in obs.items()} if isinstance(obs, dict) else np.array(obs)
