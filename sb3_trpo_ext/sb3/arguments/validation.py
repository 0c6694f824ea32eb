"""
Impossible settings are refused, risky ones are warned about: on the final values, so also after ``load``.

A rule is one argument's whole description: the check and the message come from it.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
import torch

from sb3_trpo_ext.sb3.arguments.naming import maybe, shown, text_hint

JOINT_KL_RISKY = 0.1
CG_STEPS_RISKY = 10
CRITIC_EPOCHS_RISKY = 10

LARGEST_SEED = 2**32 - 1
"""NumPy's."""


@dataclass(frozen=True)
class Rule:
    """
    What an argument may be.

    :param possible: whether a value is possible
    :param valid: the same in words, after "it must be"
    :param names: the texts among the possible values
    """

    possible: Callable[[Any], bool]
    valid: str
    names: tuple[str, ...] = ()


def is_number(value: Any) -> bool:
    """
    Whether this is a finite number.

    :param value: anything
    :return: True also for NumPy's, False for booleans
    """
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:  # an integer that is no float
        return False


def is_integer(value: Any, least: int) -> bool:
    """
    Whether this is an integer, and large enough.

    :param value: anything
    :param least: the smallest that will do
    :return: True also for NumPy's, False for booleans
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _number(low: float, high: float = math.inf, strict: bool = False) -> Callable[[Any], bool]:
    return lambda value: is_number(value) and (low < value < high if strict else low <= value <= high)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value)) and 0 <= value[0] <= value[1]


def _is_device(value: Any) -> bool:
    try:
        return isinstance(value, torch.device) or value == "auto" or bool(type(value) in (str, int) and torch.device(value))
    except RuntimeError:
        return False


def _one_of(*names: Any) -> Rule:
    plain = (str, int, np.bool_, type(None))
    texts = tuple(name for name in names if isinstance(name, str))
    return Rule(
        lambda value: isinstance(value, plain) and any(value == name for name in names), f"one of {list(names)}", texts
    )


def _at_least(least: int) -> Rule:
    return Rule(lambda value: is_integer(value, least), f"an integer >= {least}")


SIZE, FLAG = _at_least(1), _one_of(True, False)
_OPTIONAL_SIZE = Rule(_or_none(SIZE.possible), "None or an integer >= 1")
_PATH = Rule(lambda value: value is None or isinstance(value, str | PathLike), "None or a path")
DICTIONARY = Rule(_or_none(lambda value: isinstance(value, Mapping)), "None or a dictionary")

SETTINGS: dict[str, Rule] = {
    "learning_rate": Rule(lambda value: callable(value) or _number(0)(value), "a schedule or a finite number >= 0"),
    "n_steps": SIZE,
    "batch_size": SIZE,
    "gamma": Rule(_number(0, 1), "a number in [0, 1]"),
    "cg_max_steps": SIZE,
    "cg_damping": Rule(_number(0), "a finite number >= 0"),
    "line_search_shrinking_factor": Rule(_number(0, 1, strict=True), "a number in (0, 1)"),
    "line_search_max_iter": SIZE,
    "n_critic_updates": _at_least(0),
    "gae_lambda": Rule(_number(0, 1), "a number in [0, 1]"),
    "normalize_advantage": FLAG,
    "target_kl": Rule(_number(0, strict=True), "a finite number > 0"),
    "sub_sampling_factor": SIZE,
    "kl_reduction": _one_of(None, "mean", "joint"),
    "cg_precision": _one_of("float64", "mixed", "float32"),
    "cg_preconditioner": _one_of("none", "kfac"),
    "cg_rtol": Rule(lambda value: is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    "adaptive_damping": FLAG,
    "cg_damping_range": Rule(_or_none(_is_range), "None or two finite numbers (low, high) with 0 <= low <= high"),
    "max_critic_updates": Rule(_or_none(lambda value: is_integer(value, 0)), "None or an integer >= n_critic_updates"),
    "critic_tolerance": Rule(_or_none(_number(0)), "None or a finite number >= 0"),
    "min_explained_variance": Rule(_or_none(_number(-math.inf, 1)), "None or a finite number <= 1"),
    "on_stale_batch": _one_of("raise", "skip"),
    "on_nonfinite": _one_of("raise", "truncate"),
    "fisher_chunk_size": _OPTIONAL_SIZE,
    "log_folder": _PATH,
    "warn_on_risky": FLAG,
    "final_target_kl": Rule(_or_none(_number(0, strict=True)), "None or a finite number > 0"),
}
"""What the finished model holds under the argument's name."""

OF_SB3: dict[str, Rule] = {
    "use_sde": FLAG,
    "sde_sample_freq": Rule(lambda value: is_integer(value, -1), "an integer >= 1, or -1: once a rollout"),
    "rollout_buffer_class": Rule(_or_none(inspect.isclass), "None or a class"),
    "rollout_buffer_kwargs": DICTIONARY,
    "stats_window_size": SIZE,
    "tensorboard_log": _PATH,
    "policy_kwargs": DICTIONARY,
    "verbose": Rule(
        lambda value: isinstance(value, bool) or is_integer(value, 0), "an integer >= 0: 0 silent, 1 information, 2 debugging"
    ),
    "seed": Rule(
        _or_none(lambda value: is_integer(value, 0) and int(value) <= LARGEST_SEED),
        f"None or an integer in [0, {LARGEST_SEED}]",
    ),
    "device": Rule(_is_device, "'auto' or a device of torch", ("auto", "cpu", "cuda", "mps")),
}
"""What SB3 keeps in its own way: checked in the constructor only."""


def refuse(owner: str, name: str, value: Any, rule: Rule) -> None:
    """
    Raise for a value that can't work.

    :param owner: whose argument it is
    :param name: the argument
    :param value: its value
    :param rule: what is possible
    :raises ValueError: naming argument, value, valid range and the nearest right name
    """
    if rule.possible(value):
        return
    hint = maybe(value, rule.names) if rule.names and isinstance(value, str) else text_hint(value)
    raise ValueError(f"{owner}: {name}={shown(value)} is impossible: it must be {rule.valid}{hint}")


def refuse_impossible(values: Mapping[str, Any], rules: Mapping[str, Rule] = SETTINGS, owner: str = "TRPO") -> None:
    """
    Raise for the first setting that can't work.

    :param values: settings by argument name; those that are not there are not checked
    :param rules: what is possible
    :param owner: whose settings they are
    :raises ValueError: naming argument, value and valid range
    """
    for name, rule in rules.items():
        if name in values:
            refuse(owner, name, values[name], rule)


def refuse_contradictions(values: Mapping[str, Any], owner: str = "TRPO") -> None:
    """
    Raise for settings that are possible each, but not together.

    :param values: all settings by argument name, each of them possible
    :param owner: whose settings they are
    :raises ValueError: naming both
    """
    epochs, most = values["n_critic_updates"], values["max_critic_updates"]
    if most is not None and most < epochs:
        raise ValueError(
            f"{owner}: max_critic_updates={most!r} is impossible: it must be None or an integer >= n_critic_updates={epochs}"
        )
    damping, around = values["cg_damping"], values["cg_damping_range"]
    if around is not None and not around[0] <= damping <= around[1]:
        raise ValueError(
            f"{owner}: cg_damping_range={around!r} is impossible: it must be a range that holds cg_damping={damping!r}"
        )


def warn_about_risks(values: dict[str, Any], kl_scale: float) -> None:
    """
    Warn about settings that experience speaks against.

    :param values: settings by argument name
    :param kl_scale: bounded KL = this * joint KL
    """
    risks = []
    name = max(("target_kl", "final_target_kl"), key=lambda bound: values[bound] or 0.0)
    joint_kl = values[name] / kl_scale
    if joint_kl > JOINT_KL_RISKY:
        risks.append(
            f"{name}={values[name]} allows a joint KL of {joint_kl:.3g} an update: above {JOINT_KL_RISKY} the "
            "quadratic model of the KL breaks down and entropy may collapse; try a joint 0.01 to 0.05"
        )
    if values["cg_max_steps"] < CG_STEPS_RISKY:
        risks.append(
            f"cg_max_steps={values['cg_max_steps']}: fewer than {CG_STEPS_RISKY} steps leave the search direction near the "
            "plain gradient; try 10 to 25"
        )
    if not values["normalize_advantage"]:
        risks.append("normalize_advantage=False: surrogate and damping then depend on the scale of the rewards; try True")
    if values["n_critic_updates"] < CRITIC_EPOCHS_RISKY:
        risks.append(
            f"n_critic_updates={values['n_critic_updates']}: fewer than {CRITIC_EPOCHS_RISKY} epochs may leave the critic "
            "undertrained, which biases the advantages while the KL looks fine; try 10 to 20"
        )
    for risk in risks:
        warnings.warn(f"TRPO: {risk} (warn_on_risky=False silences this)", UserWarning, stacklevel=5)


def notice_unit(target_kl: float, dims: int) -> None:
    """
    Say once what the default unit of the KL means, where it differs from the paper's.

    :param target_kl: delta, averaged over action dimensions
    :param dims: number of action dimensions
    """
    warnings.warn(
        f"TRPO: target_kl={target_kl} bounds the KL averaged over the {dims} action dimensions, as in sb3-contrib; the joint "
        f"bound (the paper's unit) is {target_kl * dims:.6g}. Set kl_reduction='mean' to keep this without a notice, or "
        "kl_reduction='joint' to bound the joint KL (convert target_kl, final_target_kl and cg_damping then).",
        UserWarning,
        stacklevel=5,
    )
