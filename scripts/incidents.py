"""
The production incidents of TRPO, sb3-contrib and ours side by side: what each did to the return, and what ours said.

    python scripts/incidents.py                        # every run that results/incidents.csv doesn't have, then the report
    python scripts/incidents.py --incident g --seeds 1 --folders runs/incidents     # again, and keep the run folders of ours
    python scripts/incidents.py --report               # tables and figures again, from the CSVs

A finished run is a row and never made again unless its settings (or our NUMERICS_VERSION) change. Scenarios were designed on
seeds 101 to 105; what is reported are seeds 1 to 5, or 6 to 10 of those that were designed again, named before any of them was
run. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from evidence.provenance import REPO
from incident_suite import broken_sensor, curvature, fresh_critic, large_steps, loophole, stale_workers
from incident_suite.scenario import CURED, OURS, SIDES, Incident
from incident_suite.store import Store
from incident_suite.training import train
from rich.console import Console

_ALL = (
    *(stale_workers.INCIDENT, fresh_critic.INCIDENT, curvature.UNDAMPED, large_steps.DYING_RELU, loophole.INCIDENT),
    *(broken_sensor.INCIDENT, large_steps.TOO_LARGE, curvature.BATCH_NORM),
)
INCIDENTS: dict[str, Incident] = {incident.letter: incident for incident in _ALL}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--incident", nargs="+", choices=list(INCIDENTS), default=list(INCIDENTS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, metavar="N", help="default: those reported")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="default: all")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--folders", type=Path, metavar="DIR", help="make the runs of ours again and keep their run folders")
    parser.add_argument("--results", type=Path, default=REPO / "results", help="folder of the CSVs (default: results/)")
    parser.add_argument("--docs", type=Path, default=REPO / "docs", help="of tables and figures (default: docs/)")
    return parser.parse_args(argv)


def run_missing(letters: list[str], sides: list[str], seeds: list[int] | None, store: Store, console: Console) -> None:
    """
    Make the runs that are not there yet, incident by incident.

    :param letters: of the incidents
    :param sides: of ``SIDES``
    :param seeds: the seeds; None: those reported
    :param store: finished runs
    :param console: where to say so
    """
    missing: dict[tuple[str, int], tuple[Incident, str]] = {}
    for incident in map(INCIDENTS.__getitem__, letters):
        for seed in seeds or incident.seeds:
            for side in SIDES:
                if side in sides and not store.has(incident.key(side), seed):
                    missing.setdefault((incident.key(side), seed), (incident, side))
    for number, ((_, seed), (incident, side)) in enumerate(missing.items(), start=1):
        with tempfile.TemporaryDirectory() as folder:
            outcome = train(incident, side, seed, Path(folder))
        store.add(incident, side, seed, outcome)
        said = " ".join(f"{code}@{update}" for code, update in outcome.alarms) + outcome.died[:60]
        place = f"[{number}/{len(missing)}] ({incident.letter}) {side}, seed {seed}"
        console.print(f"{place}: {outcome.seconds:.0f} s {said}", markup=False)


def keep_folders(letters: list[str], sides: list[str], seeds: list[int] | None, folder: Path, console: Console) -> None:
    """
    Make runs of ours for a person to look at; no row is written.

    :param letters: of the incidents
    :param sides: of ``SIDES``; theirs have no run folder
    :param seeds: the seeds; None: those reported
    :param folder: of the run folders
    :param console: where to say so
    """
    for letter in letters:
        for side in (OURS, CURED):
            for seed in (seeds or INCIDENTS[letter].seeds) if side in sides else ():
                place = folder / f"{letter}_{'cured' if side == CURED else 'ours'}_{seed}"
                outcome = train(INCIDENTS[letter], side, seed, place)
                console.print(f"{place}: {outcome.died or 'finished'}", markup=False)


def main(argv: list[str] | None = None) -> int:
    """
    Run what is missing, then report.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parse_arguments(argv)
    torch.set_num_threads(1)
    console = Console(soft_wrap=True, highlight=False)
    if args.folders:
        keep_folders(args.incident, args.sides, args.seeds, args.folders, console)
        return 0
    store = Store(args.results)
    if not args.report:
        run_missing(args.incident, args.sides, args.seeds, store, console)
    try:
        from incident_suite.report import write_report
    except ImportError as error:
        sys.exit(f"incidents: {error}: pip install -e '.[bench]' brings what reports need")
    write_report([INCIDENTS[letter] for letter in INCIDENTS], store.rows(), args.docs, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
