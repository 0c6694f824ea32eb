"""What the RL Zoo writes of a run's settings: ``config.yml`` and ``args.yml``."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import yaml

from sb3_trpo_ext.doctor.bounds import MAX_SMALL, is_file
from sb3_trpo_ext.doctor.reports import LARGEST_INTEGER
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import CONTRIB_TARGET_KL

ARGUMENTS, CONFIGURATION = FILES = ("args.yml", "config.yml")

ORDERED = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"
"""The one tag that the Zoo's files carry, and the one that is understood."""

BAD_SETTINGS = (
    *(yaml.YAMLError, ValueError, TypeError, RecursionError),
    *(OSError, AttributeError, LookupError, ArithmeticError),
)
"""What PyYAML raises for a file that nobody meant as settings."""

WANTED: dict[str, tuple[type, ...]] = {
    "env": (str,),
    "algo": (str,),
    "target_kl": (int, float),
    "kl_reduction": (str,),
    "n_timesteps": (int, float),
    "seed": (int,),
    "tensorboard_log": (str,),
}
"""Settings that the doctor makes use of."""


class _Loader(yaml.SafeLoader):
    """Plain values, and the Zoo's ordered dictionaries; no references: they can multiply."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "references are not read", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def _ordered(loader: _Loader, node: yaml.Node) -> OrderedDict[Any, Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "no list of pairs", node.start_mark)
    (pairs,) = loader.construct_sequence(node, deep=True)
    return OrderedDict(pairs)


_Loader.add_constructor(ORDERED, _ordered)


def read_settings(run: Run, folder: Path) -> None:
    """
    Read both files of a folder, as far as they are there.

    :param run: gets the settings and findings
    :param folder: where the Zoo puts them: below a run's folder
    """
    for name in FILES:
        path = folder / name
        if not is_file(path):
            continue
        try:
            with path.open("rb") as file:
                text = file.read(MAX_SMALL + 1)
            if len(text) > MAX_SMALL:
                raise ValueError(f"larger than {MAX_SMALL >> 10} KiB")
            settings = yaml.load(text, Loader=_Loader)  # safe: _Loader is a SafeLoader
            if not isinstance(settings, dict):
                raise ValueError("no settings")
        except BAD_SETTINGS as error:
            problem = getattr(error, "problem", None) or error
            run.find("DR002", path, why=f"{problem}")
            continue
        take_settings(run, settings, overwrite=name == ARGUMENTS)
        if name == CONFIGURATION and run.settings.get("algo") == "trpo":
            # What a configuration that could be read does not name has its default.
            run.settings.setdefault("target_kl", CONTRIB_TARGET_KL)


def take_settings(run: Run, settings: dict[Any, Any], overwrite: bool) -> None:
    """
    Keep the settings that the doctor makes use of, if they are what they should be.

    :param run: gets them
    :param settings: from a file
    :param overwrite: whether they count for more than what is known
    """
    for name, kind in WANTED.items():
        value = settings.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            continue
        if isinstance(value, int | float) and not 0 < value < LARGEST_INTEGER and name != "seed":
            continue  # args.yml says -1 where the configuration decides
        if overwrite or name not in run.settings:
            run.settings[name] = value
