"""
How a training goes on from a checkpoint.

All is restored at the place where it was taken: between two updates, before the next collection has begun (gSDE draws its
noise first).
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.sb3.arguments.validation import LARGEST_SEED
from sb3_trpo_ext.sb3.checkpoints.callback_states import load_callback_states
from sb3_trpo_ext.sb3.checkpoints.files import newest_whole
from sb3_trpo_ext.sb3.checkpoints.lock import claim
from sb3_trpo_ext.sb3.checkpoints.protocol import Trainee
from sb3_trpo_ext.sb3.checkpoints.state import MODEL_NAME, STATE_NAME, TrainingState, read_state
from sb3_trpo_ext.sb3.errors import CheckpointError
from sb3_trpo_ext.sb3.ranks.group import Ranks
from sb3_trpo_ext.sb3.ranks.launch import place

SomeTrainee = TypeVar("SomeTrainee", bound=Trainee)

UPDATE_STRIDE = 1_000_003
"""Between the seeds of two updates: a prime above any number of environments."""


class Resumption:
    """
    A training that goes on from a checkpoint.

    :param state: of the checkpoint
    :param folder: of checkpoints; paths are relative to the one above it
    :param model: loaded from the checkpoint
    """

    def __init__(self, state: TrainingState, folder: Path, model: Trainee):
        self._state = state
        self._folder, self._base = folder, folder.parent
        # Setting another environment makes the model forget these.
        self._last = model._last_obs, model._last_episode_starts
        # Set when the ``learn`` that goes on has returned without collecting: the next one is a new one.
        self.is_over = False
        model.last_update = None if state.report is None else UpdateReport.from_json(state.report)
        model.session.diagnosis.load_state_dict(state.diagnostics)
        model.session.recorder.changed = state.collected_otherwise
        for name, part in model.policy.named_buffers():
            if name in state.buffers:
                part.copy_(state.buffers[name])
        self.prepare(model)
        if state.run_folder is not None:
            model.session.run_log.go_on_in(self._base / state.run_folder)

    @property
    def first_update(self) -> int:
        """Updates when the ``learn`` began that this one goes on with."""
        return self._state.first_update

    def prepare(self, model: Trainee) -> None:
        """
        Give the model's environment the checkpoint's statistics: whatever is called before the first rollout reads them.

        Episodes and random streams wait for ``enter``. Ranks other than 0 take VecNormalize's statistics only: the checkpoint
        says nothing about their other wrappers.

        :param model: the model, perhaps with a new environment, or still without one
        """
        model._last_obs, model._last_episode_starts = self._last
        if model.env is not None:
            self._state.environment.restore_layers(model.env, VecNormalize if place()[0] > 0 else VecEnvWrapper)

    def begin(
        self, model: Trainee, set_up: Callable[..., tuple[int, BaseCallback]], total: int, reset: bool, **arguments: Any
    ) -> tuple[int, BaseCallback]:
        r"""
        Set a ``learn`` up that goes on with the one that was interrupted, whose arguments it is given again.

        :param model: the model
        :param set_up: SB3's own
        :param total: steps of the whole training
        :param reset: whether they were counted from 0
        :param \**arguments: of SB3's own
        :return: steps at which it is over, and its callbacks
        """
        state = self._state
        last = total if reset else state.first_timestep + total
        leads, custom = model.session.ranks.rank == 0, model._custom_logger
        if leads:
            claim(self._folder)
            state.logs.cut(self._base)
        if leads and not custom:
            # SB3 would make one of its own, in the newest folder of TensorBoard, which may be another run's.
            model.set_logger(state.logs.reopen(self._base, model.num_timesteps))
        try:
            last, root = set_up(last - model.num_timesteps, reset_num_timesteps=False, **arguments)
        finally:
            model._custom_logger = custom
        model._num_timesteps_at_start, model.session.first_update = state.first_timestep, state.first_update
        model.start_time -= int(state.elapsed * 1e9)
        if leads:
            state.logs.restore_pending(model.logger)
            load_callback_states(root, state.callbacks)
        return last, root

    def enter(self, model: Trainee, env: VecEnv) -> None:
        """
        Go on: the environment and the random streams are as they were, from here on.

        Those of rank 0, that is, which wrote the checkpoint: on others new episodes and streams begin, the same each time.

        :param model: the model, before its first rollout
        :param env: its environment
        """
        if model.session.ranks.rank > 0:
            _begin_anew(model, env)
            return
        reason = self._state.environment.restore(env)
        if reason is not None:
            warnings.warn(
                f"TRPO: new episodes begin, since the state of the environment can't be restored: {reason}. The numbers will "
                "not be those of a run that was not interrupted.",
                UserWarning,
                stacklevel=3,
            )
            _reset(model, env)
        self._state.streams.restore()
        if self._state.cuda and len(self._state.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(list(self._state.cuda))


def _begin_anew(model: Trainee, env: VecEnv) -> None:
    if model.seed is not None:
        # Other streams than those that the training began with: they would only repeat what was seen.
        model.set_random_seed((int(model.seed) + UPDATE_STRIDE * model._n_updates) % (LARGEST_SEED + 1))
    _reset(model, env)


def _reset(model: Trainee, env: VecEnv) -> None:
    model._last_obs = env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones((env.num_envs,), dtype=bool)


def resume(
    load: Callable[..., SomeTrainee], folder: str | Path, env: GymEnv | None, device: Any, **changes: Any
) -> tuple[SomeTrainee, Resumption]:
    r"""
    Load the newest whole checkpoint.

    :param load: of the model's class
    :param folder: a run's, or its folder of checkpoints
    :param env: made as that of the interrupted run
    :param device: of the policy
    :param \**changes: attributes to change, as in SB3's ``load``
    :return: the model, and how its next ``learn`` goes on, with the number of threads that torch had then
    :raises CheckpointError: if there is no whole checkpoint
    """
    ranks = Ranks.join()
    try:
        found: tuple[bytes, bytes, Path, Any] | None = None
        with ranks.together("reading the checkpoint"):
            if ranks.rank == 0:
                found = _read_newest(Path(folder))
        # Rank 0's is everybody's: the others need not see its files.
        found = ranks.from_first(found)
    finally:
        ranks.leave()
    assert found is not None, "or rank 0 would have raised"
    saved, pickled, home, threads = found
    use_threads(threads)
    model = load(io.BytesIO(saved), env=env, device=device, force_reset=False, **changes)
    return model, Resumption(read_state(pickled), home, model)


def use_threads(then: Any) -> None:
    """
    Have torch use as many threads as the run did: another number rounds otherwise.

    :param then: their number; None: the checkpoint does not say it, and nothing is changed
    """
    here, now = processors(), torch.get_num_threads()
    if not isinstance(then, int) or then == now:
        return
    if 1 <= then <= here:
        torch.set_num_threads(then)
        return
    warnings.warn(
        f"TRPO: the run had {then} threads, and this process may use {here} processors: using {now} threads. The results "
        "will differ from those of an uninterrupted run.",
        UserWarning,
        stacklevel=4,
    )


def processors() -> int:
    """
    Count the processors that this process may use; a scheduler may leave it few of a machine's.

    :return: at least 1
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_newest(folder: Path) -> tuple[bytes, bytes, Path, Any]:
    found, passed_over = newest_whole(folder)
    for name, reason in passed_over.items():
        warnings.warn(f"TRPO: checkpoint {name} is passed over: {reason}", UserWarning, stacklevel=4)
    if found is None:
        raise CheckpointError(
            f"{folder}: there is no whole checkpoint to resume from (Checkpoints() among the callbacks writes them)."
        )
    # Checked once more, all of it, before anything is unpickled.
    threads = (found.about.get("build") or {}).get("threads")
    return found.read(MODEL_NAME), found.read(STATE_NAME), found.path.parent.absolute(), threads
