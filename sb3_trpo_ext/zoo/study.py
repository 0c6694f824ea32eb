"""Optuna studies of the Zoo's ``-optimize``: what ``--storage``, ``--study-name`` and ``--trial-id`` name must be there."""

import argparse
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from sb3_trpo_ext.zoo.yaml_files import ConfigError

NO_FINISHED_TRIAL = (
    "no trial of this study is finished, so there is no best one to report: if other workers are still at theirs, nothing is "
    "wrong; if all failed or were pruned, their worker's output says why"
)
"""Said where the Zoo would end in Optuna's traceback: a worker that came when the last trials had been given out."""


def check_trial(args: argparse.Namespace) -> None:
    """
    Judge the trial whose settings are to be trained. The Zoo trains other settings without a word where a flag is missing.

    :param args: flags of the Zoo's ``train``
    :raises ConfigError: if ``--trial-id`` names no trial
    """
    trial = args.trial_id
    if trial is None:
        return
    if not args.storage or not args.study_name:
        raise ConfigError(f"--trial-id {trial}: needs --storage and --study-name, which say where the trial is")
    if trial == 0:
        raise ConfigError(
            "--trial-id 0: the RL Zoo reads 0 as none; train those settings by a YAML entry (report_*.csv has them)"
        )
    study = _open(args.storage, args.study_name)
    if not 0 < trial < len(study.trials):
        raise ConfigError(f"--trial-id {trial}: study {args.study_name} has the trials 1 to {len(study.trials) - 1} and 0")


def _open(storage: str, name: str) -> optuna.Study:
    file = Path(storage.removeprefix("sqlite:///"))
    is_journal = storage.endswith(".log")
    if (is_journal or storage.startswith("sqlite:///")) and not file.is_file():  # Optuna would make it
        raise ConfigError(f"--storage {storage}: there is no such file")
    try:
        there = optuna.storages.JournalStorage(JournalFileBackend(storage)) if is_journal else storage
        return optuna.load_study(storage=there, study_name=name)
    except KeyError as error:
        names = ", ".join(optuna.get_all_study_names(there)) or "none"
        raise ConfigError(f"--study-name {name}: no such study in --storage {storage} (it has: {names})") from error
    except Exception as error:  # of a database's driver
        raise ConfigError(f"--storage {storage}: can't be read: {' '.join(str(error).split())}") from error
