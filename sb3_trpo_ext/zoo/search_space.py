"""
What is searched for TRPO, in joint units of the KL: ``ZOO_SPACE`` by the RL Zoo's ``-optimize``, ``TUNING_SPACE`` by
``scripts/tune.py``, which can also choose the number of environments, their normalisation and a schedule.

A trial stores powers, differences and names; ``settings_of`` turns them into what a Zoo YAML holds, its floats rounded to a
few digits: what was trained is what can be written down.
"""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

Space = dict[str, BaseDistribution]
Params = dict[str, Any]
Settings = dict[str, Any]

DIGITS = 3
"""Of sampled floats. A difference of a thousandth is none that a training would show."""

_SHARED: Space = {
    "n_critic_updates": IntDistribution(10, 40, log=True),
    "cg_max_steps": IntDistribution(10, 40),
    "cg_preconditioner": CategoricalDistribution(("none", "kfac")),
    "pi_width": CategoricalDistribution((64, 128, 256)),
    "vf_width": CategoricalDistribution((64, 128, 256)),
    "activation_fn": CategoricalDistribution(("tanh", "relu")),
    "log_std_init": FloatDistribution(-2.0, 0.5),
    "ortho_init": CategoricalDistribution((True, False)),
}

ZOO_SPACE: Space = {
    "n_steps_pow": IntDistribution(8, 12),
    "batch_size_pow": IntDistribution(5, 8),
    "one_minus_gamma": FloatDistribution(1e-4, 0.03, log=True),
    "one_minus_gae_lambda": FloatDistribution(1e-4, 0.1, log=True),
    "learning_rate": FloatDistribution(1e-5, 2e-3, log=True),
    "target_kl": FloatDistribution(0.002, 0.1, log=True),
    "cg_damping": FloatDistribution(0.001, 1.0, log=True),
    **_SHARED,
}
"""Ranges of the Zoo's on-policy samplers where it has any. Every value is one that the constructor takes without a warning
(joint KL <= 0.1, at least 10 CG steps and critic epochs), and batch_size always divides n_steps. Damping spans the Zoo's 0.001
to 0.1 times ten action dimensions."""

TUNING_SPACE: Space = {
    "n_envs": CategoricalDistribution((1, 2, 4, 8, 16)),
    "rollout_pow": IntDistribution(10, 13),
    "batch_size_pow": IntDistribution(6, 9),
    "one_minus_gamma": FloatDistribution(5e-5, 0.03, log=True),
    "one_minus_gae_lambda": FloatDistribution(0.003, 0.2, log=True),
    "learning_rate": FloatDistribution(1e-4, 5e-3, log=True),
    "learning_rate_schedule": CategoricalDistribution(("constant", "linear")),
    "target_kl": FloatDistribution(0.003, 0.3, log=True),
    "cg_damping": FloatDistribution(0.003, 1.0, log=True),
    "norm_obs": CategoricalDistribution((True, False)),
    "norm_reward": CategoricalDistribution((True, False)),
    **_SHARED,
}
"""A rollout is n_envs * n_steps = 2 ** rollout_pow samples, 1,024 to 8,192 (sb3-contrib's, Spinning Up's and Tianshou's are
2,048, 4,000 and 1,024). The joint KL goes up to 0.3, because the Zoo's HalfCheetah has 0.24."""

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def widened(space: Space, params: Params) -> Space:
    """
    Make room for a point that is known to be good, such as Pendulum's gamma of 0.9.

    :param space: ranges
    :param params: a point
    :return: the same ranges, those that end before the point moved to it
    :raises ValueError: if it has a name that is none of the choices
    """
    wide: Space = {}
    for name, distribution in space.items():
        value = params[name]
        if isinstance(distribution, FloatDistribution | IntDistribution):
            low, high = min(distribution.low, value), max(distribution.high, value)
            wide[name] = type(distribution)(low, high, log=distribution.log)
        elif isinstance(distribution, CategoricalDistribution) and value not in distribution.choices:
            raise ValueError(f"{name}={value!r} is none of {distribution.choices}")
        else:
            wide[name] = distribution
    return wide


def settings_of(params: Params) -> Settings:
    """
    Turn a trial's parameters into settings.

    :param params: names and values of either space, as the trial stores them
    :return: as in a Zoo YAML: n_envs and normalize with those of ``TUNING_SPACE``, policy_kwargs as text
    """
    learning_rate = _rounded(params["learning_rate"])
    linear = params.get("learning_rate_schedule") == "linear"
    return {
        **_environments(params),
        "batch_size": 2 ** params["batch_size_pow"],
        "gamma": _rest(params["one_minus_gamma"]),
        "gae_lambda": _rest(params["one_minus_gae_lambda"]),
        "learning_rate": f"lin_{learning_rate}" if linear else learning_rate,
        "n_critic_updates": params["n_critic_updates"],
        "kl_reduction": "joint",
        "target_kl": _rounded(params["target_kl"]),
        "cg_damping": _rounded(params["cg_damping"]),
        "cg_max_steps": params["cg_max_steps"],
        "cg_preconditioner": params["cg_preconditioner"],
        "policy_kwargs": _as_text(_policy_kwargs(params)),
    }


def _environments(params: Params) -> Settings:
    """How samples are collected."""
    if "rollout_pow" not in params:
        return {"n_steps": 2 ** params["n_steps_pow"]}
    normalize = {"norm_obs": params["norm_obs"], "norm_reward": params["norm_reward"]}
    both = {True} == set(normalize.values())
    return {
        **({"normalize": both or normalize} if any(normalize.values()) else {}),
        "n_envs": params["n_envs"],
        "n_steps": 2 ** params["rollout_pow"] // params["n_envs"],
    }


def _policy_kwargs(params: Params) -> Settings:
    return {
        "log_std_init": round(params["log_std_init"], 2),
        "ortho_init": params["ortho_init"],
        "activation_fn": ACTIVATIONS[params["activation_fn"]],
        "net_arch": {"pi": [params["pi_width"]] * 2, "vf": [params["vf_width"]] * 2},
    }


def _as_text(value: Any) -> str:
    """As the Zoo's YAML files write Python objects, which it evaluates."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_as_text(item)}' for key, item in value.items())})"
    return f"nn.{value.__name__}" if isinstance(value, type) else repr(value)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rest(difference: float) -> float:
    """1 - x, where x has the digits."""
    return round(1 - _rounded(difference), 8)


def sample_trpo_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Settings:
    """
    Sample one set of hyperparameters: the RL Zoo's way to call a sampler.

    :param trial: the Optuna trial
    :param n_actions: action dimensions, unused: joint units need no rescaling
    :param n_envs: number of environments, unused
    :param additional_args: what the Zoo tells samplers of off-policy algorithms, unused
    :return: arguments for the constructor of TRPO
    """
    hyperparams = convert_trpo_params({name: _suggest(trial, name, ZOO_SPACE[name]) for name in ZOO_SPACE})
    # What the powers and differences stand for, for people who read the study
    for name in ("gamma", "gae_lambda", "n_steps", "batch_size"):
        trial.set_user_attr(name, hyperparams[name])
    return hyperparams


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


def convert_trpo_params(sampled_params: Params) -> Settings:
    """
    Turn the parameters of a trial into hyperparameters; the Zoo's ``--trial-id`` calls it on ``trial.params`` alone.

    :param sampled_params: names and values as the trial stores them
    :return: arguments for the constructor of TRPO
    :raises ValueError: for a trial that our sampler did not make: its ``target_kl`` is in another unit
    """
    if "cg_damping" not in sampled_params:
        raise ValueError(
            "cg_damping is missing in this trial, so it comes from the RL Zoo's own TRPO sampler, whose target_kl is a mean "
            "over action dimensions: load it without sb3_trpo_ext.zoo, or run the search again with it."
        )
    return {**settings_of(sampled_params), "policy_kwargs": _policy_kwargs(sampled_params)}
