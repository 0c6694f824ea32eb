"""A model and its newest update in plain data. Written by the flight recorder, read by ``replay``."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import torch

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.observed import Batch, Observed
from sb3_trpo_ext.records.build import build
from sb3_trpo_ext.records.dump import Dump

CLASS = "$class"
"""Key of an object that stands for a class, by its name; what has no plain form stands under ``UNKNOWN``."""
UNKNOWN = "$unknown"

NOT_SETTINGS = frozenset(
    {
        *("policy", "policy_kwargs", "env", "learning_rate", "rollout_buffer_class"),
        *("device", "verbose", "tensorboard_log", "log_folder"),
    }
)
"""Arguments that are described elsewhere, or say nothing about an update."""


def plain(value: Any) -> Any:
    """
    Put a value into JSON's terms; nothing is lost silently.

    :param value: anything
    :return: numbers, text, lists and dicts; a class as {"$class": name}, anything else as {"$unknown": its type}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        # JSON has no infinities: as text, which float() reads.
        return float(value) if np.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, type):
        return {CLASS: f"{value.__module__}.{value.__qualname__}"}
    return {UNKNOWN: f"{type(value).__module__}.{type(value).__qualname__}"}


def settings_of(model: Observed) -> dict[str, Any]:
    """
    Give the constructor's arguments, as the model has them now.

    :param model: the model
    :return: plain values by name
    """
    names: dict[str, None] = {}
    for cls in reversed(type(model).__mro__):
        if cls is not object:
            names |= dict.fromkeys(inspect.signature(cls).parameters)
    return {name: plain(getattr(model, name)) for name in names if hasattr(model, name) and name not in NOT_SETTINGS}


def space_of(space: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """
    Describe a space of gymnasium's.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict of such
    :param name: prefix of its arrays
    :param arrays: gets the bounds of a Box
    :return: what it is made of
    """
    kind = type(space).__name__
    described: dict[str, Any] = {"space": kind}
    if kind == "Dict":
        described["spaces"] = {key: space_of(part, f"{name}/{key}", arrays) for key, part in space.spaces.items()}
    elif kind == "Box":
        described["dtype"] = str(space.dtype)
        arrays[f"{name}/low"], arrays[f"{name}/high"] = space.low, space.high
    elif kind == "Discrete":
        described |= {"n": int(space.n), "start": int(space.start)}
    elif kind == "MultiDiscrete":
        described |= {"nvec": space.nvec.tolist(), "dtype": str(space.dtype)}
    elif kind == "MultiBinary":
        described["n"] = plain(space.n)
    return described


def describe_update(
    model: Observed,
    reasons: list[str],
    report: UpdateReport | None,
    error: str | None,
    alarms: list[dict[str, Any]],
    earlier: list[UpdateReport],
) -> Dump:
    """
    Put a dump of the model's newest update together.

    :param model: the model
    :param reasons: why
    :param report: of this update; None if it raised
    :param error: what it, or the run, died of
    :param alarms: raised so far
    :param earlier: the last reports
    :return: the dump
    """
    start = model.session.update_start
    assert start is not None, "there was an update, and what it began with was kept"
    batch = start.batch
    arrays = {f"batch/{name}": array for name, array in _batch_arrays(batch).items()}
    arrays |= {f"before/{name}": _array(tensor) for name, tensor in start.held.tensors.items()}
    optimizer = start.held.optimizer
    for index, state in optimizer["state"].items():
        arrays |= {f"optimizer/{index}/{name}": _array(value) for name, value in state.items() if hasattr(value, "numpy")}
    if report is not None:
        now = {**dict(model.policy.named_parameters()), **dict(model.policy.named_buffers())}
        arrays |= {f"after/{name}": _array(tensor) for name, tensor in now.items()}
    generator, keys, position, has_gauss, cached = start.streams.numpy
    arrays["random/numpy"], arrays["random/torch"] = keys, _array(start.streams.torch)
    spaces = {name: space_of(getattr(model, f"{name}_space"), f"space/{name}", arrays) for name in ("observation", "action")}
    header = {
        "reasons": reasons,
        "error": error,
        "n_updates": start.n_updates,
        "num_timesteps": start.num_timesteps,
        "report": None if report is None else json.loads(report.to_json()),
        "alarms": alarms,
        "earlier_reports": [json.loads(each.to_json()) for each in earlier],
        "algorithm": plain(type(model)),
        "policy": {"class": plain(model.policy_class), "kwargs": plain(model.policy_kwargs)},
        "settings": settings_of(model),
        "spaces": spaces,
        "n_envs": model.n_envs,
        "n_ranks": start.n_ranks,
        "ordered": batch.n_steps is not None,
        "device": str(model.device),
        "learning_rate": plain(start.learning_rate),
        "max_kl": start.max_kl,
        "adapted_damping": start.adapted_damping,
        "adapted_damping_unit": start.adapted_damping_unit,
        "updates_skipped": start.updates_skipped,
        "random": {"numpy": [generator, int(position), int(has_gauss), float(cached)]},
        "optimizer": {
            "class": plain(type(model.policy.optimizer)),
            "groups": plain(optimizer["param_groups"]),
            "numbers": {
                str(index): {name: plain(value) for name, value in state.items() if not hasattr(value, "numpy")}
                for index, state in optimizer["state"].items()
            },
        },
        "build": build(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()),
    }
    return Dump(header, arrays)


def _batch_arrays(batch: Batch) -> dict[str, np.ndarray]:
    arrays = {name: getattr(batch, name) for name in ("actions", "values", "log_prob", "advantages", "returns")}
    optional = ("phi", "rewards", "episode_starts", "places")
    arrays |= {name: getattr(batch, name) for name in optional if getattr(batch, name) is not None}
    observations = batch.observations
    if isinstance(observations, dict):
        arrays |= {f"observations/{key}": value for key, value in observations.items()}
    else:
        arrays["observations"] = observations
    return {name: _array(value) for name, value in arrays.items()}


def _array(value: Any) -> np.ndarray:
    array: np.ndarray = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    return array
