"""What ``enjoy`` and ``record_video`` show: the run that is meant, a model with its own statistics, and on what screen."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_zoo3 import utils
from rl_zoo3.utils import EnvironmentName, create_test_env, get_model_path
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.sb3.checkpoints.model_files import STATISTICS_NAME, statistics_in
from sb3_trpo_ext.zoo import screen
from sb3_trpo_ext.zoo.runs import newest_run

MODULES = {"enjoy": "rl_zoo3.enjoy"}
"""Scripts that are functions: their module has taken over the names below. (``record_video`` takes them when it runs.)"""


@contextmanager
def own_statistics(script: str) -> Iterator[None]:
    """
    Let a script of the Zoo find every run, and show each model with the statistics that it was stored with.

    :param script: ``enjoy`` or ``record_video``
    :yields: nothing
    """
    shown = _Shown()
    places = [vars(utils), *(vars(importlib.import_module(MODULES[name])) for name in (script,) if name in MODULES)]
    for place in places:
        place.update(get_model_path=shown.get_model_path, create_test_env=shown.create_test_env)
    try:
        yield
    finally:
        for place in places:
            place.update(get_model_path=get_model_path, create_test_env=create_test_env)


class _Shown:
    """One model, and its environment."""

    def __init__(self) -> None:
        self.model: Path | None = None
        self.is_final = True

    def get_model_path(
        self, exp_id: int, folder: str, algo: str, env_name: EnvironmentName, *which: Any, **named: Any
    ) -> tuple[str, str, str]:
        """The Zoo's; a run that ``-uuid`` has named is found by its number, too."""
        run = newest_run(Path(folder, algo), env_name, exp_id or None) if exp_id >= 0 else None
        if run is None or run.name.removeprefix(f"{env_name}_").isdigit():
            found = get_model_path(exp_id, folder, algo, env_name, *which, **named)
        else:
            print(f"Loading {run.name}")
            prefix, model, log = get_model_path(-1, str(run.parent), run.name, env_name, *which, **named)
            found = prefix.replace(run.name, algo, 1), model, log
        self.model, self.is_final = Path(found[1]), not any((*which, *named.values()))
        return found

    def create_test_env(self, env_id: str, *, stats_path: str | None = None, **named: Any) -> VecEnv:
        """The Zoo's, on the screen that there is. It reads the statistics in a folder: those of the model are put into one."""
        content = None if self.model is None else statistics_in(self.model)
        if content is None or stats_path is None:
            if stats_path is not None and Path(stats_path, STATISTICS_NAME).is_file() and not self.is_final:
                self._warn(Path(stats_path, STATISTICS_NAME))
            return screen.create_test_env(env_id, stats_path=stats_path, **named)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, STATISTICS_NAME).write_bytes(content)
            return screen.create_test_env(env_id, stats_path=folder, **named)

    def _warn(self, used: Path) -> None:
        print(
            f"sb3_trpo_ext: {self.model} does not hold the statistics that it was evaluated with (it was not saved by this "
            f"version of our TRPO): using {used}, which may come from a different point in the training",
            file=sys.stderr,
        )
