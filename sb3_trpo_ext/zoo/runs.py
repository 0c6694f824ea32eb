"""Which folder of the Zoo's logs is meant: the newest run of an environment, also where ``-uuid`` has named it."""

from __future__ import annotations

import re
from pathlib import Path

from rl_zoo3.utils import EnvironmentName

UUID = r"_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
"""What ``-uuid`` appends. The Zoo does not count such a folder: several may bear the number that the next run has, too."""


def newest_run(folder: Path, env_id: str, number: int | None = None) -> Path | None:
    """
    Find the newest run.

    :param folder: of one algorithm
    :param env_id: environment id
    :param number: of the run; None: the highest
    :return: its folder; None if no run was found. If several runs bear the same number, one without a uuid is the newest (the
        Zoo has counted it), then the one that was begun or resumed last
    """
    name = EnvironmentName(env_id)
    pattern = re.compile(rf"{re.escape(name)}_(\d+)({UUID})?")
    found = []
    for run in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(run.name)
        if match and run.is_dir() and int(match[1]) > 0 and number in (None, int(match[1])):
            found.append((int(match[1]), match[2] is None, _begun(run, name), run))
    return max(found, default=(None,))[-1]


def _begun(run: Path, name: str) -> float:
    arguments = run / name / "args.yml"
    return (arguments if arguments.is_file() else run).stat().st_mtime
