"""Where a search starts: the entry that is shipped, and published settings, as points of ``TUNING_SPACE``."""

from __future__ import annotations

import inspect
import math
from typing import Any

from evidence.configurations import BadInput, Entry, zoo_entry
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo.convert_config import convert_entry
from sb3_trpo_ext.zoo.search_space import ACTIVATIONS, Params, settings_of

CURRENT = "zoo_configs/trpo.yml"
SEARCHED = frozenset(
    {"normalize", "n_envs", "n_steps", "batch_size", "gamma", "gae_lambda", "learning_rate", "n_critic_updates",
     "kl_reduction", "target_kl", "cg_damping", "cg_max_steps", "cg_preconditioner", "policy_kwargs"}
)  # fmt: skip
"""Keys of an entry that a trial replaces; all others stay as they are. (``warn_on_risky`` follows target_kl.)"""

_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(TRPO).parameters.items()}

_SPINNING_UP: Params = {
    "n_envs": 1,
    "rollout_pow": 12,
    "batch_size_pow": 9,
    "one_minus_gamma": 0.01,
    "one_minus_gae_lambda": 0.03,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "target_kl": 0.01,
    "cg_damping": 0.1,
    "norm_obs": False,
    "norm_reward": False,
    "n_critic_updates": 10,
    "cg_max_steps": 10,
    "cg_preconditioner": "none",
    "pi_width": 64,
    "vf_width": 64,
    "activation_fn": "tanh",
    "log_std_init": -0.5,
    "ortho_init": False,
}
"""spinup/algos/tf1/trpo: 4,000 samples (here 4,096), 80 critic steps on all of them (here 10 epochs of 8 minibatches)."""

_TIANSHOU: Params = {
    **_SPINNING_UP,
    "n_envs": 16,
    "rollout_pow": 10,
    "one_minus_gae_lambda": 0.05,
    "learning_rate_schedule": "linear",
    "norm_obs": True,
    "norm_reward": True,
    "ortho_init": True,
}
"""examples/mujoco/mujoco_trpo.py: 1,024 samples, 20 critic steps on all of them (here 10 epochs of 2 minibatches)."""


def starting_points(task: str, entry: Entry) -> dict[str, Params]:
    """
    List the points that a study begins with.

    Published settings differ most in the first log std, the horizon and normalisation, beside the KL itself; variants of the
    current entry cover them, and what else may matter, one at a time: in so many dimensions, points drawn at random would
    mostly be bad.

    :param task: environment id
    :param entry: the current entry of this task
    :return: points by name, each once, the current entry first
    """
    current = params_of(entry)
    points = {
        CURRENT: current,
        **_zoo_point(task),
        "current, log_std_init -1": {**current, "log_std_init": -1.0},
        "current, twice the KL": {**current, "target_kl": 2 * current["target_kl"]},
        "current, half the KL": {**current, "target_kl": current["target_kl"] / 2},
        "current, ReLU": {**current, "activation_fn": "relu"},
        "current, long horizon": {**current, "one_minus_gamma": min(current["one_minus_gamma"], 0.002)},
        "current, a tenth of the damping": {**current, "cg_damping": current["cg_damping"] / 10},
        "current, K-FAC": {**current, "cg_preconditioner": "kfac"},
        "current, half the rollout": {**current, "rollout_pow": current["rollout_pow"] - 1},
        "current, twice the rollout": {**current, "rollout_pow": current["rollout_pow"] + 1},
        "current, wide critic": {**current, "vf_width": 256},
        "current, GAE 0.98": {**current, "one_minus_gae_lambda": 0.02},
        "current, slower critic": {**current, "learning_rate": current["learning_rate"] / 3},
        "current, normalised": {**current, "norm_obs": True, "norm_reward": True},
        "Spinning Up": _SPINNING_UP,
        "Tianshou": _TIANSHOU,
    }
    names = list(points)
    return {name: points[name] for at, name in enumerate(names) if points[name] not in [points[one] for one in names[:at]]}


def _zoo_point(task: str) -> dict[str, Params]:
    """The RL Zoo's own settings, in joint units; nothing where it has none, or none that the space has."""
    found = zoo_entry("trpo", task)
    try:
        return {"RL Zoo": params_of(convert_entry(task, found[0], "joint"))} if found else {}
    except BadInput:
        return {}


def params_of(entry: Entry) -> Params:
    """
    Find the point that an entry is.

    :param entry: settings as in a Zoo YAML, in joint units
    :return: the same as a trial's parameters
    :raises BadInput: if the space has no such point
    """
    if entry.get("kl_reduction") != "joint":
        raise BadInput("the entry's kl_reduction must be joint: run convert-config on it first")
    policy_kwargs = _policy_kwargs(entry)
    normalize = _normalize(entry.get("normalize", False))
    linear, learning_rate = _learning_rate(entry)
    n_envs = entry.get("n_envs", 1)
    return {
        "n_envs": n_envs,
        "rollout_pow": _power("n_envs * n_steps", n_envs * _value(entry, "n_steps")),
        "batch_size_pow": _power("batch_size", _value(entry, "batch_size")),
        "one_minus_gamma": round(1 - _value(entry, "gamma"), 8),
        "one_minus_gae_lambda": round(1 - _value(entry, "gae_lambda"), 8),
        "learning_rate": learning_rate,
        "learning_rate_schedule": "linear" if linear else "constant",
        "target_kl": _value(entry, "target_kl"),
        "cg_damping": _value(entry, "cg_damping"),
        **normalize,
        "n_critic_updates": _value(entry, "n_critic_updates"),
        "cg_max_steps": _value(entry, "cg_max_steps"),
        "cg_preconditioner": _value(entry, "cg_preconditioner"),
        **policy_kwargs,
    }


def entry_of(params: Params, base: Entry) -> Entry:
    """
    Make an entry of a trial.

    :param params: the trial's parameters
    :param base: the current entry of the task, for what is not searched
    :return: complete settings, as they would be shipped; a KL that shrinks does so by the same factor
    """
    kept = {key: value for key, value in base.items() if key not in SEARCHED}
    settings = settings_of(params)
    if kept.get("final_target_kl") is not None:
        kept["final_target_kl"] *= settings["target_kl"] / base["target_kl"]
    return with_warning({**kept, **settings})


def with_warning(entry: Entry) -> Entry:
    """
    Silence the warning of a large KL where the entry has one, and only there.

    :param entry: settings, in joint units
    :return: the same with ``warn_on_risky`` as its bounds need it
    """
    rest = {key: value for key, value in entry.items() if key != "warn_on_risky"}
    risky = max(_value(entry, "target_kl"), entry.get("final_target_kl") or 0.0) > 0.1
    return {**rest, **({"warn_on_risky": False} if risky else {})}


def _value(entry: Entry, name: str) -> Any:
    return entry.get(name, _DEFAULTS[name])


def _power(name: str, value: int) -> int:
    power = round(math.log2(value))
    if 2**power != value:
        raise BadInput(f"{name}={value} is no power of 2, and the search space has only those")
    return power


def _learning_rate(entry: Entry) -> tuple[bool, float]:
    value = _value(entry, "learning_rate")
    return (True, float(value.removeprefix("lin_"))) if isinstance(value, str) else (False, float(value))


def _normalize(value: bool | str | Entry) -> Params:
    kwargs = eval(value) if isinstance(value, str) else value  # as the Zoo does
    kwargs = kwargs if isinstance(kwargs, dict) else {"norm_obs": kwargs, "norm_reward": kwargs}
    return {name: kwargs.get(name, True) for name in ("norm_obs", "norm_reward")}


def _policy_kwargs(entry: Entry) -> Params:
    text = entry.get("policy_kwargs", "dict()")
    kwargs = eval(text, {"nn": nn}) if isinstance(text, str) else text  # as the Zoo does
    widths = kwargs.get("net_arch", {"pi": [64, 64], "vf": [64, 64]})
    names = {activation: name for name, activation in ACTIVATIONS.items()}
    return {
        "pi_width": widths["pi"][0],
        "vf_width": widths["vf"][0],
        "activation_fn": names[kwargs.get("activation_fn", nn.Tanh)],
        "log_std_init": kwargs.get("log_std_init", 0.0),
        "ortho_init": kwargs.get("ortho_init", True),
    }
