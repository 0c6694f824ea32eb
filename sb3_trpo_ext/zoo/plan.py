"""What ``train``'s own flags ask for: checkpoints, and a run that goes on where it was interrupted (``--resume``)."""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rl_zoo3.utils import EnvironmentName

from sb3_trpo_ext.sb3.checkpoints.callback import EVERY_UPDATES
from sb3_trpo_ext.sb3.checkpoints.files import FOLDER_NAME, Checkpoint, checkpoints_in, newest_whole
from sb3_trpo_ext.sb3.checkpoints.lock import claim, release
from sb3_trpo_ext.sb3.checkpoints.model_files import STATISTICS_NAME, statistics_in
from sb3_trpo_ext.zoo.preflight import CheckingParser
from sb3_trpo_ext.zoo.resumed import Resumed, read_resumed
from sb3_trpo_ext.zoo.runs import newest_run

NEWEST = ""
"""``--resume`` without a folder."""


@dataclass(frozen=True)
class Plan:
    """
    What our own flags ask for.

    :param every_updates: updates between checkpoints; 0: none are written
    :param run: folder of the run that is resumed; None: a new run
    :param resumed: its settings; None: they are read as those of a new run
    :param nothing_to_do: whether the run that was to be resumed is over, its files included
    """

    every_updates: int = EVERY_UPDATES
    run: Path | None = None
    resumed: Resumed | None = None
    nothing_to_do: bool = False

    @property
    def parser(self) -> type[CheckingParser]:
        """What judges the Zoo's flags."""
        return type("PlansParser", (CheckingParser,), {"resumed": self.resumed})


def own_flags() -> argparse.ArgumentParser:
    """
    Make a parser of the flags that the Zoo does not know.

    :return: the parser
    """
    parser = CheckingParser(
        prog="python -m sb3_trpo_ext train",
        usage="%(prog)s [flags below, which are ours] [the RL Zoo's flags]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="RUN_FOLDER",
        help="go on with the newest run of --env in the log folder, or with this one, from its newest whole checkpoint; "
        "-n is the number of steps of the whole training. Without a folder it begins anew where that run has no checkpoint",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=_count,
        default=EVERY_UPDATES,
        metavar="N",
        help="updates between checkpoints (default: %(default)s, or a minute if that is less); 0: none",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of updates, or 0 for no checkpoints")
    return int(text)


def make_plan(arguments: list[str]) -> tuple[Plan, list[str]]:
    """
    Take our own flags out of a command line.

    :param arguments: of ``train``
    :return: what they ask for, and the arguments for the Zoo
    :raises ValueError: if a flag is impossible, if the run has checkpoints and none of them is whole, and if the run that is
        named has none, or is another environment's, or is still trained
    """
    own, rest = own_flags().parse_known_args(arguments)
    if own.resume is None:
        return Plan(own.checkpoint_every), rest
    parser = argparse.ArgumentParser(add_help=False)
    for flags, default in (
        (["--env"], "CartPole-v1"),
        (["--algo"], "trpo"),
        (["-f", "--log-folder"], "logs"),
        (["--seed"], None),
        (["-n", "--n-timesteps"], None),
    ):
        parser.add_argument(*flags, default=default)
    parser.add_argument("--track", action="store_true")
    known = parser.parse_known_args(rest)[0]
    if known.algo != "trpo":
        raise ValueError(f"--resume goes on with trpo only; this is --algo {known.algo}.")
    if own.resume == NEWEST:
        run = newest_run(Path(known.log_folder, known.algo), known.env)
    else:
        run = Path(own.resume)
        _check_named(run, known.env)
    found = _find(run)
    if run is None or found is None:
        return Plan(own.checkpoint_every), rest
    resumed = read_resumed(run, known.env)
    if _say(run, found, known, resumed):
        release(run / FOLDER_NAME)
        return Plan(nothing_to_do=True), rest
    rest = [*rest, *_asked_before(found, known)]
    if known.track and found.about.get("wandb_run"):
        os.environ |= {"WANDB_RUN_ID": str(found.about["wandb_run"]), "WANDB_RESUME": "allow"}
    return Plan(own.checkpoint_every, run, resumed), rest


def _check_named(run: Path, env_id: str) -> None:
    if not checkpoints_in(run / FOLDER_NAME):
        why = "holds no checkpoint" if run.is_dir() else "is not a directory"
        raise ValueError(f"--resume {run}: {why} (--resume without a folder takes the newest run of --env)")
    trained = [path.parent.name for path in run.glob("*/args.yml")]
    if trained and EnvironmentName(env_id) not in trained:
        raise ValueError(f"--resume {run}: is a run of {trained[0]}; this is --env {env_id}")


def _find(run: Path | None) -> Checkpoint | None:
    if run is None or not checkpoints_in(run / FOLDER_NAME):
        print(
            f"--resume: {run or 'the log folder'} holds no checkpoint of this environment: a new run begins", file=sys.stderr
        )
        return None
    found, passed_over = newest_whole(run)
    if found is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
        raise ValueError(f"--resume: no checkpoint of {run} is whole ({reasons}).")
    claim(run / FOLDER_NAME)
    for name, reason in passed_over.items():
        print(f"--resume: {name} is passed over: {reason}", file=sys.stderr)
    return found


def _asked_before(found: Checkpoint, known: argparse.Namespace) -> list[str]:
    """Flags that were given when the run began, or stood for what was not."""
    asked: list[str] = []
    if known.seed is None and found.about.get("seed") is not None:
        asked += ["--seed", str(found.about["seed"])]
    if known.n_timesteps is None:
        asked += ["-n", str(found.about["total_timesteps"])]
    return asked


def _say(run: Path, found: Checkpoint, known: argparse.Namespace, resumed: Resumed | None) -> bool:
    """Say what goes on; whether that is nothing at all."""
    steps, total = found.about["num_timesteps"], known.n_timesteps or found.about["total_timesteps"]
    if str(total) == "-1" and resumed is not None:  # what the settings say
        total = int(float(resumed.settings["n_timesteps"]))
    if str(total).isdecimal() and steps >= int(total):
        is_saved = _is_saved(run, EnvironmentName(known.env), steps)
        print(
            f"--resume: {run} has done all of its steps ({steps} of {total}): nothing is trained"
            f"{'' if is_saved else ', its model is saved again'}; use a larger -n to continue"
        )
        return is_saved
    goal = f"{steps} of {total} steps" if str(total).isdecimal() else f"{steps} steps"
    which = (
        "the checkpoint's hyperparameters" if resumed is None else f"the hyperparameters that it began with ({resumed.path})"
    )
    print(f"--resume: {run} resumes after update {found.n_updates} ({goal}), with {which}")
    return False


def _is_saved(run: Path, name: str, steps: int) -> bool:
    """Whether the model of the end is there, and its statistics: a kill may have come before, or an older version."""
    path, statistics = run / f"{name}.zip", run / name / STATISTICS_NAME
    try:
        with zipfile.ZipFile(path) as archive:
            saved = json.loads(archive.read("data"))["num_timesteps"]
        beside = statistics.read_bytes() if statistics.is_file() else None
    except (OSError, ValueError, LookupError, zipfile.BadZipFile):
        return False
    return bool(saved == steps) and statistics_in(path) == beside
