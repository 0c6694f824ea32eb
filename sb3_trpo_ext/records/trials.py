"""Trials of a hyperparameter search: hundreds of short runs, which leave nothing on disk."""

from __future__ import annotations

from collections.abc import Iterable

TRIAL_CALLBACK = "TrialEvalCallback"
"""The callback by which the RL Zoo ends trials."""


def in_trial(callbacks: Iterable[object]) -> bool:
    """
    Tell a trial of a hyperparameter search from a training.

    :param callbacks: all that it has
    :return: whether it is one
    """
    return any(type(part).__name__ == TRIAL_CALLBACK for part in callbacks)
