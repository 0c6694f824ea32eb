"""The observers that every run has; those that a user chooses are callbacks of their own."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_trpo_ext.monitoring.progress import ProgressDescription
from sb3_trpo_ext.monitoring.quiet_list import QuietList
from sb3_trpo_ext.monitoring.tensorboard_layout import TensorBoardLayout


def with_observers(callback: MaybeCallback) -> CallbackList:
    """
    Put ours before a user's callbacks: at the end of training, a progress bar among them closes.

    :param callback: what was given to ``learn``
    :return: all of them
    """
    given = callback if isinstance(callback, list) else [] if callback is None else [callback]
    theirs = [each if isinstance(each, BaseCallback) else ConvertCallback(each) for each in given]
    return CallbackList([QuietList([ProgressDescription(), TensorBoardLayout()]), *theirs])
