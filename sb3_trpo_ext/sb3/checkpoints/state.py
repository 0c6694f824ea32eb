"""
What a checkpoint holds: ``model.zip`` is what ``model.save`` writes; ``state.pkl`` is all that it leaves out.

It is plain data: a dict under names that stay, of builtins, arrays, tensors and what other packages and users put there. No
class of ours is in it, so that any of our files can be moved.
"""

from __future__ import annotations

import io
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean

from sb3_trpo_ext.records.build import build
from sb3_trpo_ext.sb3.checkpoints.callback_states import callback_states, newest_score
from sb3_trpo_ext.sb3.checkpoints.environment import EnvironmentState
from sb3_trpo_ext.sb3.checkpoints.files import FORMAT, NEEDED, OLDEST
from sb3_trpo_ext.sb3.checkpoints.log_positions import LogPositions
from sb3_trpo_ext.sb3.checkpoints.old_format import unpickled
from sb3_trpo_ext.sb3.checkpoints.protocol import Trainee
from sb3_trpo_ext.sb3.errors import CheckpointError
from sb3_trpo_ext.sb3.update.start import RandomStates

MODEL_NAME, STATE_NAME = NEEDED

PARTS: dict[str, type[Any]] = {"streams": RandomStates, "environment": EnvironmentState, "logs": LogPositions}
"""Of a state, those that are objects of ours in memory."""


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
    def of(cls, model: Trainee, root: BaseCallback, base: Path) -> TrainingState:
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


def to_plain(state: TrainingState) -> dict[str, Any]:
    """
    Put a state into the form in which it is stored.

    :param state: of a training
    :return: its values by name, those of its parts too; references
    """
    return {"format": FORMAT, **vars(state), **{name: vars(getattr(state, name)) for name in PARTS}}


def from_plain(plain: Any) -> TrainingState:
    """
    Read the form in which a state is stored.

    :param plain: what ``to_plain`` has given
    :return: the state
    :raises ValueError: if it is of another format (anything else may raise anything)
    """
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != FORMAT:
        raise ValueError(f"its format is {found!r:.20}, and this version reads {OLDEST} to {FORMAT}")
    parts = {name: kind(**plain[name]) for name, kind in PARTS.items()}
    return TrainingState(**{name: value for name, value in {**plain, **parts}.items() if name != "format"})


def read_state(content: bytes) -> TrainingState:
    """
    Unpickle a state.

    :param content: of a checkpoint that was found whole, and that you trust as you trust a model's file
    :return: the state
    :raises CheckpointError: if it is not the state of a training, or of a format that this version does not know
    """
    try:
        return from_plain(unpickled(content))
    except Exception as error:  # unpickling may raise anything
        raise CheckpointError(f"{STATE_NAME} can't be read ({error!r})") from error


def checkpoint_files(model: Trainee, root: BaseCallback, base: Path) -> dict[str, bytes]:
    """
    Put a checkpoint together.

    :param model: between two updates
    :param root: of its callbacks
    :param base: the folder that paths are relative to
    :return: contents by name
    """
    saved = io.BytesIO()
    model.save(saved)
    return {MODEL_NAME: saved.getvalue(), STATE_NAME: cloudpickle.dumps(to_plain(TrainingState.of(model, root, base)))}


def about(model: Trainee, root: BaseCallback) -> dict[str, Any]:
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
        "build": build(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()),
    }


def _wandb_run() -> str | None:
    """The run that the process logs to. Only looked at: who has not imported wandb has none."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    return getattr(run, "id", None)
