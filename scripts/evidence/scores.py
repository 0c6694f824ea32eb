"""What is in results/, chosen and arranged: who has run what, what is missing, arrays of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evidence.configurations import BadInput
from evidence.metrics import Array, normalise
from evidence.runs import IMPLEMENTATIONS, RANDOM, REFERENCE
from evidence.store import COLUMNS


def method_name(implementation: str, overrides: str) -> str:
    """
    Name what is compared.

    :param implementation: of a run
    :param overrides: of a run
    :return: the implementation, and what was changed in it
    """
    return f"{implementation} [{overrides}]" if overrides else implementation


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """
    Read a table of the store.

    :param folder: of results
    :param name: "runs", "curves" or "failures"
    :return: the table; empty if there is none
    """
    path = folder / f"{name}.csv"
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS[name])
    return pd.read_csv(path, dtype={"overrides": str, "config_hash": str, "run": str}).fillna({"overrides": ""})


@dataclass(frozen=True)
class Evidence:
    """
    The runs that a report is about: one configuration for each method and task.

    :param runs: one row a run, with a column ``method``
    :param curves: their curves
    :param failures: failed runs of these methods and tasks that have not succeeded since
    :param random: mean return of the random policy by task
    :param steps: length of the runs by task
    :param methods: the reference first
    :param seeds: seeds that every method should have
    :param superseded: finished runs of an older configuration or NUMERICS_VERSION, left out
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    failures: pd.DataFrame
    random: dict[str, float]
    steps: dict[str, int]
    methods: list[str]
    seeds: list[int]
    superseded: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        """Tasks, in alphabetical order."""
        return sorted(self.steps)

    def seeds_of(self, method: str, task: str) -> list[int]:
        """
        List the seeds that a method has on a task.

        :param method: its name
        :param task: environment id
        :return: seeds among ``seeds``, ascending
        """
        rows = self.runs[(self.runs.method == method) & (self.runs.task == task)]
        return sorted(set(rows.seed) & set(self.seeds))

    def missing(self) -> list[tuple[str, str, list[int]]]:
        """List method, task and the seeds that it lacks there."""
        gaps = ((m, t, sorted(set(self.seeds) - set(self.seeds_of(m, t)))) for m in self.methods for t in self.tasks)
        return [gap for gap in gaps if gap[2]]

    def complete(self, method: str) -> list[str]:
        """
        List the tasks on which a method and the reference have every seed, and the reference beats the random policy: only
        these are aggregated.

        :param method: its name
        :return: tasks
        """
        whole = [{t for t in self.tasks if self.seeds_of(m, t) == self.seeds} for m in (method, REFERENCE)]
        return sorted(set.intersection(*whole) - set(self.without_scale()))

    def without_scale(self) -> list[str]:
        """List the tasks whose scores can't be normalised: the reference is no better than the random policy there."""
        return [t for t in self.tasks if not self.reference(t) > self.random[t]]

    def finals(self, method: str, task: str) -> Array:
        """
        Give the final scores.

        :param method: its name
        :param task: environment id
        :return: mean return of the final evaluation, shape (n,), in the order of ``seeds_of``
        """
        rows = self.runs[(self.runs.method == method) & (self.runs.task == task) & self.runs.seed.isin(self.seeds)]
        return rows.sort_values("seed").return_mean.to_numpy(dtype=float)

    def reference(self, task: str) -> float:
        """
        Give the score that is 1 after normalisation.

        :param task: environment id
        :return: mean of the reference's final scores
        """
        return float(self.finals(REFERENCE, task).mean())

    def curve(self, method: str, task: str, column: str = "return_mean") -> tuple[Array, Array]:
        """
        Give the learning curves.

        :param method: its name
        :param task: environment id
        :param column: of ``curves.csv``
        :return: steps, shape (n_points,), and values, shape (n, n_points), in the order of ``seeds_of``
        """
        chosen = (self.runs.method == method) & (self.runs.task == task) & self.runs.seed.isin(self.seeds)
        rows = self.curves[self.curves.run.isin(self.runs[chosen].run)]
        table = rows.pivot_table(index="seed", columns="steps", values=column, dropna=False).sort_index()
        return table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)


def _newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep, of each method on each task, the configuration and NUMERICS_VERSION that ran last."""
    last = runs.sort_values("finished").groupby(["method", "task"])[["config_hash", "version"]].last()
    wanted = runs.join(last, on=["method", "task"], rsuffix="_last")
    return runs[(wanted.config_hash == wanted.config_hash_last) & (wanted.version == wanted.version_last)]


def _choose_steps(runs: pd.DataFrame, steps: int | None, tasks: list[str] | None) -> dict[str, int]:
    reference = runs[runs.implementation == REFERENCE]
    reference = reference if steps is None else reference[reference.steps == steps]
    lengths = {str(task): int(longest) for task, longest in reference.groupby("task").steps.max().items()}
    where = f" of {steps} steps" if steps else ""
    for task in tasks or []:
        if task not in lengths:
            raise BadInput(f"{task}: no run of the reference ({REFERENCE}){where}")
    if not lengths:
        raise BadInput(f"there is no run of the reference ({REFERENCE}){where}")
    return {task: length for task, length in lengths.items() if tasks is None or task in tasks}


def _random_scores(runs: pd.DataFrame, tasks: list[str]) -> dict[str, float]:
    scores = runs[runs.implementation == RANDOM].groupby("task").return_mean.mean()
    lacking = sorted(set(tasks) - set(scores.index))
    if lacking:
        raise BadInput(f"no score of the random policy on {', '.join(lacking)}: evaluate_configs.py measures it")
    return {task: float(scores[task]) for task in tasks}


def load(
    folder: Path,
    steps: int | None = None,
    tasks: list[str] | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
) -> Evidence:
    """
    Choose what a report is about.

    :param folder: of results
    :param steps: length of the runs; None: on each task, of the reference's longest
    :param tasks: None: all that the reference has
    :param methods: names; None: every implementation that has runs, without overrides
    :param seeds: None: all that the reference has
    :return: the evidence
    :raises BadInput: if the reference, or what was asked for, is not there
    """
    everything, failures = read_table(folder, "runs"), read_table(folder, "failures")
    for table in (everything, failures):
        table["method"] = [method_name(*pair) for pair in zip(table.implementation, table.overrides, strict=True)]
    everything["version"] = everything.numerics_version.fillna(0)
    lengths = _choose_steps(everything, steps, tasks)
    runs = everything[everything.task.map(lengths) == everything.steps]
    known = [name for name in IMPLEMENTATIONS if name in set(runs.method)]
    chosen = [REFERENCE, *(name for name in methods or known if name != REFERENCE)]
    for name in chosen:
        if name not in set(runs.method):
            raise BadInput(f"no run of {name!r} at these steps; there are {', '.join(sorted(set(runs.method)))}")
    runs = runs[runs.method.isin(chosen)]
    newest = _newest(runs)
    seeds = sorted(seeds if seeds is not None else {int(s) for s in newest[newest.method == REFERENCE].seed})
    failed = failures[failures.method.isin(chosen) & (failures.task.map(lengths) == failures.steps)]
    return Evidence(
        newest,
        read_table(folder, "curves"),
        failed,
        _random_scores(everything, list(lengths)),
        lengths,
        chosen,
        seeds,
        runs.drop(newest.index),
    )


def curve_tensor(evidence: Evidence, method: str, tasks: list[str]) -> tuple[Array, Array]:
    """
    Arrange normalised learning curves.

    :param evidence: the runs
    :param method: whose
    :param tasks: complete ones
    :return: share of training, shape (n_points,), and scores, shape (n_seeds, n_tasks, n_points)
    """
    curves = []
    for task in tasks:
        steps, returns = evidence.curve(method, task)
        curves.append(normalise(returns, evidence.random[task], evidence.reference(task)))
    return steps / steps[-1], np.stack(curves, axis=1)


def matrix(evidence: Evidence, method: str, tasks: list[str]) -> Array:
    """
    Arrange normalised final scores.

    :param evidence: the runs
    :param method: whose
    :param tasks: complete ones
    :return: shape (n_seeds, n_tasks)
    """
    columns = [normalise(evidence.finals(method, t), evidence.random[t], evidence.reference(t)) for t in tasks]
    return np.stack(columns, axis=1)
