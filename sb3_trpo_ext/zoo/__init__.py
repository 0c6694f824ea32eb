"""RL Zoo plug-in: importing this package puts our TRPO behind the Zoo's ``--algo trpo``.

``python -m rl_zoo3.train --algo trpo --gym-packages sb3_trpo_ext.zoo --conf-file sb3_trpo_ext.zoo --env Hopper-v5``
needs nothing else: the first flag imports this package, the second reads its attribute ``hyperparams``.
"""

import sys
from pathlib import Path
from typing import Any

import rl_zoo3
import yaml
from rl_zoo3 import hyperparams_opt

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo.search_space import convert_trpo_params, sample_trpo_params
from sb3_trpo_ext.zoo.wandb_mode import choose_wandb_mode

__all__ = ["config_file", "hyperparams"]

# Read from the YAML at every access (see __getattr__)
hyperparams: dict[str, dict[str, Any]]


def config_file() -> Path:
    """
    Find the hyperparameters that we ship.

    :return: path of ``zoo_configs/trpo.yml``, inside the package when installed from a wheel, beside it in a checkout
    """
    package = Path(__file__).parents[1]
    shipped = package / "zoo_configs" / "trpo.yml"
    return shipped if shipped.is_file() else package.parent / "zoo_configs" / "trpo.yml"


def __getattr__(name: str) -> Any:
    """
    Give every reader of ``hyperparams`` a copy of its own, because the Zoo changes the one it gets.

    :param name: attribute of this module that isn't defined yet
    :return: what the YAML file holds: environment id to hyperparameters
    :raises AttributeError: for every other name
    """
    if name == "hyperparams":
        return yaml.safe_load(config_file().read_text(encoding="utf-8"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# In place: the Zoo's modules have imported these very dictionaries
rl_zoo3.ALGOS["trpo"] = TRPO
hyperparams_opt.HYPERPARAMS_SAMPLER["trpo"] = sample_trpo_params
hyperparams_opt.HYPERPARAMS_CONVERTER["trpo"] = convert_trpo_params
choose_wandb_mode()

_main = sys.modules["__main__"]
# Not in its workers, where it is called __mp_main__
if _main.__name__ == "__main__" and getattr(_main.__spec__, "name", None) == "rl_zoo3.train":
    from sb3_trpo_ext.zoo.preflight import judge_command_line

    judge_command_line()
