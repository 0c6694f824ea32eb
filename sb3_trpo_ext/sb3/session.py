"""What belongs to one model object: ``save`` leaves it out, ``pickle`` keeps ``SURVIVING``, and each copy has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sb3_trpo_ext.sb3.checkpoints.resumption import Resumption
from sb3_trpo_ext.sb3.integrity.env_guard import EnvGuard
from sb3_trpo_ext.sb3.integrity.guard import FailureObserver, Mark
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder
from sb3_trpo_ext.sb3.problem.evaluation import Choice
from sb3_trpo_ext.sb3.ranks.training import RankTraining, on_this_rank
from sb3_trpo_ext.sb3.update.diagnosis import Diagnosis
from sb3_trpo_ext.sb3.update.report import UpdateInputs
from sb3_trpo_ext.sb3.update.run_log import RunLog
from sb3_trpo_ext.sb3.update.start import UpdateStart


@dataclass
class Session:
    """
    Owns what lives while a model learns. Only ``trpo.py`` and callbacks read it: all others are given the parts they need.

    :param failure_observers: called with what ends a training before its time, once; callbacks add themselves when it begins
    :param between_updates: called before each rollout, when the last update is complete; False ends training
    :param stop_signal: number of the signal that asked training to stop after the current update; None: none did
    :param computing: on while something is under way that is finished before training stops, however long it takes
    :param recorder: of the behaviour policy's distributions
    :param choice: how Fisher products are computed, once that is known
    :param env_guard: watches the environments
    :param run_log: writes the run folder
    :param diagnosis: diagnostics that somebody has subscribed to
    :param ranks: the other processes of this training
    :param update_start: what the newest update began with, also one that raised; forgotten after it
    :param keep_update_start: whether ``update_start`` is kept until the next update instead
    :param update_inputs: references to what went into the newest update
    :param resumption: the checkpoint that training goes on from, until the first rollout begins
    :param loaded_statistics: of VecNormalize, from the zip that the model was loaded from, until it learns
    :param first_update: updates when the present ``learn`` began
    :param earlier_iterations: iterations of an interrupted ``learn`` that this one goes on with
    :param log_interval: updates between logs
    """

    failure_observers: list[FailureObserver] = field(default_factory=list)
    between_updates: list[Callable[[], bool]] = field(default_factory=list)
    stop_signal: int | None = None
    computing: Mark = field(default_factory=Mark)
    recorder: BehaviourRecorder = field(default_factory=BehaviourRecorder)
    choice: Choice | None = None
    env_guard: EnvGuard = field(default_factory=EnvGuard)
    run_log: RunLog = field(default_factory=RunLog)
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    ranks: RankTraining = field(default_factory=RankTraining)
    update_start: UpdateStart | None = None
    keep_update_start: bool = False
    update_inputs: UpdateInputs | None = None
    resumption: Resumption | None = None
    loaded_statistics: bytes | None = None
    first_update: int = 0
    earlier_iterations: int = 0
    log_interval: int = 1

    def ask_to_stop(self, number: int) -> None:
        """
        End the training once its update is finished.

        :param number: of the signal that asked for it
        """
        self.stop_signal = number

    @contextmanager
    def on_ranks(self) -> Iterator[None]:
        """
        Train as one of the ranks.

        :yields: nothing
        :raises RanksError: if the others don't come
        """
        try:
            with on_this_rank(self.ask_to_stop) as self.ranks:
                yield
        finally:
            self.ranks = RankTraining()

    def of_a_copy(self) -> Session:
        """
        Make the session of a copy of the model.

        :return: with what a copy goes on with; all else begins anew
        """
        return Session(**{name: getattr(self, name) for name in SURVIVING})

    def __getstate__(self) -> dict[str, Any]:
        """For ``pickle``: the rest belongs to this process."""
        return {name: getattr(self, name) for name in SURVIVING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        vars(self).update(state)


SURVIVING = (
    *("recorder", "keep_update_start", "resumption", "loaded_statistics"),
    *("first_update", "earlier_iterations", "log_interval"),
)
"""What a copy of the model goes on with."""
