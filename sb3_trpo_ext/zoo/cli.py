"""The command line: the RL Zoo's scripts, unchanged and in this process, with our TRPO behind ``--algo trpo``."""

import argparse
import importlib
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType

from gymnasium.error import DependencyNotInstalled
from rl_zoo3 import exp_manager

import sb3_trpo_ext.zoo  # noqa: F401  (registers our TRPO; also when this module is imported on its own)
from sb3_trpo_ext.sb3.errors import CheckpointError, RanksError, WorkerError
from sb3_trpo_ext.sb3.integrity.workers import PatientSubprocVecEnv
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize
from sb3_trpo_ext.zoo import convert_config, preflight, pretrained, screen
from sb3_trpo_ext.zoo.endings import EndedError
from sb3_trpo_ext.zoo.experiment import planned
from sb3_trpo_ext.zoo.plan import Plan, own_flags
from sb3_trpo_ext.zoo.ranks import common_plan
from sb3_trpo_ext.zoo.shown import own_statistics
from sb3_trpo_ext.zoo.study import NO_FINISHED_TRIAL
from sb3_trpo_ext.zoo.yaml_files import ConfigError

# Functions of the Zoo that raise, with nothing begun, when what was typed names nothing that exists
ZOO_INPUT_CHECKS = frozenset({"train", "get_model_path"})


@dataclass(frozen=True)
class Script:
    """
    One of the Zoo's scripts.

    :param summary: one line of help
    :param module: where it lives
    :param function: its function; None where the module itself is the script
    :param defaults: flags put before the user's own, which therefore win
    """

    summary: str
    module: str
    function: str | None
    defaults: tuple[str, ...]


SCRIPTS = {
    "train": Script(
        "train, or search hyperparameters with -optimize", "rl_zoo3.train", "train", ("--algo", "trpo", "-f", "logs")
    ),
    "enjoy": Script("watch a trained agent", "rl_zoo3.enjoy", "enjoy", ("--algo", "trpo", "-f", "logs")),
    "record_video": Script(
        "film a trained agent (no screen needed)", "rl_zoo3.record_video", None, ("--algo", "trpo", "-f", "logs")
    ),
    "plot_train": Script(
        "plot the training reward of runs", "rl_zoo3.plots.plot_train", "plot_train", ("-a", "trpo", "-f", "logs")
    ),
    "all_plots": Script(
        "compare the evaluations of runs", "rl_zoo3.plots.all_plots", "all_plots", ("-a", "trpo", "-f", "logs")
    ),
    "plot_from_file": Script("plot what all_plots has saved", "rl_zoo3.plots.plot_from_file", "plot_from_file", ()),
}


ENDED = (EndedError, RanksError, WorkerError)
"""What ends a training before its time: there is nothing to correct in the command line."""

PLOTS = {"train": "plot_train", "all": "all_plots", "from_file": "plot_from_file"}
"""``plots NAME``: the Zoo's plot scripts by one word."""


def run(arguments: list[str], others: Mapping[str, str] = MappingProxyType({})) -> int:
    """
    Run one script.

    :param arguments: the command line after ``python -m sb3_trpo_ext``
    :param others: commands that are not run from here, for the help: summary by name
    :return: exit code; 2 for a command line that can't be run
    """
    name, *rest = arguments or ["-h"]
    if name in ("-h", "--help"):
        print(_help(others))
        return 0
    if name == "convert-config":
        return convert_config.main(rest)
    if name == "plots":
        name, *rest = [PLOTS.get(rest[0], rest[0]), *rest[1:]] if rest else ["all_plots", "-h"]
    if name not in SCRIPTS:
        return _fail(f"unknown script {name!r}: choose from {', '.join([*SCRIPTS, 'convert-config', *others])}")
    return _run_zoo_script(name, rest)


def _run_zoo_script(name: str, arguments: list[str]) -> int:
    """
    Hand over to the Zoo, which reads ``sys.argv``.

    :param name: a key of ``SCRIPTS``
    :param arguments: the user's own flags
    :return: exit code; 1 where a training has ended before its time, 2 for a command line that can't be run
    """
    plan, suffix = Plan(), ""
    if name in pretrained.SCRIPTS:
        try:
            arguments, suffix = _agent(name, arguments)
        except ValueError as error:
            return _fail(str(error))
    if name in PLOTS.values():
        screen.say_figures()
    if name == "train":
        use_fast_wrappers()
        if {"-h", "--help"} & set(arguments):
            own_flags().print_help()
        else:
            try:
                plan, arguments = common_plan(arguments)
            except (ValueError, RanksError) as error:
                return _fail(str(error))
            if plan.nothing_to_do:
                return 0
        preflight.install(plan.parser)
    sys.argv = [f"python -m sb3_trpo_ext {name}", *SCRIPTS[name].defaults, *_own_config(name, arguments), *arguments]
    try:
        with planned(plan), own_statistics(name) if name in pretrained.SCRIPTS else nullcontext():
            _entry(SCRIPTS[name])()
    except (ModuleNotFoundError, DependencyNotInstalled, *ENDED, AssertionError, ValueError) as error:
        line = _in_one_line(error)
        if line is None:
            raise
        _fail(line + suffix)
        return 1 if isinstance(error, ENDED) else 2
    return 0


def _agent(name: str, arguments: list[str]) -> tuple[list[str], str]:
    """
    Choose which agent is looked at.

    :param name: one of ``pretrained.SCRIPTS``
    :param arguments: the user's own flags
    :return: flags for the Zoo, and what to add where it finds no agent
    :raises ValueError: if ``--pretrained`` asks for one that does not exist
    """
    if {"-h", "--help"} & set(arguments):
        pretrained.own_flags().print_help()
        return arguments, ""
    return pretrained.with_folder(name, arguments), pretrained.hint(arguments)


def _in_one_line(error: Exception) -> str | None:
    """
    Say what a person can mend without a traceback.

    :param error: of a script
    :return: one line; None if the traceback is needed
    """
    if isinstance(error, ModuleNotFoundError):
        plots = error.name in ("seaborn", "rliable")
        return f"the Zoo's plots need {error.name}: pip install 'rl-zoo3[plots]'" if plots else None
    if isinstance(error, DependencyNotInstalled):
        return f"{error} (for gymnasium's own tasks: pip install 'sb3-trpo-ext[zoo,doctor,envs]')"
    if isinstance(error, ConfigError | CheckpointError | RanksError | EndedError | WorkerError):
        return str(error)
    raised_in = traceback.extract_tb(error.__traceback__)[-1].name
    if raised_in == "get_best_trial":
        return NO_FINISHED_TRIAL
    return str(error) if raised_in in ZOO_INPUT_CHECKS else None


def use_fast_wrappers() -> None:
    """Let the Zoo's trainings run in our wrappers, whose results, files and ``isinstance`` are those of SB3's."""
    vars(exp_manager).update(DummyVecEnv=FastDummyVecEnv, SubprocVecEnv=PatientSubprocVecEnv, VecNormalize=FastVecNormalize)


def _entry(script: Script) -> Callable[[], object]:
    """
    Load a script of the Zoo.

    :param script: which one
    :return: what runs it
    """
    if script.function is None:
        return lambda: runpy.run_module(script.module, run_name="__main__")
    entry: Callable[[], object] = getattr(importlib.import_module(script.module), script.function)
    return entry


def _own_config(name: str, arguments: list[str]) -> list[str]:
    """
    Choose our YAML for training, unless another algorithm is trained, which it says nothing about.

    :param name: a key of ``SCRIPTS``
    :param arguments: the user's own flags
    :return: flags
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo", default="trpo")
    algo = parser.parse_known_args(arguments)[0].algo
    return ["--conf-file", "sb3_trpo_ext.zoo"] if name == "train" and algo == "trpo" else []


def _help(others: Mapping[str, str]) -> str:
    """
    List every script.

    :param others: summaries of further commands
    :return: the text of ``-h``
    """
    zoo = {name: script.summary for name, script in SCRIPTS.items()}
    summaries = {**zoo, "convert-config": convert_config.SUMMARY, **others}
    lines = [f"  {name:<15} {summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "usage: python -m sb3_trpo_ext SCRIPT ...        (SCRIPT -h lists what a script takes)",
            "",
            *lines,
            "",
            "`plots train`, `plots all` and `plots from_file` are the three plots.",
            f"The first {len(zoo)} are the RL Zoo's own scripts. Unless you say otherwise they use --algo trpo (ours),",
            "the log folder `logs` and, for train, our hyperparameters (--conf-file sb3_trpo_ext.zoo).",
        ]
    )


def _fail(message: str) -> int:
    """
    Report a command line that can't be run.

    :param message: what is wrong
    :return: exit code 2
    """
    print(f"sb3_trpo_ext: {message}", file=sys.stderr)
    return 2
