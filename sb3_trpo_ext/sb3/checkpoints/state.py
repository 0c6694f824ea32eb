"""
What a checkpoint holds, and how a training goes on from it.

``model.zip`` is what ``model.save`` writes; ``state.pkl`` is all that it leaves out. Taken and restored at the same place:
between two updates, before the next collection has begun (gSDE draws its noise first).
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.build import build
from sb3_trpo_ext.sb3.arguments.validation import LARGEST_SEED
from sb3_trpo_ext.sb3.checkpoints.callback_states import callback_states, load_callback_states, newest_score
from sb3_trpo_ext.sb3.checkpoints.environment import EnvironmentState
from sb3_trpo_ext.sb3.checkpoints.files import NEEDED
from sb3_trpo_ext.sb3.checkpoints.lock import claim
from sb3_trpo_ext.sb3.checkpoints.log_positions import LogPositions
from sb3_trpo_ext.sb3.errors import CheckpointError
from sb3_trpo_ext.sb3.ranks.launch import place
from sb3_trpo_ext.sb3.update.start import RandomStates

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO

MODEL_NAME, STATE_NAME = NEEDED

UPDATE_STRIDE = 1_000_003
"""Between the seeds of two updates: a prime above any number of environments."""


@dataclass(frozen=True)
class TrainingState:
    """
    What is not in the model's own file.

    :param streams: random streams of Python, NumPy and torch
    :param cuda: torch's generators on GPUs; empty where none is used
    :param environment: the training environment
    :param callbacks: states of the callbacks, by name
    :param logs: ends of the logs
    :param run_folder: relative to ``base`` where it is inside; None: the run has none
    :param report: the newest update, as JSON
    :param diagnostics: what the next update's diagnostics need of this one
    :param collected_otherwise: what has changed during a rollout, so that SB3's own loop collects
    :param buffers: of the policy, those that are not saved with it
    :param first_timestep: at which ``learn`` began
    :param first_update: updates when it began
    :param elapsed: seconds since it began
    """

    streams: RandomStates
    cuda: tuple[torch.Tensor, ...]
    environment: EnvironmentState
    callbacks: dict[str, dict[str, Any]]
    logs: LogPositions
    run_folder: str | None
    report: str | None
    diagnostics: dict[str, Any]
    collected_otherwise: str | None
    buffers: dict[str, torch.Tensor]
    first_timestep: int
    first_update: int
    elapsed: float

    @classmethod
    def of(cls, model: TRPO, root: BaseCallback, base: Path) -> TrainingState:
        """
        Look at a training, which is not changed.

        :param model: between two updates
        :param root: of its callbacks
        :param base: the folder that paths are relative to
        :return: its state
        """
        assert model.env is not None, "a model that trains has an environment"
        saved = model.policy.state_dict()
        folder = model.run_folder
        return cls(
            streams=RandomStates.now(),
            cuda=tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),
            environment=EnvironmentState.of(model.env),
            callbacks=callback_states(root),
            logs=LogPositions.of(model.logger, model.env, folder, base),
            run_folder=None if folder is None else str(folder.relative_to(base) if folder.is_relative_to(base) else folder),
            report=None if model.last_update is None else model.last_update.to_json(),
            diagnostics=model.session.diagnosis.state_dict(),
            collected_otherwise=model.session.recorder.changed,
            buffers={name: part.detach().cpu() for name, part in model.policy.named_buffers() if name not in saved},
            first_timestep=model._num_timesteps_at_start,
            first_update=model.session.first_update,
            elapsed=(time.time_ns() - model.start_time) / 1e9,
        )


def checkpoint_files(model: TRPO, root: BaseCallback, base: Path) -> dict[str, bytes]:
    """
    Put a checkpoint together.

    :param model: between two updates
    :param root: of its callbacks
    :param base: the folder that paths are relative to
    :return: contents by name
    """
    saved = io.BytesIO()
    model.save(saved)
    return {MODEL_NAME: saved.getvalue(), STATE_NAME: cloudpickle.dumps(TrainingState.of(model, root, base))}


def about(model: TRPO, root: BaseCallback) -> dict[str, Any]:
    """
    Describe a checkpoint, for its manifest.

    :param model: the model
    :param root: of its callbacks
    :return: plain values; the score is the newest evaluation's mean reward, else the mean return of the newest episodes
    """
    score, of = newest_score(root), "evaluation"
    if score is None and model.ep_info_buffer:
        score, of = float(safe_mean([episode["r"] for episode in model.ep_info_buffer])), "episodes"
    known = score is not None and math.isfinite(score)
    return {
        "num_timesteps": int(model.num_timesteps),
        "total_timesteps": int(model._total_timesteps),
        "score": score if known else None,
        "score_of": of if known else None,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": model.seed,
        "wandb_run": _wandb_run(),
        "build": {**_build(), "threads": torch.get_num_threads()},  # which may be another than at the last checkpoint
    }


@lru_cache(maxsize=1)
def _build() -> dict[str, Any]:
    return build(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())


def _wandb_run() -> str | None:
    """The run that the process logs to. Only looked at: who has not imported wandb has none."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    return getattr(run, "id", None)


class Resumption:
    """
    A training that goes on from a checkpoint.

    :param state: of the checkpoint
    :param folder: of checkpoints; paths are relative to the one above it
    :param model: loaded from the checkpoint
    """

    def __init__(self, state: TrainingState, folder: Path, model: TRPO):
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

    def prepare(self, model: TRPO) -> None:
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
        self, model: TRPO, set_up: Callable[..., tuple[int, BaseCallback]], total: int, reset: bool, **arguments: Any
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

    def enter(self, model: TRPO, env: VecEnv) -> None:
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


def _begin_anew(model: TRPO, env: VecEnv) -> None:
    if model.seed is not None:
        # Other streams than those that the training began with: they would only repeat what was seen.
        model.set_random_seed((int(model.seed) + UPDATE_STRIDE * model._n_updates) % (LARGEST_SEED + 1))
    _reset(model, env)


def _reset(model: TRPO, env: VecEnv) -> None:
    model._last_obs = env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones((env.num_envs,), dtype=bool)


def read_state(content: bytes) -> TrainingState:
    """
    Unpickle a state.

    :param content: of a checkpoint that was found whole, and that you trust as you trust a model's file
    :return: the state
    :raises CheckpointError: if it is none
    """
    try:
        state = pickle.loads(content)
    except Exception as error:  # unpickling may raise anything
        raise CheckpointError(f"{STATE_NAME} can't be read ({error!r})") from error
    if not isinstance(state, TrainingState):
        raise CheckpointError(f"{STATE_NAME} holds a {type(state).__name__}")
    return state
