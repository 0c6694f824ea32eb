"""
Which callbacks let our loop collect: it computes values and log-probabilities after the last step, SB3's loop at each step.

Only callbacks that are known not to read them do: those of ``KNOWN``, ours, and classes that say so themselves with

    reads_step_values = False

in their own body. The attribute promises that the callback reads, while a rollout is collected, neither ``values`` and
``log_probs`` of its locals, nor those and the rewards of the rollout buffer, nor the policy's ``action_dist``. It is not
inherited: a subclass may read what its parent does not. For any other callback SB3's loop collects.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback

from sb3_trpo_ext.sb3.callback_tree import every_callback

OUR_MODULES = "sb3_trpo_ext."
"""Ours look at finished updates only."""

DECLARATION = "reads_step_values"
"""Class attribute by which a callback says whether it needs what SB3's loop computes at each step."""

_SB3 = (
    *("CallbackList", "CheckpointCallback", "EvalCallback", "EventCallback", "EveryNTimesteps"),
    *("ProgressBarCallback", "StopTrainingOnMaxEpisodes", "StopTrainingOnNoModelImprovement", "StopTrainingOnRewardThreshold"),
)
_ZOO = ("RawStatisticsCallback", "SaveVecNormalizeCallback", "TrialEvalCallback")

KNOWN = frozenset(
    {
        *(f"stable_baselines3.common.callbacks.{name}" for name in _SB3),
        *(f"rl_zoo3.callbacks.{name}" for name in _ZOO),
        "wandb.integration.sb3.sb3.WandbCallback",
    }
)
"""Callbacks of other packages that are known not to read step values; by name, since `sb3` imports no Zoo and no W&B."""


def what_needs_sb3_loop(callback: BaseCallback) -> str | None:
    """
    Look for a callback that may need values or log-probabilities at each step.

    :param callback: the root of a tree of callbacks
    :return: which one, and how to let our loop collect, in words; None if no callback needs them
    """
    for part in every_callback(callback):
        if isinstance(part, ConvertCallback):
            if part.callback is not None:
                return f"a function is called with all local variables (a BaseCallback may declare {DECLARATION} = False)"
        elif not _is_declared(type(part)):
            return f"callback {type(part).__name__} may read values at each step (unless its class says {DECLARATION} = False)"
        elif _has_own_method(part):
            return f"callback {type(part).__name__} has a method that was put on this one object"
    return None


def _is_declared(kind: type[Any]) -> bool:
    """Only by the exact class, because nobody has looked at what a subclass adds."""
    if DECLARATION in vars(kind):
        return vars(kind)[DECLARATION] is False
    return f"{kind.__module__}.{kind.__qualname__}" in KNOWN or kind.__module__.startswith(OUR_MODULES)


def _has_own_method(callback: BaseCallback) -> bool:
    """Whether an attribute of the instance hides a method of its class."""
    return any(callable(getattr(type(callback), name, None)) for name in vars(callback))
