"""Which settings an implementation has on a task: the RL Zoo's files, ours, and the way between them."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3.import_envs  # registers the Zoo's own environments
import sb3_contrib
import yaml

from evidence.runs import Run
from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.zoo import config_file
from sb3_trpo_ext.zoo.convert_config import ConfigError, convert_entry, own_arguments

ZOO_FILES = Path(rl_zoo3.import_envs.__file__).parent / "hyperparams"
# The Zoo's other MuJoCo entries are copies of this one (`&mujoco-defaults`) with a change or two.
ZOO_MUJOCO_DEFAULTS = "Ant-v4"
# Keys of an entry that are no constructor argument of sb3-contrib's TRPO.
ZOO_KEYS = frozenset(
    {"normalize", "n_envs", "n_timesteps", "env_wrapper", "vec_env_wrapper", "frame_stack", "env_kwargs", "monitor_kwargs",
     "callback", "policy"}
)  # fmt: skip
Entry = dict[str, Any]


class BadInput(ValueError):
    """Something on the command line can't be run."""


@cache
def _read(path: Path) -> dict[str, Entry]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise BadInput(f"{path}: not a Zoo YAML: it must map each environment id to its hyperparameters")
    return entries


@cache
def check_task(task: str) -> bool:
    """
    Make sure that an environment can be made.

    :param task: environment id
    :return: whether MuJoCo simulates it
    :raises BadInput: if it can't be made
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gym.make(task).close()
    except Exception as error:  # whatever a third party's environment raises
        raise BadInput(f"{task}: {' '.join(str(error).split())}") from error
    return "mujoco" in str(gym.spec(task).entry_point)


def zoo_entry(algorithm: str, task: str) -> tuple[Entry, str] | None:
    """
    Find the Zoo's own settings for a task.

    Its MuJoCo entries are for older versions: the newest older one is copied. A MuJoCo task that its TRPO file has under no
    version gets what all the others there are copies of.

    :param algorithm: "trpo" or "ppo"
    :param task: environment id
    :return: settings and the key they stand under; None if the Zoo has none
    """
    entries = _read(ZOO_FILES / f"{algorithm}.yml")
    is_mujoco = check_task(task)
    candidates = [task]
    version = re.fullmatch(r"(.+)-v(\d+)", task)
    if is_mujoco and version:
        candidates += [f"{version[1]}-v{older}" for older in range(int(version[2]) - 1, -1, -1)]
    if is_mujoco and algorithm == "trpo":
        candidates.append(ZOO_MUJOCO_DEFAULTS)
    found = next((key for key in candidates if key in entries), None)
    return None if found is None else (dict(entries[found]), f"rl_zoo3 {algorithm}.yml {found}")


def our_entry(task: str, path: Path | None = None) -> tuple[Entry, str]:
    """
    Find our settings for a task.

    :param task: environment id
    :param path: a Zoo YAML; None for ``zoo_configs/trpo.yml``
    :return: settings, and where they stand
    :raises BadInput: if there are none
    """
    path = path or config_file()
    entries = _read(path)
    if task not in entries:
        close = difflib.get_close_matches(task, entries, n=1)
        raise BadInput(f"{path.name} has no entry {task}" + (f": you maybe meant {close[0]}" if close else ""))
    return dict(entries[task]), f"{path.name} {task}"


def parse_overrides(texts: list[str], option: str = "--set") -> Entry:
    """
    Read ``--set KEY=VALUE``.

    :param texts: what was typed; values are YAML
    :param option: of the command line, for errors
    :return: settings to change
    :raises BadInput: for anything else
    """
    overrides = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise BadInput(f"{option} takes KEY=VALUE, not {text!r}")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"{option} {text}: {' '.join(str(error).split())}") from error
        if isinstance(overrides[key], str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", value):
            overrides[key] = float(value)  # YAML 1.1 reads 1e-3 as text
    return overrides


def show_overrides(overrides: Entry) -> str:
    """
    Write overrides for a column.

    :param overrides: settings that were changed
    :return: ``key=value``, sorted
    """
    return " ".join(f"{key}={overrides[key]}" for key in sorted(overrides))


def make_run(
    implementation: str, task: str, seed: int, steps: int, overrides: Entry | None = None, path: Path | None = None
) -> Run | None:
    """
    Make a run with complete settings.

    :param implementation: "ours", "ours-plain-cg"; "contrib-ours": sb3-contrib with our settings, converted; "contrib-zoo",
        "ppo-zoo"
    :param task: environment id
    :param seed: random seed
    :param steps: environment steps
    :param overrides: changes of our settings; the Zoo's stay as they are
    :param path: a Zoo YAML of ours; None for ``zoo_configs/trpo.yml``
    :return: the run; None if the Zoo has no settings for this task
    :raises BadInput: if we have none, or an override names no argument
    """
    check_task(task)
    if implementation in ("contrib-zoo", "ppo-zoo"):
        found = zoo_entry("ppo" if implementation == "ppo-zoo" else "trpo", task)
        return None if found is None else Run(task, seed, implementation, steps, *found)
    overrides = overrides or {}
    refuse_unknown(overrides)
    entry, source = our_entry(task, path)
    entry |= overrides
    version: int | None = NUMERICS_VERSION
    if implementation == "contrib-ours":
        try:
            entry, version = convert_entry(task, entry, "mean"), None
        except ConfigError as error:
            raise BadInput(str(error)) from error
    # What sb3-contrib does not know has been dropped: there it is no override
    kept = {key: value for key, value in overrides.items() if key in entry}
    return Run(task, seed, implementation, steps, entry, source, show_overrides(kept), version)


def refuse_unknown(overrides: Entry, option: str = "--set") -> None:
    """
    Let no setting that nobody reads pass for one that was tried.

    :param overrides: settings to change
    :param option: of the command line, for errors
    :raises BadInput: naming the first that does not exist
    """
    known = set(inspect.signature(sb3_contrib.TRPO).parameters) | own_arguments() | ZOO_KEYS
    for key in overrides:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise BadInput(f"{option} {key}: no such setting" + (f": you maybe meant {close[0]}" if close else ""))


def equivalence_overrides(task: str) -> Entry:
    """
    Give the settings in which ours does what sb3-contrib's does, apart from precision.

    :param task: environment id
    :return: overrides of our settings
    """
    epochs = our_entry(task)[0].get("n_critic_updates", 10)  # 10: the default of both
    return {"adaptive_damping": False, "max_critic_updates": epochs, "cg_rtol": 0.0, "final_target_kl": None}
