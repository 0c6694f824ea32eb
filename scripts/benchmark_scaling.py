"""
Time data-parallel trainings here, with 1 and 2 ranks; fit a model of what more would cost, and test it on the largest case.

    python scripts/benchmark_scaling.py                # measure, and print
    python scripts/benchmark_scaling.py --write        # results/scaling.csv and the end of docs/scaling.md
    python scripts/benchmark_scaling.py --again 2      # measure the cases of 2 ranks once more, the faster of both counts
    python scripts/benchmark_scaling.py --from-csv     # the end of docs/scaling.md from results/scaling.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from evidence.provenance import REPO, provenance
from scaling.model import Case
from scaling.page import BATCH_SIZE, ENV, EPOCHS, MARK, WIDTHS, held_out, section

CSV, PAGE = REPO / "results" / "scaling.csv", REPO / "docs" / "scaling.md"
SAMPLES, RANKS = (1024, 2048, 4096), (1, 2)


def measure(ranks: int, samples: int, width: int, updates: int, priority: int | None = None) -> Case:
    """
    Train.

    :param ranks: processes
    :param samples: of each
    :param width: of the hidden layers
    :param updates: timed ones; the fastest counts, since whatever else the machine does only adds
    :param priority: of the ranks while they are timed, on a machine with other work; None: as it is
    :return: the case
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(Path(__file__).parent / "scaling" / "worker.py"), "--env", ENV, "--samples", str(samples)]
    command += ["--width", str(width), "--updates", str(updates + 2), "--epochs", str(EPOCHS), "--batch_size", str(BATCH_SIZE)]
    command += [] if priority is None else ["--priority", str(priority)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("MEASURED "))
    found = json.loads(line.removeprefix("MEASURED "))
    fastest = min(found["rows"], key=lambda row: row["seconds"])
    return Case(ranks=ranks, samples=samples, width=width, parameters=found["parameters"], **fastest)


def read() -> tuple[list[Case], str]:
    """
    Read what was measured.

    :return: the cases, and the machine
    """
    kinds: dict[str, Any] = {"ranks": int, "samples": int, "width": int, "parameters": int}
    with CSV.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cases = [Case(**{each.name: kinds.get(each.name, float)(row[each.name]) for each in fields(Case)}) for row in rows]
    return cases, rows[0]["machine"]


def measured(again: int | None, updates: int, priority: int | None) -> list[Case]:
    """
    Measure every case, or some once more.

    :param again: only those of so many ranks, of which the faster counts; the others are those of the CSV. None: all
    :param updates: timed ones
    :param priority: of the ranks
    :return: the cases
    """
    if again is None:
        order = [(ranks, samples, width) for width in WIDTHS for samples in SAMPLES for ranks in RANKS]
        return [measure(*each, updates, priority) for each in order]
    cases = []
    for case in read()[0]:
        new = measure(case.ranks, case.samples, case.width, updates, priority) if case.ranks == again else case
        cases.append(min(case, new, key=lambda each: each.seconds))
    return cases


def main(argv: list[str] | None = None) -> int:
    """
    Run.

    :param argv: arguments; None for the process's own
    :return: exit code: 1 if the largest case is not predicted within 25 %
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the CSV and the page")
    parser.add_argument("--from-csv", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--again", type=int, metavar="RANKS", help="only these cases, once more")
    parser.add_argument("--updates", type=int, default=20, help="timed iterations of each case (default: %(default)s)")
    parser.add_argument(
        "--priority", type=int, help="of the ranks while they are timed, on a machine with other work (as root)"
    )
    options = parser.parse_args(argv)
    if options.from_csv:
        cases, machine = read()
    else:
        cases = measured(options.again, options.updates, options.priority)
        where = provenance()
        machine = where["machine"]
        if options.write:
            with CSV.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [*asdict(cases[0]), *where])
                writer.writeheader()
                writer.writerows({**asdict(case), **where} for case in cases)
    text = section(cases, machine)
    if options.write or options.from_csv:
        before = PAGE.read_text(encoding="utf-8").split(MARK)[0].rstrip("\n")
        PAGE.write_text(f"{before}\n\n{text.rstrip()}\n", encoding="utf-8")
    print(text)
    *_, largest, predicted = held_out(cases)
    return 0 if abs(predicted / largest.seconds - 1.0) <= 0.25 else 1


if __name__ == "__main__":
    sys.exit(main())
