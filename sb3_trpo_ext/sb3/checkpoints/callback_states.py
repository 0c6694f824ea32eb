"""
What callbacks have counted and found, so that a resumed run goes on with it.

A callback with ``state_dict()`` and ``load_state_dict(state)`` says so itself; of SB3's own the counters are known here; of
any other, the number of calls is kept and the rest begins anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.records.atomic import atomic
from sb3_trpo_ext.sb3.callback_tree import every_callback
from sb3_trpo_ext.sb3.checkpoints.environment import TRUSTED_PACKAGES, set_simple_attributes, simple_attributes
from sb3_trpo_ext.sb3.errors import CheckpointError

COUNTERS: dict[type[Any], tuple[str, ...]] = {
    BaseCallback: ("n_calls",),
    EvalCallback: (
        *("best_mean_reward", "last_mean_reward", "evaluations_results", "evaluations_timesteps"),
        *("evaluations_length", "evaluations_successes"),
    ),
    EveryNTimesteps: ("last_time_trigger",),
    StopTrainingOnMaxEpisodes: ("n_episodes",),
    StopTrainingOnNoModelImprovement: ("last_best_mean_reward", "no_improvement_evals"),
}

FILES = {"timesteps": "evaluations_timesteps", "results": "evaluations_results", "ep_lengths": "evaluations_length"}
"""What ``evaluations.npz`` holds, as SB3 writes it."""


def callback_states(root: BaseCallback) -> dict[str, dict[str, Any]]:
    """
    Look at all callbacks.

    :param root: of their tree
    :return: states by name
    """
    return {name: _state(part) for name, part in _named(root)}


def load_callback_states(root: BaseCallback, states: dict[str, dict[str, Any]]) -> None:
    """
    Have callbacks go on.

    :param root: of their tree
    :param states: of the same callbacks; others begin anew
    :raises CheckpointError: if one of them can't take its state
    """
    for name, part in _named(root):
        if name in states:
            try:
                _load(part, states[name])
            except Exception as error:  # of a user's own callback, or of another version's state
                kind = name.rpartition(" ")[0]
                raise CheckpointError(
                    f"the checkpoint's state of the callback {kind} can't be loaded ({error!r}): resume with the version that "
                    "wrote it, or without this callback"
                ) from error


def newest_score(root: BaseCallback) -> float | None:
    """
    Give the newest evaluation.

    :param root: of a tree of callbacks
    :return: its mean reward; None if nothing evaluates, or has yet
    """
    scores = [part.last_mean_reward for part in every_callback(root) if isinstance(part, EvalCallback)]
    return next((float(score) for score in scores if np.isfinite(score)), None)


def stable_name(name: str) -> str:
    """
    Name a callback so that its state is found again when its file has moved.

    :param name: of its class, with the module
    :return: without the module where it is of a package that we know; two classes of users may share a name
    """
    return name.rpartition(".")[2] if name.startswith(TRUSTED_PACKAGES) else name


def _named(root: BaseCallback) -> Iterator[tuple[str, BaseCallback]]:
    """By class, and by place among those of a class: other callbacks may come and go between two runs."""
    counts: Counter[str] = Counter()
    for part in every_callback(root):
        kind = stable_name(f"{type(part).__module__}.{type(part).__qualname__}")
        counts[kind] += 1
        yield f"{kind} {counts[kind]}", part


def _has_protocol(part: BaseCallback) -> bool:
    """Not a list, whose members say it themselves."""
    own = (getattr(part, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(part, CallbackList) and all(map(callable, own))


def _state(part: BaseCallback) -> dict[str, Any]:
    names = [name for kind, known in COUNTERS.items() if isinstance(part, kind) for name in known]
    state: dict[str, Any] = {"counters": {name: getattr(part, name) for name in names}}
    if _has_protocol(part):
        state["own"] = part.state_dict()  # type: ignore[attr-defined]
    if isinstance(part, EvalCallback) and isinstance(part.eval_env, VecEnv):
        # Each evaluation begins new episodes: their generators are all that there is to it.
        state["environment"] = simple_attributes(part.eval_env)
    return state


def _load(part: BaseCallback, state: dict[str, Any]) -> None:
    vars(part).update(state["counters"])
    if _has_protocol(part) and "own" in state:
        part.load_state_dict(state["own"])  # type: ignore[attr-defined]
    if isinstance(part, EvalCallback):
        if isinstance(part.eval_env, VecEnv):
            set_simple_attributes(part.eval_env, state.get("environment", {}))
        _cut_evaluations(part)


def _cut_evaluations(part: EvalCallback) -> None:
    """Evaluations after the checkpoint will happen again: the file holds those that are known now."""
    if part.log_path is None or not Path(f"{part.log_path}.npz").exists():
        return
    if not part.evaluations_timesteps:
        Path(f"{part.log_path}.npz").unlink()
        return
    successes = {"successes": part.evaluations_successes} if part.evaluations_successes else {}
    with atomic(Path(f"{part.log_path}.npz")) as fresh, fresh.open("wb") as file:
        np.savez(file, **{name: getattr(part, held) for name, held in FILES.items()}, **successes)  # type: ignore[arg-type]
