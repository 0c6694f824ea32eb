"""
Hyperparameters of a W&B sweep: ``--track --conf-file sb3_trpo_ext.zoo.sweep``.

An agent hands its parameters over as ``--key=value``, which the RL Zoo does not parse; but it also leaves them in a file that
``wandb.init`` puts into the run's config. The Zoo calls ``wandb.init`` first and reads its configuration then, so that
``hyperparams``, which is made at every access, finds them there: our YAML, every entry overlaid with them.
"""

import sys
import typing
from pathlib import Path
from typing import Any

from sb3_trpo_ext import TRPO, zoo
from sb3_trpo_ext.monitoring.wandb import WandbRun
from sb3_trpo_ext.zoo import entry
from sb3_trpo_ext.zoo.yaml_files import ConfigError, read_yaml

__all__ = ["hyperparams"]

# Made at every access (see __getattr__)
hyperparams: dict[str, dict[str, Any]]

MONITOR = "sb3_trpo_ext.monitoring.WandbMonitor"

NO_SWEEP = "sb3_trpo_ext.zoo.sweep: {}: nothing is overlaid, and zoo_configs/trpo.yml is used as it is."

INTEGERS_OF_THE_ZOO = frozenset({"n_envs", "frame_stack"})

REFUSED_EXIT_CODE = 2
"""As our command line ends."""


def __getattr__(name: str) -> Any:
    """
    Overlay our YAML with the parameters of the sweep that this run belongs to.

    :param name: attribute of this module that isn't defined yet
    :return: environment id to hyperparameters
    :raises AttributeError: for every other name than ``hyperparams``
    """
    if name != "hyperparams":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    parameters = _parameters()
    try:
        refuse_unknown(parameters)
        entry.refuse_values(parameters, "the sweep")
    except ConfigError:
        _finish_refused()
        raise
    return {env_id: _watched({**own, **parameters}) for env_id, own in zoo.hyperparams.items()}


def _parameters() -> dict[str, Any]:
    """
    Read what the sweep has chosen.

    :return: by name, of those only that are the sweep's: the config holds the Zoo's own flags too
    """
    try:
        import wandb
    except ImportError:
        return _nothing("wandb is not installed")
    if wandb.run is None:
        return _nothing("there is no W&B run (--track begins one)")
    path = wandb.run.settings.sweep_param_path
    if not path:
        return _nothing("this run belongs to no sweep (`wandb agent` starts those that do)")
    names = [name for name in read_yaml(Path(path)) if name not in ("wandb_version", "_wandb")]
    return with_integers({name: _plain(wandb.run.config[name]) for name in names})


def with_integers(parameters: dict[str, Any]) -> dict[str, Any]:
    """
    Turn 64.0 into 64 where an integer is asked for: W&B's quantised distributions give floats.

    :param parameters: of the sweep
    :return: the same; a float that is no integer stays, and is refused where it is used
    """
    hints = typing.get_type_hints(TRPO.__init__)
    integers = {name for name, hint in hints.items() if hint in (int, int | None)} | INTEGERS_OF_THE_ZOO
    return {
        name: int(value) if name in integers and isinstance(value, float) and value.is_integer() else value
        for name, value in parameters.items()
    }


def _finish_refused() -> None:
    """Otherwise W&B would call it a success: what ends the process does not tell it the exit code."""
    run = WandbRun()
    run.open()
    run.finish(REFUSED_EXIT_CODE)


def _nothing(reason: str) -> dict[str, Any]:
    print(NO_SWEEP.format(reason), file=sys.stderr)
    return {}


def refuse_unknown(parameters: dict[str, Any]) -> None:
    """
    Refuse what would have no effect, or be an error far from here.

    :param parameters: of the sweep
    :raises ConfigError: naming what is not known
    """
    entry.refuse_unknown(parameters, "the sweep")


def _plain(value: Any) -> Any:
    """
    Copy W&B's own dictionaries into plain ones.

    :param value: of the config
    :return: the same, plain
    """
    return {key: _plain(item) for key, item in value.items()} if hasattr(value, "items") else value


def _watched(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """
    Have W&B told what the run was really made with, alarms and artifacts.

    :param hyperparams: of an environment
    :return: the same with ``WandbMonitor`` among its callbacks
    """
    callbacks = hyperparams.get("callback") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    there = any(MONITOR in (callback if isinstance(callback, dict) else [callback]) for callback in callbacks)
    return hyperparams if there else {**hyperparams, "callback": [*callbacks, MONITOR]}
