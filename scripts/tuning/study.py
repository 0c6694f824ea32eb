"""
The studies: one for each task, search space and length of trials, in Optuna's journal, a file for each task.

Whoever does a trial holds the task's lock, so that several processes can share the tasks, and a trial that is found running by
the holder of the lock was interrupted: it is put back, with the seeds that it had finished.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from evidence.configurations import BadInput, Entry
from filelock import FileLock, Timeout
from optuna.distributions import distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from sb3_trpo_ext.zoo.search_space import TUNING_SPACE, Params, Space, widened
from tuning.points import CURRENT, params_of, starting_points
from tuning.pruner import RungPruner

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
STARTUP_TRIALS = 16
"""About as many as there are starting points: then the sampler learns from them."""


@dataclass(frozen=True)
class Tuning:
    """
    What is searched for.

    :param task: environment id
    :param steps: length of a training, environment steps
    :param seeds: trainings of a trial
    :param entry: current settings of the task
    :param folder: where the journals are
    """

    task: str
    steps: int
    seeds: tuple[int, ...]
    entry: Entry
    folder: Path

    @cached_property
    def space(self) -> Space:
        """The search space; the current entry lies in it."""
        try:
            return widened(TUNING_SPACE, params_of(self.entry))
        except ValueError as error:
            raise BadInput(f"{self.task}: the current entry can't be searched: {error}") from error

    @property
    def name(self) -> str:
        """Name of the study: trials of one study are comparable."""
        space = "".join(name + distribution_to_json(self.space[name]) for name in sorted(self.space))
        return f"{self.comparable} space {hashlib.sha256(space.encode()).hexdigest()[:8]}"

    @property
    def comparable(self) -> str:
        """Beginning of the names of all studies whose trials have comparable values."""
        seeds = " ".join(map(str, self.seeds))
        final = self.entry.get("final_target_kl")  # no part of a trial: it scales with the KL of the entry
        shrinking = "" if final is None else f" KL to {final / self.entry['target_kl']:.3g} of it"
        return f"{self.task} {self.steps} steps seeds {seeds}{shrinking}"

    @property
    def journal(self) -> Path:
        """File of the studies."""
        return self.folder / f"{self.task.replace('/', '-')}.log"


def open_study(tuning: Tuning) -> optuna.Study | None:
    """
    Open a study to read it.

    :param tuning: which one
    :return: the study; None if it has not begun
    """
    if not tuning.journal.exists():
        return None
    storage = _storage(tuning)
    if tuning.name not in optuna.get_all_study_names(storage):
        return None
    return optuna.load_study(storage=storage, study_name=tuning.name, pruner=RungPruner(CURRENT))


@contextmanager
def claimed_study(tuning: Tuning) -> Iterator[optuna.Study | None]:
    """
    Open a study to do a trial of it, and make it if need be.

    :param tuning: which one
    :yield: the study; None if another process is at it
    """
    tuning.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(tuning.journal.with_suffix(".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield None
        return
    try:
        _mend(tuning.journal)
        study = open_study(tuning) or _create(tuning)
        _take_over(study, tuning)
        _queue_starting_points(study, tuning)
        _put_back_interrupted(study)
        seed = zlib.crc32(f"{tuning.name} {len(study.trials)}".encode())  # so that a process that goes on draws anew
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, seed=seed)
        yield study
    finally:
        lock.release()


def finished_trials(study: optuna.Study | None) -> list[FrozenTrial]:
    """
    List what has been done.

    :param study: a study, or None
    :return: trials that have a value or were pruned
    """
    return [] if study is None else study.get_trials(deepcopy=False, states=FINISHED)


def best_trials(study: optuna.Study | None, count: int | None = None) -> list[FrozenTrial]:
    """
    List the best trials that have trained every seed.

    :param study: a study, or None
    :param count: how many at most; None for all
    :return: trials, the best first
    """
    whole = [] if study is None else study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(whole, key=lambda trial: -trial.value)[:count]


def _mend(journal: Path) -> None:
    """Drop a last line that was being written when its process was killed: Optuna would refuse all that follows it."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


def _storage(tuning: Tuning) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(tuning.journal)))


def _create(tuning: Tuning) -> optuna.Study:
    pruner = RungPruner(CURRENT)
    return optuna.create_study(storage=_storage(tuning), study_name=tuning.name, direction="maximize", pruner=pruner)


def _take_over(study: optuna.Study, tuning: Tuning) -> None:
    """Add the trials of studies with another space that lie in this one and are not in it yet."""
    storage = _storage(tuning)
    there = {trial.user_attrs.get("imported") for trial in study.get_trials(deepcopy=False)}
    for name in optuna.get_all_study_names(storage):
        if name == tuning.name or not name.startswith(tuning.comparable + " space "):
            continue
        for trial in finished_trials(optuna.load_study(storage=storage, study_name=name)):
            source = f"{name} trial {trial.number}"
            if source not in there and "imported" not in trial.user_attrs and _lies_in(tuning.space, trial):
                study.add_trial(_imported(tuning.space, trial, source))


def _queue_starting_points(study: optuna.Study, tuning: Tuning) -> None:
    """Queue those that were not yet; a current entry that has changed is tried again as a control."""
    trials = study.get_trials(deepcopy=False)
    queued = {trial.user_attrs["point"] for trial in trials if "point" in trial.user_attrs}
    controls = [_queued_params(trial) for trial in trials if trial.user_attrs.get("point") == CURRENT]
    for point, params in starting_points(tuning.task, tuning.entry).items():
        fitting = {name: _nearest(tuning.space, name, value) for name, value in params.items()}
        if point == CURRENT and fitting not in controls:
            study.enqueue_trial(fitting, user_attrs={"point": point})
        elif point not in queued:
            study.enqueue_trial(fitting, user_attrs={"point": point}, skip_if_exists=True)


def _queued_params(trial: FrozenTrial) -> Params:
    """Parameters of a trial, also of one that waits (where Optuna keeps them has no other name)."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _nearest(space: Space, name: str, value: object) -> object:
    low, high = getattr(space[name], "low", None), getattr(space[name], "high", None)
    return value if low is None else min(max(value, low), high)  # type: ignore[type-var]


def _lies_in(space: Space, trial: FrozenTrial) -> bool:
    return set(trial.params) == set(space) and all(
        _nearest(space, name, value) == value and value in getattr(space[name], "choices", (value,))
        for name, value in trial.params.items()
    )


def _imported(space: Space, trial: FrozenTrial, source: str) -> FrozenTrial:
    attributes = {key: value for key, value in trial.user_attrs.items() if key != "point"}
    return create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=space,
        user_attrs={**attributes, "imported": source},
        intermediate_values=trial.intermediate_values,
    )


def _put_back_interrupted(study: optuna.Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={**trial.user_attrs, "resumes": trial.number})
