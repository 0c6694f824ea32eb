"""What a run that goes on is made of: the settings that it began with, which the Zoo has written into its folder."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rl_zoo3.utils import EnvironmentName

ORDERED = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"
"""What the Zoo writes its settings as."""


class _Loader(yaml.FullLoader):
    """Plain values and tuples, as ``-params`` makes them, and ordered dictionaries; nothing is called."""


def _ordered(loader: _Loader, node: yaml.SequenceNode) -> OrderedDict[str, Any]:
    (pairs,) = loader.construct_sequence(node, deep=True)
    return OrderedDict(pairs)


_Loader.add_constructor(ORDERED, _ordered)


@dataclass(frozen=True)
class Resumed:
    """
    Settings of a run.

    :param path: where they stand
    :param settings: hyperparameters by name, as in a YAML of the Zoo's
    """

    path: Path
    settings: Mapping[str, Any]

    def entry(self) -> OrderedDict[str, Any]:
        """
        Give them to the Zoo, which changes what it is given.

        :return: a copy, by name
        """
        return OrderedDict(sorted(copy.deepcopy(dict(self.settings)).items()))

    def not_applied(self, asked: Mapping[str, Any]) -> str:
        """
        Say what was asked for and is otherwise in the run.

        :param asked: hyperparameters by name
        :return: a line; empty if there is nothing
        """
        others = [
            f"{name}={value!r} ({f'the run has {self.settings[name]!r}' if name in self.settings else 'the run has none'})"
            for name, value in sorted(asked.items())
            # The number of steps is said by -n, for this run as for any.
            if name != "n_timesteps" and (name not in self.settings or self.settings[name] != value)
        ]
        if not others:
            return ""
        return f"--resume: a run keeps the hyperparameters that it began with ({self.path}); not applied: {', '.join(others)}"


def read_resumed(run: Path, env_id: str) -> Resumed | None:
    """
    Read a run's settings.

    :param run: its folder
    :param env_id: its environment
    :return: them; None if the Zoo has not written them, or nobody can read them any more
    """
    path = run / EnvironmentName(env_id) / "config.yml"
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # nothing is called
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return None
    return Resumed(path, settings) if isinstance(settings, dict) and "n_timesteps" in settings else None
