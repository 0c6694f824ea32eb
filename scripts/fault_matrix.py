"""
The fault matrix: every fault of ``tests/resilience``, put into sb3-contrib's TRPO and into ours in the same way.

    python scripts/fault_matrix.py     # writes results/fault_matrix.csv, and the table in docs/resilience.md
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from itertools import groupby
from typing import Any

import sb3_contrib
import torch
from evidence.provenance import REPO, provenance
from stable_baselines3.common.utils import set_random_seed

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core import NUMERICS_VERSION

sys.path.insert(0, str(REPO))

from tests.resilience.faults import FAULTS, Fault, Outcome, run
from tests.resilience.table import fault_names

RESULTS = REPO / "results" / "fault_matrix.csv"
PAGE = REPO / "docs" / "resilience.md"
BEGIN, END = "<!-- written by scripts/fault_matrix.py: do not edit -->", "<!-- end of what is written -->"
FIELDS = ("group", "fault", "what", "contrib", "contrib_nan", "contrib_detail", "ours", "ours_broken")

PROTECTED, BROKEN, UNNAMED, NAMED = "protected", "invariant broken", "exception without cause", "exception names the cause"


def is_sound(fault: Fault) -> bool:
    """Nothing that a person must be told."""
    return fault.tells is None or "accepted" in fault.tells


def nan_weights(outcome: Outcome) -> bool:
    """Whether the policy's weights are no longer finite, and were before."""
    weights = dict(outcome.model.policy.named_parameters())
    lines = [re.match("I1: (.*) is not finite", line) for line in outcome.broken]
    return any(line is not None and line.group(1) in weights for line in lines)


def verdict(fault: Fault, outcome: Outcome) -> str:
    """What became of sb3-contrib's."""
    broken = sorted({line[:2] for line in outcome.broken})
    if outcome.error is not None:
        users = fault.theirs is not None and isinstance(outcome.error, fault.theirs)
        told = users or (fault.tells is not None and re.search(fault.tells, outcome.said) is not None)
        if not told:
            return UNNAMED + (f"; {', '.join(broken)} broken" if broken else "")
        return f"{BROKEN}: {', '.join(broken)}" if broken else NAMED
    if not is_sound(fault) and outcome.said.startswith("accepted") and not outcome.warned:
        broken.append("I3")
    return f"{BROKEN}: {', '.join(broken)}" if broken else PROTECTED


def short(text: str, length: int) -> str:
    """One line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rsplit(" ", 1)[0] + " …"


def row(fault: Fault) -> dict[str, Any]:
    """One fault, put into both."""
    set_random_seed(0)
    theirs = run(fault, sb3_contrib.TRPO)
    set_random_seed(0)
    ours = run(fault, TRPO)
    return {
        "group": fault.group or "Nothing",
        "fault": fault.name,
        "what": fault.sentence,
        "contrib": verdict(fault, theirs),
        "contrib_nan": "yes" if nan_weights(theirs) else "",
        "contrib_detail": short("; ".join(theirs.broken[:2]) or theirs.said, 200),
        "ours": short(ours.said, 110),
        "ours_broken": "; ".join(ours.failures(fault)),
    }


def kind(text: str) -> str:
    """A verdict without its details."""
    return next(name for name in (PROTECTED, BROKEN, UNNAMED, NAMED) if text.startswith(name))


def table(rows: list[dict[str, Any]]) -> str:
    """The page's part."""
    counts = Counter(kind(row["contrib"]) for row in rows)
    n_nan = sum(row["contrib_nan"] == "yes" for row in rows)
    bad_exceptions = sum(row["contrib"].startswith(UNNAMED) and row["contrib_nan"] == "yes" for row in rows)
    versions = f"sb3-contrib {sb3_contrib.__version__}, torch {torch.__version__.split('+')[0]}"
    lines = [
        f"{len(rows)} faults ({versions}). sb3-contrib: {counts[PROTECTED]} protected, {counts[BROKEN]} with an invariant "
        "broken, "
        f"{counts[UNNAMED]} that end in an exception without cause (it leaves the weights NaN in {bad_exceptions}), "
        f"{counts[NAMED]} in one that names the cause; weights NaN after {n_nan}. Ours: the invariants hold in "
        f"{sum(not row['ours_broken'] for row in rows)} of {len(rows)}, and in each what must be told is told.",
    ]
    for group, members in groupby(rows, key=lambda row: row["group"]):
        lines += ["", f"### {group}", "", "| fault | sb3-contrib | NaN weights | ours says |", "| --- | --- | --- | --- |"]
        for member in members:
            cells = (member["what"], member["contrib"], member["contrib_nan"], member["ours"].replace("|", "/"))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows: list[dict[str, Any]]) -> None:
    """Results and page."""
    made = {**provenance(), "numerics_version": NUMERICS_VERSION}
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELDS, *made], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **made} for row in rows)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}")


def main() -> int:
    """Run all of them."""
    torch.set_num_threads(1)
    rows = [row(FAULTS[name]) for name in fault_names()]
    write(rows)
    print(table(rows).splitlines()[0])
    return int(any(row["ours_broken"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
