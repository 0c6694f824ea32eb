"""Impossible settings are refused, risky ones are warned about: on the final values, so also after ``load``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from os import PathLike
from typing import Any

JOINT_KL_RISKY = 0.1
CG_STEPS_RISKY = 10
CRITIC_EPOCHS_RISKY = 10


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _number(low: float, high: float = math.inf, strict: bool = False) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and (low < value < high if strict else low <= value <= high)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value)) and 0 <= value[0] <= value[1]


def _one_of(*names: Any) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: any(value is name or value == name for name in names)), f"one of {list(names)}"


_SIZE = (lambda value: _is_integer(value, 1)), "an integer >= 1"
_OPTIONAL_SIZE = _or_none(_SIZE[0]), "None or an integer >= 1"

SIZES = {"n_steps": _SIZE, "batch_size": _SIZE}
"""Checked before sb3-contrib's constructor divides by them."""

SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **SIZES,
    "gamma": (_number(0, 1), "a number in [0, 1]"),
    "gae_lambda": (_number(0, 1), "a number in [0, 1]"),
    "target_kl": (_number(0, strict=True), "a finite number > 0"),
    "cg_max_steps": _SIZE,
    "cg_damping": (_number(0), "a finite number >= 0"),
    "cg_rtol": (lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    "cg_precision": _one_of("float64", "mixed", "float32"),
    "cg_preconditioner": _one_of("none", "kfac"),
    "cg_damping_range": (_or_none(_is_range), "None or two finite numbers (low, high) with 0 <= low <= high"),
    "line_search_shrinking_factor": (_number(0, 1, strict=True), "a number in (0, 1)"),
    "line_search_max_iter": _SIZE,
    "n_critic_updates": ((lambda value: _is_integer(value, 0)), "an integer >= 0"),
    "critic_tolerance": (_or_none(_number(0)), "None or a finite number >= 0"),
    "min_explained_variance": (_or_none(_number(-math.inf, 1)), "None or a finite number <= 1"),
    "sub_sampling_factor": _SIZE,
    "kl_reduction": _one_of(None, "mean", "joint"),
    "on_stale_batch": _one_of("raise", "skip"),
    "on_nonfinite": _one_of("raise", "truncate"),
    "fisher_chunk_size": _OPTIONAL_SIZE,
    "log_folder": ((lambda value: value is None or isinstance(value, str | PathLike)), "None or a path"),
    "normalize_advantage": _one_of(True, False),
    "adaptive_damping": _one_of(True, False),
    "warn_on_risky": _one_of(True, False),
}


def refuse_impossible(values: dict[str, Any], rules: dict[str, tuple[Callable[[Any], bool], str]] | None = None) -> None:
    """
    Raise for the first setting that can't work.

    :param values: settings by argument name
    :param rules: what is possible; all of ours if None
    :raises ValueError: naming argument, value and valid range
    """
    for name, (possible, valid) in (SETTINGS if rules is None else rules).items():
        if not possible(values[name]):
            raise ValueError(f"TRPO: {name}={values[name]!r} is impossible: it must be {valid}")
    if rules is not None:
        return
    epochs, most = values["n_critic_updates"], values["max_critic_updates"]
    if most is not None and not _is_integer(most, epochs):
        raise ValueError(
            f"TRPO: max_critic_updates={most!r} is impossible: it must be None or an integer >= n_critic_updates={epochs}"
        )
    damping, around = values["cg_damping"], values["cg_damping_range"]
    if around is not None and not around[0] <= damping <= around[1]:
        raise ValueError(
            f"TRPO: cg_damping_range={around!r} is impossible: it must be a range that holds cg_damping={damping!r}"
        )
    learning_rate = values["learning_rate"]
    if not callable(learning_rate) and not (_is_number(learning_rate) and learning_rate >= 0):
        raise ValueError(f"TRPO: learning_rate={learning_rate!r} is impossible: it must be a schedule or a finite number >= 0")


def warn_about_risks(values: dict[str, Any], joint_kl: float) -> None:
    """
    Warn about settings that experience speaks against.

    :param values: settings by argument name
    :param joint_kl: delta as a joint KL
    """
    risks = []
    if joint_kl > JOINT_KL_RISKY:
        risks.append(
            f"target_kl={values['target_kl']} allows a joint KL of {joint_kl:.3g} an update: above {JOINT_KL_RISKY} the "
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
        warnings.warn(f"TRPO: {risk} (warn_on_risky=False silences this)", UserWarning, stacklevel=4)


def notice_unit(target_kl: float, dims: int) -> None:
    """
    Say once what the default unit of the KL means, where it differs from the paper's.

    :param target_kl: delta, averaged over action dimensions
    :param dims: number of action dimensions
    """
    warnings.warn(
        f"TRPO: target_kl={target_kl} bounds the KL averaged over the {dims} action dimensions, as in sb3-contrib; the joint "
        f"bound (the paper's unit) is {target_kl * dims:.6g}. Set kl_reduction='mean' to keep this without a notice, or "
        "kl_reduction='joint' to bound the joint KL (convert target_kl and cg_damping then).",
        UserWarning,
        stacklevel=4,
    )
