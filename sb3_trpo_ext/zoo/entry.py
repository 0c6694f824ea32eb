"""
One entry of a Zoo YAML (or of ``-params``), judged before anything is made of it: keys, values, dotted names, their arguments.

What the Zoo evaluates as Python (``policy_kwargs``, ``normalize``, ``monitor_kwargs``) is evaluated here as well: a YAML that
is trained with is code of its author's.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
from rl_zoo3 import exp_manager
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.monitoring.monitor import Monitor
from sb3_trpo_ext.sb3.arguments.constructor import OF_POLICY, OF_POLICY_KWARGS, refuse_settings
from sb3_trpo_ext.sb3.arguments.naming import OTHER_NAMES, maybe, shown
from sb3_trpo_ext.sb3.arguments.validation import DICTIONARY, OF_SB3, SETTINGS, SIZE, Rule, is_number, refuse_impossible
from sb3_trpo_ext.zoo.yaml_files import ConfigError

Entry = Mapping[str, Any]

BY_FLAGS = frozenset({"self", "env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model"})
"""Arguments of the constructor that the Zoo sets itself, from its command line."""

EVALUATED = ("policy_kwargs", "normalize", "monitor_kwargs")
"""Where the Zoo takes text for Python."""


def _is_rate(value: Any) -> bool:
    if isinstance(value, str):
        kind, _, number = value.partition("_")
        try:
            return kind == "lin" and is_number(float(number)) and float(number) >= 0
        except ValueError:
            return False
    return SETTINGS["learning_rate"].possible(value)


_DOTTED = "a dotted name of a class, {name: arguments}, or a list of these"


def _is_dotted(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_dotted(part) and not isinstance(part, list) for part in value)
    if isinstance(value, dict):
        return len(value) == 1 and all(isinstance(part, dict | None) for part in value.values())
    return value is None or isinstance(value, str | type) or isinstance(value, BaseCallback)


OF_THE_ZOO: dict[str, Rule] = {
    "n_envs": SIZE,
    "n_timesteps": Rule(lambda value: is_number(value) and value >= 1, "a number >= 1"),
    "normalize": Rule(lambda value: isinstance(value, bool | dict), "true, false or arguments of VecNormalize"),
    "frame_stack": SIZE,
    "env_kwargs": DICTIONARY,
    "monitor_kwargs": DICTIONARY,
    **dict.fromkeys(("env_wrapper", "vec_env_wrapper", "callback"), Rule(_is_dotted, _DOTTED)),
}
"""What an entry may hold beside the constructor's arguments."""

RULES: dict[str, Rule] = {
    **{name: rule for name, rule in {**SETTINGS, **OF_SB3}.items() if name not in BY_FLAGS},
    "learning_rate": Rule(_is_rate, "a finite number >= 0, or text such as lin_0.001: linearly to 0"),
    **OF_THE_ZOO,
}

KINDS: dict[str, type] = {"callback": BaseCallback, "env_wrapper": gym.Wrapper, "vec_env_wrapper": VecEnvWrapper}
"""What a dotted name must be the name of."""

GIVEN_FIRST = {"callback": 0, "env_wrapper": 1, "vec_env_wrapper": 1}
"""Positional arguments that they are called with."""


def known_keys() -> list[str]:
    """
    Name what an entry may hold.

    :return: the constructor's arguments, without those that flags set, and the Zoo's
    """
    return [name for name in inspect.signature(TRPO.__init__).parameters if name not in BY_FLAGS] + list(OF_THE_ZOO)


def refuse_unknown(keys: Entry, where: str) -> None:
    """
    Refuse what would have no effect, or be an error far from here.

    :param keys: of an entry
    :param where: it stands, for the message
    :raises ConfigError: naming the first unknown key, its value and the nearest right name
    """
    known = known_keys()
    for key, value in keys.items():
        if key in BY_FLAGS:
            raise ConfigError(f"{where}: {key}={shown(value)} is no hyperparameter here: it is a flag of the command line")
        if key not in known:
            name = OTHER_NAMES.get(str(key), key)
            near = OF_POLICY_KWARGS if key in OF_POLICY else maybe(name, known)
            raise ConfigError(f"{where}: unknown key {key}={shown(value)}: TRPO and the Zoo have none{near}")


def check_entry(entry: Entry, where: str) -> None:
    """
    Judge all that can be judged without an environment.

    :param entry: hyperparameters of an environment, as the Zoo will use them
    :param where: they stand, for the message
    :raises ConfigError: naming the first mistake: key, value, what is valid, and the nearest right name
    """
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: must be hyperparameters by name, and is {shown(entry)}")
    refuse_unknown(entry, where)
    for needed in ("policy", "n_timesteps"):
        if needed not in entry:
            raise ConfigError(f"{where}: has no {needed}, which the Zoo needs")
    values = refuse_values(entry, where)
    try:
        _refuse_settings(values)
    except ValueError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('TRPO: ')}") from error
    for key in KINDS:
        for name, arguments in named(entry.get(key)):
            _check_call(key, name, arguments, where)
    if isinstance(entry.get("normalize"), str) and not isinstance(values["normalize"], dict):
        raise ConfigError(f"{where}: normalize={shown(entry['normalize'])} is text: write true or false, without quotes")
    if isinstance(values.get("normalize"), dict):
        check_arguments(VecNormalize, values["normalize"], 1, f"{where}: normalize")


def refuse_values(entry: Entry, where: str) -> dict[str, Any]:
    """
    Judge each value on its own.

    :param entry: hyperparameters
    :param where: they stand, for the message
    :return: the same, texts that the Zoo evaluates made into values
    :raises ConfigError: for the first that is impossible
    """
    values = {**entry, **{key: evaluated(key, entry[key], where) for key in EVALUATED if key in entry}}
    try:
        refuse_impossible(values, RULES, where)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return values


def _refuse_settings(values: Entry) -> None:
    """As the constructor will, with its defaults."""
    defaults = {name: each.default for name, each in inspect.signature(TRPO.__init__).parameters.items()}
    given = {name: values.get(name, default) for name, default in defaults.items()}
    if isinstance(given["learning_rate"], str):
        given["learning_rate"] = defaults["learning_rate"]
    if isinstance(given["policy"], str) and "." in given["policy"]:
        given["policy"] = resolve(given["policy"], "policy")
    refuse_settings(given, TRPO.policy_aliases)
    samples = given["n_steps"] * values.get("n_envs", 1)
    if given["normalize_advantage"] and samples < 2:
        raise ConfigError(f"n_steps={given['n_steps']} is impossible: n_steps * n_envs must be >= 2 to normalize advantages")


def evaluated(key: str, value: Any, where: str) -> Any:
    """
    Make Python of a text, where the Zoo does.

    :param key: of the entry
    :param value: its value
    :param where: it stands, for the message
    :return: what the text says; anything else as it is
    :raises ConfigError: if it says nothing
    """
    if not isinstance(value, str):
        return value
    try:
        return eval(value, dict(vars(exp_manager)))
    except Exception as error:  # anything that an expression can raise
        near = ""
        if isinstance(error, AttributeError) and error.name:
            near = maybe(error.name, dir(error.obj))
        elif isinstance(error, NameError):
            near = maybe(error.name, [*vars(exp_manager), "dict", "True", "False"])
        raise ConfigError(f"{where}: {key}={shown(value)} can't be evaluated: {error}{near}") from error


def named(value: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """
    Read what the Zoo takes for classes and their arguments.

    :param value: one, or a list of them
    :yields: dotted name (or the class or object itself) and keyword arguments
    """
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict):
            yield from ((name, arguments or {}) for name, arguments in part.items())
        elif part is not None:
            yield part, {}


def resolve(name: str, what: str) -> Any:
    """
    Import what a dotted name says.

    :param name: such as ``sb3_trpo_ext.monitoring.KLMonitor``
    :param what: it is for, for the message
    :return: what bears that name
    :raises ConfigError: if there is nothing, with the nearest name
    """
    module, _, last = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")) or not module:
        raise ConfigError(f"{what}: {shown(name)} is no dotted name such as package.module.Class")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever an import runs
        near = ""
        if isinstance(error, ModuleNotFoundError):
            near = maybe(module, _relatives(module))
        raise ConfigError(f"{what}: {name} can't be imported: {' '.join(str(error).split())}{near}") from error
    if not hasattr(found, last):
        raise ConfigError(f"{what}: {module} has no {last}{maybe(last, dir(found))}")
    return getattr(found, last)


def _relatives(module: str) -> list[str]:
    """Modules that are loaded and share a beginning, for a misspelt one."""
    return [name for name in sys.modules if name.count(".") == module.count(".") and "._" not in name]


def _check_call(key: str, name: Any, arguments: dict[str, Any], where: str) -> None:
    what = f"{where}: {key}"
    cls = resolve(name, what) if isinstance(name, str) else name
    if isinstance(cls, BaseCallback):
        return
    # A function that makes one will do
    if not callable(cls) or (inspect.isclass(cls) and key != "env_wrapper" and not issubclass(cls, KINDS[key])):
        raise ConfigError(f"{what}: {shown(name)} is no {KINDS[key].__name__}")
    check_arguments(cls, arguments, GIVEN_FIRST[key], f"{what}: {getattr(cls, '__name__', name)}")
    if inspect.isclass(cls) and issubclass(cls, Monitor | TrustRegionMonitor):
        try:
            cls(**arguments)  # ours: making one does nothing
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{what}: {error}") from error


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], first: int, what: str) -> None:
    """
    Make sure that keyword arguments can be given, without calling.

    :param function: what will be called
    :param arguments: keyword arguments
    :param first: positional arguments that it gets besides
    :param what: it is, for the message
    :raises ConfigError: for the first unknown argument, with the nearest right name, or a missing one
    """
    signature = inspect.signature(function)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    known = list(signature.parameters)[first:]
    for key, value in arguments.items():
        if inspect.Parameter.VAR_KEYWORD not in kinds and key not in known:
            raise ConfigError(f"{what}: unknown argument {key}={shown(value)}{maybe(key, known)}")
    try:
        signature.bind(*[None] * first, **arguments)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}") from error
