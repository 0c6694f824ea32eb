"""From a folder to a run: which files there are, which of them is the record, and what follows from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.arrays import read_evaluations, read_histories
from sb3_trpo_ext.doctor.bounds import BLOCKS, MAX_FILES, MAX_SETTINGS, Limits, is_file
from sb3_trpo_ext.doctor.conclude import conclude
from sb3_trpo_ext.doctor.csv_files import evenly, read_episodes, read_rows
from sb3_trpo_ext.doctor.events import read_events
from sb3_trpo_ext.doctor.examine import Examiner
from sb3_trpo_ext.doctor.finding import Finding
from sb3_trpo_ext.doctor.folders import DUMPS, EVALUATIONS, EVENTS, MONITOR, is_record, listing
from sb3_trpo_ext.doctor.points import JointUnit, layers_of, point_of
from sb3_trpo_ext.doctor.recorder_files import DumpHeader, read_alarms, read_dumps
from sb3_trpo_ext.doctor.reports import read_reports
from sb3_trpo_ext.doctor.run import CONTRIB, OURS, Run
from sb3_trpo_ext.doctor.tables import STAND_INS, Joined, Row, updates_in
from sb3_trpo_ext.doctor.wandb_files import SUFFIX, affordable, read_wandb
from sb3_trpo_ext.doctor.zoo_files import FILES, read_settings
from sb3_trpo_ext.records.files import ALARMS_NAME, CSV_NAME, RECORD_NAME, SPARE_CSV_NAME


def settings_in(folder: Path) -> dict[str, Any]:
    """
    Read what the Zoo has written of a run's settings.

    :param folder: the run's
    :return: by name
    """
    run = Run(folder)
    _read_settings(run, listing(folder).folders)
    return run.settings


def _read_settings(run: Run, folders: list[Path]) -> None:
    """The Zoo's are in one folder below the run's."""
    below = next((place for place in folders[:MAX_SETTINGS] if _has_settings(place)), None)
    for place in (run.path, below):
        if place is not None and _has_settings(place):
            read_settings(run, place)


def _has_settings(folder: Path) -> bool:
    return any(is_file(folder / name) for name in FILES)


def read_run(folder: Path, events: Iterable[Path] = (), target_kl: float | None = None, limits: Limits | None = None) -> Run:
    """
    Read everything that a run has left.

    :param folder: its folder
    :param events: event files elsewhere that are its
    :param target_kl: its target_kl, if its files don't say
    :param limits: how much of it is read; None: as much as of a run alone
    :return: what is known, the findings worst first
    """
    run = Run(folder, limits=limits or Limits())
    there = listing(folder)
    if there.problem:
        run.find("DR002", folder, why=there.problem)
    _read_settings(run, there.folders)
    if target_kl is not None:
        run.settings.setdefault("target_kl", target_kl)
    names = {path.name: path for path in there.files}
    _read_record(run, names, [*(path for path in there.files if path.name.startswith(EVENTS)), *events])
    _read_returns(run, names)
    dumps: list[DumpHeader] = []
    if folder / DUMPS in there.folders:
        _guarded(run, folder / DUMPS, lambda: dumps.extend(read_dumps(run, folder / DUMPS)))
    alarms: list[Finding] = []
    if ALARMS_NAME in names:
        _guarded(run, names[ALARMS_NAME], lambda: alarms.extend(read_alarms(run, names[ALARMS_NAME])))
    conclude(run, alarms, dumps, any(map(is_record, there.files)) or bool(events))
    return run


def _guarded(run: Run, path: Path, read: Callable[[], object]) -> None:
    """A file that can't be read leaves the others to be read."""
    try:
        read()
    except OSError as error:
        run.find("DR002", path, why=error.strerror or str(error))


def _read_record(run: Run, names: dict[str, Path], events: list[Path]) -> None:
    """What tells of updates, the best first."""
    if RECORD_NAME in names:
        run.algorithm = OURS
        path = names[RECORD_NAME]
        _guarded(run, path, lambda: _examine(run, read_reports(run, path), target_known=True))
    for path in (names[name] for name in (SPARE_CSV_NAME, CSV_NAME) if name in names):
        _guarded(run, path, partial(_rows, run, partial(read_rows, path=path)))
    if events:
        _guarded(run, events[0], partial(_rows, run, partial(read_events, paths=events)))
    wandb_files = _some(run, [path for name, path in names.items() if name.endswith(SUFFIX)], "files of W&B")
    for path in affordable(run, wandb_files):
        _guarded(run, path, partial(_rows, run, partial(read_wandb, path=path)))
    histories = read_histories(run, run.path)
    if histories and not run.points.seen:
        _take_histories(run, histories)


def _read_returns(run: Run, names: dict[str, Path]) -> None:
    """Better sources of what loggers have told too: every episode, where they have means at every rollout."""
    monitors = [path for name, path in names.items() if name == MONITOR or name.endswith(f".{MONITOR}")]
    told, run.returns = run.returns, run.empty()
    read_episodes(run, _some(run, monitors, "Monitor files", harmless=True))
    run.returns = run.returns if run.returns.seen else told
    if EVALUATIONS in names:
        told, run.evaluations = run.evaluations, run.empty()
        _guarded(run, names[EVALUATIONS], lambda: read_evaluations(run, names[EVALUATIONS]))
        run.evaluations = run.evaluations if run.evaluations.seen else told


def _some(run: Run, paths: list[Path], what: str, harmless: bool = False) -> list[Path]:
    if len(paths) > MAX_FILES:
        run.left_out(f"{len(paths) - MAX_FILES} of {len(paths)} {what}", harmless=harmless)
    return paths[:MAX_FILES]


def _rows(run: Run, rows_of: Callable[[Run], Iterator[Row]]) -> None:
    """Take from a logger's rows what no better file has told; what is wrong with it is told in any case."""
    told = Run(run.path, run.algorithm, run.settings, run.limits)
    joined = Joined(told, judged=not run.points.seen)
    target = run.settings.get("target_kl")
    try:
        _examine(told, updates_in(told, rows_of(told), joined), target_known=target is not None)
    finally:
        _take(run, told, joined, target is not None)


def _take(run: Run, told: Run, joined: Joined, target_known: bool) -> None:
    if joined.not_finite and all(finding.code != "DR008" for finding in run.findings):
        update, steps = min(joined.not_finite.values())
        keys = ", ".join(sorted(joined.not_finite)[:6])
        run.findings.append(Finding("DR008", {"keys": keys}, since_update=update, since_steps=steps))
    if told.algorithm != OURS:
        told.findings = [_without_stand_ins(finding) for finding in told.findings]
    if told.points.seen and not run.points.seen:
        run.points, run.algorithm, run.starts, run.n_updates = told.points, told.algorithm, told.starts, told.n_updates
        run.judged = told.judged
        run.findings += told.findings
        if not target_known:
            run.find("DR011")
    else:
        run.findings += [finding for finding in told.findings if finding.file is not None]
    run.returns = run.returns if run.returns.seen else told.returns
    run.evaluations = run.evaluations if run.evaluations.seen else told.evaluations
    run.num_timesteps = max(run.num_timesteps, told.num_timesteps)


def _without_stand_ins(finding: Finding) -> Finding:
    evidence = {name: value for name, value in finding.evidence.items() if name not in STAND_INS and value != "none"}
    return dataclasses.replace(finding, evidence=evidence)


def _examine(run: Run, reports: Iterable[UpdateReport], target_known: bool) -> None:
    examiner, unit = Examiner(target_known), JointUnit()
    for report in reports:
        if examiner.seen >= run.limits.rows + 2 * BLOCKS:
            run.left_out(f"updates from {report.n_updates} on")
            break
        examiner.look(report)
        unit.see(report)
        if run.algorithm == CONTRIB:
            # What stands for its joint KL is in its own unit, as δ is.
            unit.factor = 1.0
        run.points.append(point_of(report, unit if target_known else None))
        layers = layers_of(report)
        if layers:
            run.layers.append(layers)
        run.n_updates = max(run.n_updates, report.n_updates)
        run.num_timesteps = max(run.num_timesteps, report.num_timesteps)
    run.judged += examiner.seen
    run.findings += examiner.findings()
    run.starts += [*examiner.starts]
    if examiner.unjudged:
        run.find("DR003", why="figures that no update has", judgements_left_out=examiner.unjudged)


def _take_histories(run: Run, histories: dict[str, np.ndarray]) -> None:
    """Where nothing else is left, four arrays still tell something; steps are unknown, so updates are counted."""
    run.algorithm = OURS
    columns = {
        "kl.npy": ("kl_joint",),
        "entropy.npy": ("entropy",),
        "vf_loss.npy": ("value_loss_before", "value_loss_after"),
        "advantages.npy": tuple(f"advantage_{name}" for name in ("mean", "std", "min", "q05", "q50", "q95", "max")),
    }
    run.n_updates = max(map(len, histories.values()))
    for update in evenly(run.n_updates, run.limits.points):
        point = {"update": float(update + 1), "steps": float(update + 1)}
        for name, history in histories.items():
            if update < len(history):
                values = np.atleast_1d(history[update]).tolist()
                point |= {key: v for key, v in zip(columns[name], values, strict=True) if math.isfinite(v)}
        run.points.append(point)
