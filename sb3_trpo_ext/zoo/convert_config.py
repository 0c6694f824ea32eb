"""``convert-config``: a Zoo YAML from one unit of the KL to the other, exactly.

sb3-contrib averages the KL over the A action dimensions ("mean"), the paper bounds their sum ("joint"): the trust region
and damping (delta, lambda) of the one are (A delta, A lambda) of the other, and both take the same step.
"""

import argparse
import difflib
import inspect
import math
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import sb3_contrib
import yaml
from gymnasium import spaces
from rl_zoo3.utils import get_wrapper_class

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.records.atomic import write_atomic
from sb3_trpo_ext.sb3.arguments.validation import is_number
from sb3_trpo_ext.zoo.entry import named
from sb3_trpo_ext.zoo.yaml_files import ConfigError, parse_yaml, read_text

SUMMARY = "rewrite a Zoo YAML to joint (the paper's) or mean (sb3-contrib's) units of the KL"
# sb3-contrib's own defaults for an entry that doesn't say
DEFAULTS = {"target_kl": 0.01, "cg_damping": 0.1}
OWN_PREFIX = "sb3_trpo_ext."
Entry = dict[str, Any]

WRAPPERS = (
    "rl_zoo3.wrappers.",
    *(f"gymnasium.wrappers.{name}" for name in ("ClipAction", "FlattenObservation", "RescaleAction", "TimeAwareObservation")),
    "stable_baselines3.common.atari_wrappers.",
)
"""Beginnings of the names of wrappers that a file may have put around an environment: others could be any code."""


def own_arguments() -> set[str]:
    """
    Name the constructor arguments that sb3-contrib would refuse.

    :return: names
    """
    return set(inspect.signature(TRPO).parameters) - set(inspect.signature(sb3_contrib.TRPO).parameters)


def action_dimensions(env_id: str, entry: Entry) -> int:
    """
    Ask the environment over how many action dimensions sb3-contrib averages the KL.

    :param env_id: environment id; ``atari`` stands for games whose actions are all discrete
    :param entry: its hyperparameters, which may name wrappers and ``env_kwargs``
    :return: A; 1 for Discrete and MultiDiscrete actions, which sb3-contrib doesn't average over
    :raises ConfigError: if the environment can't be made
    """
    if env_id == "atari":
        return 1
    _refuse_code(env_id, entry)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old version of an environment is old, not wrong
            env = gym.make(env_id, **(entry.get("env_kwargs") or {}))
        try:
            wrap = get_wrapper_class(entry)
            space = (env if wrap is None else wrap(env)).action_space
        finally:
            env.close()
    except Exception as error:  # whatever a third party's environment raises
        raise ConfigError(
            f"{env_id}: the environment can't be made: {' '.join(str(error).split()) or type(error).__name__} "
            "(install its package, or name the entries to convert with --env)"
        ) from error
    if isinstance(space, spaces.Box):
        return math.prod(space.shape)
    return int(math.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else 1


def _refuse_code(env_id: str, entry: Entry) -> None:
    """A file may name environments that are registered and wrappers of the list: anything else would run what it names."""
    if ":" in env_id:
        raise ConfigError(f"{env_id}: the environment can't be made: a file may not name a module to import")
    for name, _ in named(entry.get("env_wrapper")):
        if isinstance(name, str) and not name.startswith(WRAPPERS):
            raise ConfigError(
                f"{env_id}: env_wrapper {name} is code that would be run to count its action dimensions: convert this entry "
                "by hand, or in Python: convert_entry(id, {**entry, 'env_wrapper': CLASS}, unit)"
            )


def scale(value: object, factor: Fraction, name: str) -> float:
    """
    Multiply the number that is written in the file, so that 6 times 0.01 is 0.06.

    :param value: a number
    :param factor: A or 1/A
    :param name: where it stands, for the error
    :return: the float nearest to the exact product
    :raises ConfigError: if it isn't a finite number
    """
    if not isinstance(value, int | float) or not is_number(value):
        hint = " (YAML reads 1e-3 as text: write 0.001 or 1.0e-3)" if isinstance(value, str) else ""
        raise ConfigError(f"{name}: {value!r} is not a number{hint}.")
    try:
        return float(Fraction(repr(value)) * factor)
    except OverflowError as error:
        raise ConfigError(f"{name}: {value!r} times {factor} is too large.") from error


def convert_entry(env_id: str, entry: Entry, target: str) -> Entry:
    """
    Convert one entry.

    :param env_id: its key in the file
    :param entry: its hyperparameters
    :param target: "joint" or "mean"
    :return: a new entry, in the order of the old one
    :raises ConfigError: if the unit is unknown, a value is no number or the environment can't be made
    """
    unit = entry.get("kl_reduction") or "mean"
    if unit not in ("mean", "joint"):
        raise ConfigError(f"{env_id}: kl_reduction is {unit!r}, which is neither mean nor joint.")
    if env_id == "default" and unit != target:
        if target == "mean":
            raise ConfigError("default: it is in joint units, and without its environment it can't be converted to mean.")
        return {**entry, "kl_reduction": "mean"}
    converted = dict(entry)
    if unit != target:
        dimensions = action_dimensions(env_id, entry)
        factor = Fraction(dimensions) if target == "joint" else Fraction(1, dimensions)
        converted["kl_reduction"] = target
        for name, default in DEFAULTS.items():
            converted[name] = scale(entry.get(name, default), factor, f"{env_id}.{name}")
        if entry.get("final_target_kl") is not None:
            converted["final_target_kl"] = scale(entry["final_target_kl"], factor, f"{env_id}.final_target_kl")
        if entry.get("cg_damping_range") is not None:
            name = f"{env_id}.cg_damping_range"
            if not isinstance(entry["cg_damping_range"], list):
                raise ConfigError(f"{name}: {entry['cg_damping_range']!r} is not a list of two numbers.")
            converted["cg_damping_range"] = [scale(bound, factor, name) for bound in entry["cg_damping_range"]]
    return converted if target == "joint" else _without_ours(converted)


def _without_ours(entry: Entry) -> Entry:
    """
    Drop what only our TRPO understands.

    :param entry: hyperparameters in mean units
    :return: hyperparameters that sb3-contrib takes
    """
    kept = {key: value for key, value in entry.items() if key not in own_arguments()}
    callbacks = kept.get("callback")
    if callbacks:
        # The Zoo takes one name or a list; a name alone, or as the key of its arguments
        listed = callbacks if isinstance(callbacks, list) else [callbacks]
        foreign = [
            item for item in listed if not str(next(iter(item)) if isinstance(item, dict) else item).startswith(OWN_PREFIX)
        ]
        kept["callback"] = foreign
        if foreign == listed:
            kept["callback"] = callbacks
        elif not foreign:
            del kept["callback"]
    return kept


def convert_text(text: str, target: str, env_ids: list[str] | None = None) -> str:
    """
    Convert a file's text.

    :param text: YAML, environment id to hyperparameters
    :param target: "joint" or "mean"
    :param env_ids: entries to convert and keep; None for all
    :return: YAML, with anchors and merges resolved and without comments
    :raises ConfigError: if it is no such YAML or an entry can't be converted
    """
    entries = parse_yaml(text)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError("not a Zoo YAML: it must map each environment id to its hyperparameters.")
    for env_id in env_ids or []:
        if env_id not in entries:
            close = difflib.get_close_matches(env_id, map(str, entries), n=1)
            raise ConfigError(f"no entry {env_id!r}" + (f": you maybe meant {close[0]!r}." if close else "."))
    converted = {str(key): convert_entry(str(key), entries[key], target) for key in env_ids or entries}
    # One entry at a time, with an empty line between them, as people write these files
    return "\n".join(_dump({env_id: entry}) for env_id, entry in converted.items())


class _Dumper(yaml.SafeDumper):
    """Writes a value that two entries shared out in full, twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """
        Never refer to an earlier value.

        :param data: any value
        :return: True
        """
        return True


def _dump(entries: dict[str, Entry]) -> str:
    """
    Write entries as YAML.

    :param entries: environment id to hyperparameters
    :return: text
    """
    return yaml.dump(entries, Dumper=_Dumper, sort_keys=False, width=120)


def main(arguments: list[str]) -> int:
    """
    Run ``convert-config``.

    :param arguments: the command line after ``convert-config``
    :return: exit code; 2 if nothing was converted
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_trpo_ext convert-config", description=SUMMARY)
    parser.add_argument("file", metavar="FILE.yml", type=Path, help="a YAML of the RL Zoo; it is not changed")
    parser.add_argument("--to", required=True, choices=("joint", "mean"), help="the unit to convert to")
    parser.add_argument("--env", nargs="+", metavar="ID", help="convert and keep only these entries (default: all)")
    parser.add_argument("-o", "--output", type=Path, help="where to write it (default: standard output)")
    parser.add_argument("--force", action="store_true", help="overwrite the output file")
    args = parser.parse_args(arguments)
    try:
        if args.output and args.output.exists() and not args.force:
            raise ConfigError(f"{args.output} exists: add --force to overwrite it.")
        source = read_text(args.file)
        text = convert_text(source, args.to, args.env)
        header = f"# {args.file.name} with the KL in {args.to} units (anchors resolved, comments left behind)\n\n"
        if args.output:
            write_atomic(args.output, (header + text).encode())
        else:
            print(header + text, end="")
    except (ConfigError, OSError) as error:
        print(f"convert-config: {args.file}: {error}", file=sys.stderr)
        return 2
    if args.to == "joint" and "\ndefault:" in "\n" + text:
        print("convert-config: default keeps mean units, because its environment is unknown.", file=sys.stderr)
    for key, env_ids in left_out(parse_yaml(source), parse_yaml(text)).items():
        print(f"convert-config: sb3-contrib has no {key}, it is left out of {', '.join(env_ids)}.", file=sys.stderr)
    return 0


def left_out(before: dict[Any, Entry], after: dict[Any, Entry]) -> dict[str, list[str]]:
    """
    List the settings that a converted file lacks, but those that change nothing that is learnt.

    :param before: entries by environment id
    :param after: those that were converted
    :return: environment ids by setting
    """
    found: dict[str, list[str]] = {}
    named = {str(env_id): entry for env_id, entry in before.items()}
    for env_id, entry in after.items():
        for key in named[str(env_id)].keys() - entry.keys() - {"kl_reduction", "warn_on_risky", "callback"}:
            found.setdefault(key, []).append(str(env_id))
    return dict(sorted(found.items()))
