"""From a folder to a run: which files there are, which of them is the record, and what follows from it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.arrays import read_evaluations, read_histories
from sb3_trpo_ext.doctor.bounds import is_file
from sb3_trpo_ext.doctor.csv_files import read_episodes, read_rows
from sb3_trpo_ext.doctor.events import read_events
from sb3_trpo_ext.doctor.examine import Examiner
from sb3_trpo_ext.doctor.finding import Finding, worst_first
from sb3_trpo_ext.doctor.points import layers_of, point_of
from sb3_trpo_ext.doctor.recorder_files import DumpHeader, dump_findings, read_alarms, read_dumps
from sb3_trpo_ext.doctor.reports import read_reports
from sb3_trpo_ext.doctor.run import OURS, Run
from sb3_trpo_ext.doctor.tables import STAND_INS, Joined, Row, updates_in
from sb3_trpo_ext.doctor.wandb_files import SUFFIX, read_wandb
from sb3_trpo_ext.doctor.zoo_files import FILES, read_settings
from sb3_trpo_ext.monitoring.run_files import ALARMS_NAME, CSV_NAME, RECORD_NAME, SPARE_CSV_NAME, WIDTHS

DUMPS = "dumps"
EVALUATIONS = "evaluations.npz"
EVENTS = "events.out.tfevents."
MONITOR = "monitor.csv"

FINISHED = 0.95
"""Share of the steps that a run was asked for: sb3-contrib never logs its last update."""

MAX_ENTRIES = 5000
"""Of one folder."""


def listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """
    List a folder.

    :param folder: the folder
    :return: its regular files and its folders (no links to such), by name
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(islice(entries, MAX_ENTRIES), key=lambda entry: entry.name)
            folders = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
            return [Path(entry.path) for entry in found if is_file(Path(entry.path))], folders
    except OSError:
        return [], []


def is_record(path: Path) -> bool:
    """
    Whether a file makes its folder a run's.

    :param path: the file
    :return: whether it does
    """
    names = (RECORD_NAME, CSV_NAME, SPARE_CSV_NAME, ALARMS_NAME, EVALUATIONS, MONITOR, *WIDTHS)
    return path.name in names or path.name.endswith(f".{MONITOR}") or path.name.startswith(EVENTS) or path.suffix == SUFFIX


def read_run(folder: Path, events: Iterable[Path] = (), target_kl: float | None = None) -> Run:
    """
    Read everything that a run has left.

    :param folder: its folder
    :param events: event files elsewhere that are its
    :param target_kl: its target_kl, if its files don't say
    :return: what is known, the findings worst first
    """
    run = Run(folder)
    files, folders = listing(folder)
    names = {path.name: path for path in files}
    for place in (folder, *folders):
        if any(is_file(place / name) for name in FILES):
            read_settings(run, place)
    if target_kl is not None:
        run.settings.setdefault("target_kl", target_kl)
    try:
        _read_files(run, names, [*(path for path in files if path.name.startswith(EVENTS)), *events])
        dumps = read_dumps(run, folder / DUMPS) if (folder / DUMPS).is_dir() else []
    except OSError as error:
        run.find("DR002", folder, why=str(error))
        dumps = []
    _conclude(run, names, dumps)
    return run


def _read_files(run: Run, names: dict[str, Path], events: list[Path]) -> None:
    if RECORD_NAME in names:
        run.algorithm = OURS
        _examine(run, read_reports(run, names[RECORD_NAME]), target_known=True)
    for path in (names[name] for name in (SPARE_CSV_NAME, CSV_NAME) if name in names):
        _rows(run, partial(read_rows, path=path))
    if events:
        _rows(run, partial(read_events, paths=events))
    for path in (path for name, path in names.items() if name.endswith(SUFFIX)):
        _rows(run, partial(read_wandb, path=path))
    monitors = [path for name, path in names.items() if name == MONITOR or name.endswith(f".{MONITOR}")]
    if monitors:
        # Every episode, where the loggers have means at every rollout.
        run.returns = type(run.returns)()
        read_episodes(run, monitors)
    if EVALUATIONS in names:
        run.evaluations = type(run.evaluations)()
        read_evaluations(run, names[EVALUATIONS])
    histories = read_histories(run, run.path)
    if histories and not run.points.seen:
        _take_histories(run, histories)


def _rows(run: Run, rows_of: Callable[[Run], Iterator[Row]]) -> None:
    """Take from a logger's rows what no better file has told; what is wrong with it is told in any case."""
    told = Run(run.path, run.algorithm, run.settings)
    joined = Joined(told)
    target = run.settings.get("target_kl")
    _examine(told, updates_in(told, rows_of(told), joined), target_known=target is not None)
    if joined.not_finite and all(finding.code != "DR008" for finding in run.findings):
        update, steps = min(joined.not_finite.values())
        keys = ", ".join(sorted(joined.not_finite)[:6])
        run.findings.append(Finding("DR008", {"keys": keys}, since_update=update, since_steps=steps))
    if told.algorithm != OURS:
        told.findings = [_without_stand_ins(finding) for finding in told.findings]
    if told.points.seen and not run.points.seen:
        run.points, run.algorithm, run.starts, run.n_updates = told.points, told.algorithm, told.starts, told.n_updates
        run.findings += told.findings
        if target is None:
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
    examiner = Examiner(target_known)
    for report in reports:
        examiner.look(report)
        run.points.append(point_of(report, target_known))
        layers = layers_of(report)
        if layers:
            run.layers.append(layers)
        run.n_updates = max(run.n_updates, report.n_updates)
        run.num_timesteps = max(run.num_timesteps, report.num_timesteps)
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
    for update in range(max(map(len, histories.values()))):
        point = {"update": float(update + 1), "steps": float(update + 1)}
        for name, history in histories.items():
            if update < len(history):
                values = np.atleast_1d(history[update]).tolist()
                point |= {key: v for key, v in zip(columns[name], values, strict=True) if math.isfinite(v)}
        run.points.append(point)
    run.n_updates = run.points.seen


def _conclude(run: Run, names: dict[str, Path], dumps: list[DumpHeader]) -> None:
    """What follows from several files together."""
    found = {finding.code for finding in run.findings}
    if ALARMS_NAME in names:
        for recorded in read_alarms(run, names[ALARMS_NAME]):
            if recorded.code not in found:
                # Raised with thresholds of the user's own.
                run.findings.append(recorded)
                run.starts.append((recorded.code, recorded.since_update or 0, recorded.since_steps or 0))
    replays = {reason.removeprefix("alarm "): dump.replay for dump in reversed(dumps) for reason in dump.reasons}
    run.findings = [dataclasses.replace(f, replay=f.replay or replays.get(f.code)) for f in run.findings]
    run.findings += dump_findings(dumps, run.n_updates)
    told = run.points.seen or run.returns.seen or run.evaluations.seen
    if not told and not run.findings:
        run.find("DR001")
    elif not run.points.seen and told:
        run.find("DR007")
    asked = run.settings.get("n_timesteps")
    if asked is not None and run.points.seen and run.num_timesteps < FINISHED * asked:
        run.find("DR009", steps=run.num_timesteps, of=int(asked))
    run.findings = worst_first(run.findings)
