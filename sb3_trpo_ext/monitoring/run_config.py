"""What a run was made with: every hyperparameter, version and environment, as plain values that any tracker takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.monitoring.bounded import without_keys
from sb3_trpo_ext.records.build import versions

PACKAGES = ("sb3-trpo-ext", "torch", "stable_baselines3", "sb3_contrib", "gymnasium", "mujoco", "numpy", "wandb")

NOT_HYPERPARAMETERS = frozenset({"self", "env", "policy", "_init_setup_model", "tensorboard_log", "log_folder", "verbose"})
"""Arguments that say where and how to speak, not how to learn; policy and environment are told in words of their own."""

OURS = "sb3_trpo_ext"
"""What all of it stands under in a config that others write to, too."""

SCHEDULES = frozenset(
    {
        "stable_baselines3.common.utils.ConstantSchedule",
        "stable_baselines3.common.utils.LinearSchedule",
        "rl_zoo3.utils.SimpleLinearSchedule",
    }
)
"""Those that may be called at any time: nothing in them changes."""

NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "training", "norm_obs_keys")
"""Settings of VecNormalize."""

DEPTH = 6
"""Of nested dictionaries and lists; policy_kwargs need four."""

ENTRIES = 256
"""Of one dictionary or list."""

TEXT = 1000
"""Characters of one value."""

NAMED = re.compile(r"<\w+<([^<>]+)>+$")
"""The end of what gymnasium's environments say of themselves: ``<TimeLimit<CartPoleEnv<CartPole-v1>>>``."""


def run_config(model: BaseAlgorithm) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Describe a run.

    :param model: the model that is trained
    :return: under ``OURS``: "trpo" (hyperparameters), "environment" and "versions", with plain values only
    """
    installed = {name: version for name, version in versions(PACKAGES).items() if version is not None}
    found = {"numerics": NUMERICS_VERSION, **installed}
    return {OURS: {"trpo": hyperparameters(model), "environment": environment(model), "versions": found}}


def hyperparameters(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Give the constructor's arguments as the model holds them now.

    :param model: the model
    :return: plain values by name; schedules as a number if they are constant, else as text
    """
    names = [name for name in _arguments(type(model)) if name not in NOT_HYPERPARAMETERS]
    # SB3 keeps stats_window_size with an underscore.
    held = {name: attribute for name in names for attribute in (f"_{name}", name) if hasattr(model, attribute)}
    values = {name: plain(getattr(model, attribute)) for name, attribute in held.items()}
    unit = getattr(model, "kl_unit", None)
    return {"algorithm": _dotted(type(model)), "policy": _dotted(model.policy_class), **values, "kl_unit": plain(unit)}


def _arguments(cls: type) -> list[str]:
    """Also those that a subclass hands on or fixes; SB3's base classes have others, which an algorithm may not use."""
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        if base is cls or base.__module__.partition(".")[0] not in ("stable_baselines3", "builtins", "abc"):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            names |= dict.fromkeys(
                each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            )
    return list(names)


def environment(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Describe what it learns from.

    :param model: the model
    :return: id, the arguments that it was made with (each None if it has none or they stand in a worker), how many,
        the settings of VecNormalize (None without one), and the spaces
    """
    env, normalize = model.get_env(), model.get_vec_normalize_env()
    settings = None if normalize is None else {name: plain(getattr(normalize, name, None)) for name in NORMALIZE}
    return {
        "id": _env_id(env),
        "kwargs": plain(getattr(_local_spec(env), "kwargs", None)),
        "n_envs": model.n_envs,
        "vec_normalize": settings,
        "observation_space": _text(model.observation_space),
        "action_space": _text(model.action_space),
    }


def _local_spec(env: VecEnv | None) -> Any:
    """Give the gymnasium specification of an environment in this process; it may not be what a worker can send."""
    try:
        return env.unwrapped.envs[0].unwrapped.spec  # type: ignore[union-attr]
    except Exception:  # in other processes, or not gymnasium's
        return None


def _env_id(env: VecEnv | None) -> str | None:
    """Ask a worker for text only: an answer that can't be pickled would end it, and the training."""
    spec = _local_spec(env)
    if spec is not None or env is None or hasattr(env.unwrapped, "envs"):
        return getattr(spec, "id", None)
    try:
        found = NAMED.search(str(env.env_method("__str__", indices=0)[0]))
    except Exception:  # a vectorised environment of one's own may know no methods: then there is no id
        return None
    return _text(found[1]) if found else None


def plain(value: Any, depth: int = DEPTH) -> Any:
    """
    Turn a value into what JSON can hold, bounded in size.

    :param value: anything
    :param depth: how deep to go into it
    :return: numbers, text, None, lists and dictionaries; schedules of SB3 and the Zoo as a number or as text, other objects
        as their name, never with an address
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, np.generic):
        return plain(value.item(), depth)
    if isinstance(value, Mapping) and depth > 0:
        return {_text(key): plain(item, depth - 1) for key, item in list(value.items())[:ENTRIES]}
    if isinstance(value, (list, tuple, set, frozenset)) and depth > 0:
        return [plain(item, depth - 1) for item in list(value)[:ENTRIES]]
    if isinstance(value, type):
        return _dotted(value)
    if type(value).__module__.partition(".")[0] == "torch" and not callable(value) and not hasattr(value, "shape"):
        return _text(value)  # devices and dtypes
    return _schedule(value) if callable(value) else _dotted(type(value))


def _schedule(function: Callable[..., Any]) -> float | str:
    """Functions of the remaining progress, 1 to 0. Only those that are known are called: another's calls may count."""
    inner = function.value_schedule if type(function) is FloatSchedule else function
    if _dotted(type(inner)) not in SCHEDULES:
        return _dotted(inner if hasattr(inner, "__qualname__") else type(inner))
    start, middle, end = (float(inner(progress)) for progress in (1.0, 0.5, 0.0))
    if start == middle == end:
        return start
    return f"{type(inner).__qualname__}: {start:g} at the start, {middle:g} half way, {end:g} at the end"


def _dotted(cls: Any) -> str:
    return _text(f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', cls)}")


def _text(value: Any) -> str:
    """Bounded; a key is taken out first: of one that is cut, the rest would not be known."""
    return without_keys(str(value))[:TEXT]
