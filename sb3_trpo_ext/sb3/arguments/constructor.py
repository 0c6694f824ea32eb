"""
What ``TRPO``'s constructor refuses before it makes anything: one line with the argument, its value, what is valid and the
nearest right name. An environment that it has made itself is closed when it fails later.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.sb3.arguments.naming import maybe, shown
from sb3_trpo_ext.sb3.arguments.spaces import refuse_spaces
from sb3_trpo_ext.sb3.arguments.validation import (
    DICTIONARY,
    FLAG,
    OF_SB3,
    SETTINGS,
    Rule,
    is_integer,
    is_number,
    refuse_contradictions,
    refuse_impossible,
)

P = ParamSpec("P")
R = TypeVar("R")


def _is_layers(value: Any) -> bool:
    return (
        isinstance(value, Sequence | np.ndarray)
        and not isinstance(value, str)
        and all(is_integer(width, 1) for width in value)
    )


def _is_net_arch(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # as SB3 wrote it before 1.8
    if isinstance(value, dict):
        return value.keys() <= {"pi", "vf"} and all(map(_is_layers, value.values()))
    return value is None or _is_layers(value)


OF_POLICY: dict[str, Rule] = {
    "net_arch": Rule(_is_net_arch, "a list of layer widths >= 1, or a dictionary of two such lists, pi and vf"),
    "activation_fn": Rule(
        lambda value: callable(value) and not isinstance(value, torch.nn.Module),
        "a class of torch.nn such as nn.Tanh (not its name, and not nn.Tanh())",
    ),
    "log_std_init": Rule(is_number, "a finite number"),
    **dict.fromkeys(("ortho_init", "full_std", "use_expln", "squash_output", "share_features_extractor"), FLAG),
    "normalize_images": FLAG,
    **dict.fromkeys(("features_extractor_class", "optimizer_class"), Rule(callable, "a class, or a function that makes one")),
    **dict.fromkeys(("features_extractor_kwargs", "optimizer_kwargs"), DICTIONARY),
}
"""``policy_kwargs`` of SB3's own policies."""

OF_POLICY_KWARGS = "; it belongs into policy_kwargs"

FROM_THE_MODEL = frozenset({"self", "observation_space", "action_space", "lr_schedule", "use_sde"})
"""Arguments of a policy that the model gives it."""


def refuses_mistakes(init: Callable[P, R]) -> Callable[P, R]:
    """
    Make a constructor refuse what can't work before it begins.

    :param init: ``TRPO.__init__``
    :return: the same, with the same signature
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in signature.parameters:
                raise TypeError(unknown_argument(name, kwargs[name], signature.parameters))
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        given.update({name: _plain(value) for name, value in given.items()})
        refuse_settings(given, given["self"].policy_aliases)
        if given["env"] is None:
            return init(*bound.args, **bound.kwargs)
        named, given["env"] = isinstance(given["env"], str), make_environment(given["env"], given["verbose"])
        try:
            _refuse_environment(given)
            return init(*bound.args, **bound.kwargs)
        except BaseException:
            if named:
                given["env"].close()
            raise

    return checked


def _plain(value: Any) -> Any:
    """Python's number for one of NumPy's or torch's: SB3 takes those for some arguments and not for others."""
    single = isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0)
    return value.item() if single else value


def refuse_settings(given: Mapping[str, Any], policies: Mapping[str, type]) -> None:
    """
    Refuse what can be judged without an environment.

    :param given: every argument of the constructor
    :param policies: by the names that they can be given by
    :raises ValueError: naming argument, value, valid range and the nearest right name
    """
    refuse_impossible(given, {**SETTINGS, **OF_SB3})
    refuse_contradictions(given)
    policy = given["policy"]
    # (A function of one's own has a name, which SB3 asks for; a partial has none.)
    if policy not in policies if isinstance(policy, str) else not hasattr(policy, "__name__"):
        near = maybe(policy, policies) if isinstance(policy, str) else ""
        raise ValueError(f"TRPO: policy={shown(policy)} is impossible: it must be one of {list(policies)} or a class{near}")
    _refuse_policy_arguments(policies[policy] if isinstance(policy, str) else policy, given["policy_kwargs"] or {})
    device = torch.device("cpu" if given["device"] == "auto" else given["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        warnings.warn(f"TRPO: device={shown(given['device'])} is not there: it runs on the CPU", UserWarning, stacklevel=3)


def _refuse_policy_arguments(policy: Callable[..., Any], given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(policy).parameters
    known = [name for name in parameters if name not in FROM_THE_MODEL]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in given.items():
        what = f"TRPO: policy_kwargs has {name}={shown(value)}"
        if name in FROM_THE_MODEL:
            raise ValueError(f"{what}, which the model gives to its policy itself: it is no entry of policy_kwargs")
        if name not in parameters and not takes_all:
            raise ValueError(f"{what}, which {getattr(policy, '__name__', 'the policy')} does not take{maybe(name, known)}")
    if inspect.isclass(policy) and policy.__init__ in {cls.__init__ for cls in _own_policies()}:  # type: ignore[misc]
        refuse_impossible(given, OF_POLICY, "TRPO: policy_kwargs")


def _own_policies() -> list[type]:
    found: list[type] = [ActorCriticPolicy]
    return found + [cls for cls in ActorCriticPolicy.__subclasses__() if cls.__module__.startswith("stable_baselines3.")]


def unknown_argument(name: str, value: Any, known: Mapping[str, Any]) -> str:
    """
    Say that there is no such argument.

    :param name: what was given
    :param value: and its value
    :param known: the arguments that there are
    :return: one line
    """
    public = [other for other in known if other != "self" and not other.startswith("_")]
    near = OF_POLICY_KWARGS if name in OF_POLICY else maybe(name, public)
    return f"TRPO: unknown argument {name}={shown(value)}{near}"


def make_environment(env: Any, verbose: int) -> Any:
    """
    Make an environment from its id.

    :param env: an id; anything else is given back
    :param verbose: as of ``TRPO``
    :return: the environment
    :raises ValueError: if there is none of this id
    """
    try:
        return maybe_make_env(env, verbose)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(
            f"TRPO: env={shown(env)} is impossible: it must be an environment or a registered id{maybe(env, gym.registry)}"
        ) from error


def _refuse_environment(given: Mapping[str, Any]) -> None:
    env = given["env"]
    if not isinstance(env, gym.Env | VecEnv):
        raise ValueError(
            f"TRPO: env={shown(env)} is impossible: it must be a registered id, a gymnasium.Env or a VecEnv of SB3"
        )
    n_envs = env.num_envs if isinstance(env, VecEnv) else 1
    if n_envs < 1:
        raise ValueError(f"TRPO: env has {n_envs} environments: it must have at least 1")
    own_extractor = "features_extractor_class" in (given["policy_kwargs"] or {})
    refuse_spaces(env.observation_space, env.action_space, None if own_extractor else given["policy"])
    if given["use_sde"] and not isinstance(env.action_space, spaces.Box):
        raise ValueError(f"TRPO: use_sde=True needs Box actions, and this environment has {shown(env.action_space)}")
