"""``python -m sb3_trpo_ext doctor LOGDIR…``: what is wrong with runs, and what to try."""

from __future__ import annotations

import argparse
import json
import math
import stat
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from sb3_trpo_ext.doctor import SUMMARY
from sb3_trpo_ext.doctor.bounds import clean
from sb3_trpo_ext.doctor.discover import runs_below
from sb3_trpo_ext.doctor.finding import exit_code
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.text import as_json, show

MISUSE = 3
"""Exit code of a command line that can't be run: 2 is a critical finding."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and an exit code that is no verdict."""
        print(f"sb3_trpo_ext doctor: {message}", file=sys.stderr)
        sys.exit(MISUSE)


def main(arguments: list[str]) -> int:
    """
    Examine runs.

    :param arguments: the command line behind ``doctor``
    :return: 0 healthy, 1 warnings, 2 critical; 3 if the command line can't be run
    """
    args = _parse(arguments)
    problem = next(filter(None, map(_why_unreadable, args.folders)), None)
    if problem:
        return _refuse(problem)
    runs = list(runs_below(args.folders, args.target_kl))
    problem = None if args.html is None else _write_page(runs, args.html)
    if problem:
        return _refuse(problem)
    _print(runs, args)
    return exit_code(finding for run in runs for finding in run.findings)


def _refuse(problem: str) -> int:
    print(f"sb3_trpo_ext doctor: {problem}", file=sys.stderr)
    return MISUSE


def _why_unreadable(folder: Path) -> str | None:
    shown = clean(folder)
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        is_folder = False
    except (OSError, ValueError) as error:
        return f"{shown}: {getattr(error, 'strerror', None) or error}"
    return None if is_folder else f"{shown} is not a directory"


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m sb3_trpo_ext doctor",
        description=f"{SUMMARY.capitalize()}. Exit code: 0 healthy, 1 warnings, 2 critical, 3 a wrong command line.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="LOGDIR", help="a run's folder, or one with runs below it")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the findings and plots of all runs")
    parser.add_argument("--target-kl", type=float, metavar="KL", help="of runs whose files don't say (TensorBoard's, CSV)")
    args = parser.parse_args(arguments)
    if args.target_kl is not None and not 0.0 < args.target_kl < math.inf:
        parser.error(f"--target-kl {args.target_kl} is impossible: it must be positive")
    return args


def _write_page(runs: list[Run], path: Path) -> str | None:
    """What went wrong."""
    try:
        # plotly is loaded by those who want a page.
        from sb3_trpo_ext.doctor.page import write_page

        write_page(runs, path)
    except ModuleNotFoundError as error:
        if error.name != "plotly":
            raise
        return "a page needs plotly: pip install 'sb3-trpo-ext[doctor]'"
    except (OSError, ValueError) as error:
        return f"{clean(path)}: {getattr(error, 'strerror', None) or error}"
    return None


def _print(runs: list[Run], args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(as_json(runs), allow_nan=False, indent=1))
        return
    console = Console(highlight=False)
    for run in runs:
        show(run, console)
    if args.html is not None:
        console.print(f"Page: {args.html}", markup=False, soft_wrap=True)
