"""Finished trials as a CSV that is committed, and the studies on the screen."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import optuna
from evidence.store import write_whole
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from sb3_trpo_ext.zoo.search_space import Params
from tuning.points import CURRENT
from tuning.pruner import QUARTERS
from tuning.study import Tuning, best_trials, finished_trials, open_study

Row = dict[str, Any]

PARAMETERS = (
    *("target_kl", "cg_damping", "n_envs", "rollout", "gamma", "gae_lambda", "n_critic_updates", "learning_rate"),
    *("learning_rate_schedule", "batch_size", "pi_width", "vf_width", "activation_fn", "log_std_init", "ortho_init"),
    *("cg_max_steps", "cg_preconditioner", "norm_obs", "norm_reward"),
)
_HEAD = ("task", "study", "trial", "point", "state", "value", "rungs")
_TAIL = ("reason", "seconds", "cpu_seconds", "numerics_version", "commit", "dirty", "finished")


def readable(params: Params) -> Row:
    """
    Write a trial's parameters as what they stand for.

    :param params: as the trial stores them
    :return: columns ``PARAMETERS``; rollout is n_envs * n_steps
    """
    values = {
        **params,
        "rollout": 2 ** params["rollout_pow"],
        "batch_size": 2 ** params["batch_size_pow"],
        "gamma": 1 - params["one_minus_gamma"],
        "gae_lambda": 1 - params["one_minus_gae_lambda"],
    }
    return {name: values[name] for name in PARAMETERS}


def trial_row(tuning: Tuning, trial: FrozenTrial) -> Row:
    """
    Sum up a trial.

    :param tuning: its study
    :param trial: a finished trial
    :return: a row of the CSV
    """
    attributes = trial.user_attrs
    rungs = [trial.intermediate_values[rung] for rung in sorted(trial.intermediate_values)]
    origin = {
        key: attributes.get(key)
        for key in ("point", "reason", "seconds", "cpu_seconds", "numerics_version", "commit", "dirty")
    }
    seeds = {f"seed_{seed}": attributes[f"seed_{seed}"][-1] for seed in tuning.seeds if f"seed_{seed}" in attributes}
    return {
        "task": tuning.task,
        "study": tuning.name,
        "trial": trial.number,
        **origin,
        "point": origin["point"] or attributes.get("imported"),
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "rungs": " ".join(f"{value:.5g}" for value in rungs),
        **seeds,
        "finished": trial.datetime_complete.isoformat(timespec="seconds") if trial.datetime_complete else None,
        **readable(trial.params),
    }


def export(tunings: list[Tuning], folder: Path) -> str:
    """
    Write finished trials; rows of other studies, and of journals that are gone, stay.

    :param tunings: whose trials
    :param folder: of ``tuning_trials.csv``
    :return: what was done, in words
    """
    path = folder / "tuning_trials.csv"
    rows: dict[tuple[str, str], Row] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {(row["study"], row["trial"]): row for row in csv.DictReader(file)}
    before = len(rows)
    for tuning in tunings:
        for trial in finished_trials(open_study(tuning)):
            rows[tuning.name, str(trial.number)] = {
                key: f"{value:.6g}" if isinstance(value, float) else value for key, value in trial_row(tuning, trial).items()
            }
    seeds = sorted({key for row in rows.values() for key in row if key.startswith("seed_")})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_HEAD, *seeds, *_TAIL, *PARAMETERS], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows, key=lambda key: (key[0], int(key[1]))))
    write_whole(path, text.getvalue())
    return f"{path.name}: {len(rows)} trials, {len(rows) - before} new"


def show_status(tunings: list[Tuning], console: Console) -> None:
    """
    Show the studies, and each one's best trials.

    :param tunings: which
    :param console: where
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    for name in ("trials", "whole", "bad", "CPU h", "current", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    best: list[str] = []
    for tuning in tunings:
        study = open_study(tuning)
        table.add_row(tuning.task, *_status_cells(study, tuning))
        best += [f"{tuning.task} trial {trial.number}: {show_settings(trial)}" for trial in best_trials(study, 1)]
    console.print(table)
    console.print("whole: every seed trained; bad: refused or died; current, best: mean ± std of the seeds", style="dim")
    for line in best:
        console.print(line, highlight=False)


def _status_cells(study: optuna.Study | None, tuning: Tuning) -> list[str]:
    finished = finished_trials(study)
    whole = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    # A rung tells a pruned trial from one that its settings ended
    trials = [] if study is None else study.get_trials(deepcopy=False)
    reasons = [str(trial.user_attrs["reason"]) for trial in trials if "reason" in trial.user_attrs]
    bad = [reason for reason in reasons if not reason.startswith("rung ")]
    hours = sum(trial.user_attrs.get("cpu_seconds", 0) for trial in finished) / 3_600
    controls = [trial for trial in whole if trial.user_attrs.get("point") == CURRENT]
    values = (show_value(some[-1] if some else None, tuning) for some in (controls, best_trials(study, 1)))
    return [*map(str, (len(finished), len(whole), len(bad))), f"{hours:.1f}", *values]


def show_value(trial: FrozenTrial | None, tuning: Tuning) -> str:
    """
    Write a trial's value.

    :param trial: a whole trial, or None
    :param tuning: its study
    :return: mean ± standard deviation of its seeds
    """
    if trial is None:
        return "-"
    scores = [trial.user_attrs[f"seed_{seed}"][QUARTERS - 1] for seed in tuning.seeds]
    digits = 0 if abs(trial.value or 0) >= 1_000 else 1
    return f"{trial.value:,.{digits}f} ± {statistics.stdev(scores):,.{digits}f}"


def show_settings(trial: FrozenTrial) -> str:
    """
    Write what matters most of a trial's settings.

    :param trial: a trial
    :return: in one line
    """
    values = readable(trial.params)
    return (
        f"δ {values['target_kl']:.3g}  λ {values['cg_damping']:.3g}  {values['n_envs']} × "
        f"{values['rollout'] // values['n_envs']}  γ {values['gamma']:.5g}  GAE {values['gae_lambda']:.3g}"
    )
