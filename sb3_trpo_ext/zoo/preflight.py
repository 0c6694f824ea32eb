"""
Before the Zoo trains: its own flags and configuration, judged before it makes anything (a W&B run, a folder, workers).

The Zoo's parser is the Zoo's, so the check hangs on it: as soon as the flags are parsed, the configuration is read as the Zoo
will read it, and one environment and the model are made and closed again, without a trace.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import gymnasium as gym
import rl_zoo3.train
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import EnvironmentName

from sb3_trpo_ext.sb3.arguments.naming import maybe
from sb3_trpo_ext.sb3.arguments.validation import LARGEST_SEED, OF_SB3, SIZE, Rule, is_integer, refuse_impossible
from sb3_trpo_ext.zoo.entry import check_entry
from sb3_trpo_ext.zoo.rehearsal import manager_of, rehearse, silent
from sb3_trpo_ext.zoo.resumed import Resumed
from sb3_trpo_ext.zoo.study import check_trial
from sb3_trpo_ext.zoo.threads import choose_threads
from sb3_trpo_ext.zoo.wandb_mode import say_wandb_mode
from sb3_trpo_ext.zoo.yaml_files import ConfigError, read_yaml

FLAGS: dict[str, Rule] = {
    "device": OF_SB3["device"],
    "seed": Rule(lambda value: is_integer(value, -1) and value <= LARGEST_SEED, f"an integer in [-1, {LARGEST_SEED}]"),
    "n_timesteps": Rule(lambda value: value == -1 or is_integer(value, 1), "an integer >= 1"),
    **dict.fromkeys(("n_eval_envs", "eval_episodes", "n_trials"), SIZE),
}
"""Flags that the Zoo takes as they come."""


class CheckingParser(argparse.ArgumentParser):
    """The Zoo's parser; what is wrong is one line instead of a page of usage, and is found before anything is made."""

    resumed: ClassVar[Resumed | None] = None
    """Of a run that goes on: what it is made of, whatever the configuration says now."""

    def error(self, message: str) -> NoReturn:
        """
        Refuse a command line.

        :param message: what is wrong with it
        :raises ConfigError: saying so
        """
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = next((word for word in message.split() if word.startswith("-")), "")
        near = maybe(wrong, flags) if message.startswith("unrecognized") and wrong else ""
        raise ConfigError(f"{message}{near} (-h lists the flags)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """
        Parse, and judge what was parsed.

        :param args: the command line
        :param namespace: as of argparse
        :return: the flags
        :raises ConfigError: for the first mistake
        """
        try:
            parsed = super().parse_args(args, namespace)
        except (SyntaxError, NameError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"-params and --env-kwargs take name:value with a Python value ({error}): text needs quotes, as in "
                "policy:\"'MlpPolicy'\""
            ) from error
        check(parsed, self.resumed)
        if parsed.track:
            say_wandb_mode()
        return parsed


def install(parser: type[argparse.ArgumentParser] = CheckingParser) -> None:
    """
    Let the Zoo's trainings be judged before they begin.

    :param parser: what is to parse and judge
    """
    checking = types.SimpleNamespace(**{**vars(argparse), "ArgumentParser": parser})
    vars(rl_zoo3.train).update(argparse=checking)


class _Judged(Exception):
    """Nothing is wrong; the rest is not wanted."""


class _JudgingParser(CheckingParser):
    """Stops the Zoo's ``train`` where its flags are parsed."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        super().parse_args(args, namespace)
        raise _Judged


def judge_command_line() -> None:
    """
    Judge this process's command line, which the Zoo has parsed and has not used yet: for ``python -m rl_zoo3.train``, which
    imports us when it comes to ``--gym-packages``. The Zoo's module is there twice then, as ``__main__`` and by its name:
    the second is used.

    :raises SystemExit: for the first mistake: exit code 2, one line on stderr
    """
    install(_JudgingParser)
    try:
        rl_zoo3.train.train()
    except _Judged:
        return
    except ConfigError as error:
        print(f"sb3_trpo_ext: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        vars(rl_zoo3.train).update(argparse=argparse)


def check(args: argparse.Namespace, resumed: Resumed | None = None) -> None:
    """
    Judge a command line of the Zoo's ``train``.

    :param args: its flags; those of other algorithms than ours are not judged
    :param resumed: of a run that goes on
    :raises ConfigError: for the first mistake
    """
    if args.algo != "trpo":
        return
    try:
        refuse_impossible({name: value for name, value in vars(args).items() if name in FLAGS}, FLAGS, "train")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _check_folder("--log-folder", args.log_folder, args.algo)
    _check_folder("--tensorboard-log", "runs" if args.track else args.tensorboard_log, args.env)
    _check_folder("--optimization-log-path", args.optimization_log_path)
    _import_packages(args.gym_packages)
    if args.env not in gym.registry:
        module, colon, name = args.env.rpartition(":")
        near = f"; the Zoo wants --gym-packages {module} --env {name}" if colon else maybe(args.env, gym.registry)
        raise ConfigError(f"--env {args.env}: no environment is registered under this id{near}")
    if resumed is not None:
        _check_resumed(args, resumed)
        return
    check_trial(args)
    entries = _entries(args.conf_file)
    manager = manager_of(args)
    entry, where = _entry(manager, args, entries)
    check_entry(entry, where)
    model = rehearse(manager, entry, where, args.verbose)
    if model is not None:
        choose_threads(model.policy, args.num_threads)
    if entries is not None and args.env not in entries and not where.endswith("atari"):
        print(
            f"sb3_trpo_ext: {args.conf_file} has no entry {args.env}{maybe(args.env, entries)}: `default` is used",
            file=sys.stderr,
        )


def _check_resumed(args: argparse.Namespace, resumed: Resumed) -> None:
    """Its model is the checkpoint's, and the configuration is not used: what it says otherwise is told, and not judged."""
    manager = manager_of(args)
    try:
        asked = _entry(manager, args, _entries(args.conf_file))[0]
    except ConfigError:
        asked = args.hyperparams or {}
    ignored = resumed.not_applied(asked)
    if ignored:
        print(ignored, file=sys.stderr)
    manager.continue_training = True
    rehearse(manager, resumed.entry(), str(resumed.path), args.verbose)


def _check_folder(flag: str, given: str | None, inside: str = "") -> None:
    """Refuse a folder that can't be made or written to; nothing is made."""
    if not given:
        return
    folder = Path(given, EnvironmentName(inside))
    there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written to" if there.is_dir() else "is not a directory"
        raise ConfigError(f"{flag} {given}: {there} {why}")


def _import_packages(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever an import runs
            raise ConfigError(f"--gym-packages {name}: can't be imported: {' '.join(str(error).split())}") from error


def _entries(conf_file: str | None) -> dict[str, Any] | None:
    """Read strictly what the Zoo will read: all entries, or None for the Zoo's own file."""
    if conf_file is None:
        return None
    what = f"--conf-file {conf_file}"
    if conf_file.endswith((".yml", ".yaml")):
        entries = read_yaml(Path(conf_file))
    elif conf_file.endswith(".py"):
        if not Path(conf_file).is_file():
            raise ConfigError(f"{what}: there is no such file")
        return None  # code: the Zoo runs it
    else:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                entries = importlib.import_module(conf_file).hyperparams
        except ModuleNotFoundError as error:
            raise ConfigError(f"{what}: is no .yml, .yaml or .py file, and no module can be imported by that name") from error
        except AttributeError as error:
            raise ConfigError(f"{what}: the module has no dictionary `hyperparams`") from error
    if not isinstance(entries, dict):
        raise ConfigError(f"{what}: must map each environment id to its hyperparameters")
    return entries


def _entry(manager: ExperimentManager, args: argparse.Namespace, entries: dict[str, Any] | None) -> tuple[Any, str]:
    """What the Zoo will use: the entry with a trial and ``-params`` over it; and where it stands."""
    key = args.env
    if entries is not None and key not in entries:
        key = "atari" if manager.is_atari(args.env) and "atari" in entries else "default"
        if key not in entries:
            raise ConfigError(f"{args.conf_file}: has no entry {args.env}, and no `default`{maybe(args.env, entries)}")
    where = f"{args.conf_file or 'the configuration'}: {key}"
    if entries is not None and not isinstance(entries[key], dict):
        raise ConfigError(f"{where}: must be hyperparameters by name")
    with silent():
        try:
            return manager.read_hyperparameters()[0], where
        except Exception as error:  # of a study, or of code in a .py
            raise ConfigError(f"{where}: can't be read: {' '.join(str(error).split()) or type(error).__name__}") from error
