"""docs/precision.md, its figure and its verdict, from what scripts/compare_precision.py has measured."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evidence.store import write_whole

try:
    from evidence import figures
except ImportError as error:
    sys.exit(f"report_precision: {error}: pip install -e '.[bench]' brings what reports need")

from precision_tables import (
    CANDIDATE,
    COUNTS,
    REFERENCE,
    SOLVERS,
    STEP_TIMINGS,
    TIMINGS,
    VALUES,
    Row,
    count_table,
    place,
    policy_table,
    read,
    reference_of,
    shift,
    solver_table,
    step_time_table,
    system,
    time_table,
)

NOTHING = 1e-3
"""A loss up to this share of the gain is nothing: the last of 25 iterations adds more (the page says how much)."""

NO_SHIFT = 1e-2
"""The same for the KL of the scaled step, as a share of the reference's: the line search's candidates are 0.64 apart in KL."""

FLOOR = 1e-16  # smaller losses are drawn here


@dataclass(frozen=True)
class Verdict:
    """
    What the candidate loses.

    :param systems: linear systems compared
    :param loss: largest share of the gain that is lost
    :param loss_at: where
    :param shift: largest deviation of the scaled step's KL, as a share of the reference's
    :param shift_at: where
    :param broken: systems that only the reference solves
    """

    systems: int
    loss: float
    loss_at: str
    shift: float
    shift_at: str
    broken: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing is lost anywhere."""
        return self.loss <= NOTHING and self.shift <= NO_SHIFT and not self.broken

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        loss = f"largest loss of gain {self.loss:.1e} ({self.loss_at})"
        shift = f"largest deviation of the step's KL {self.shift:.1e} of it ({self.shift_at})"
        if self.passes:
            return f"Mixed, re-orthogonalised loses nothing anywhere: {loss}, {shift}, in {self.systems} systems."
        broken = f"; float64 solves and mixed does not: {', '.join(self.broken)}" if self.broken else ""
        return f"Mixed, re-orthogonalised FAILS: {loss}, {shift}, in {self.systems} systems{broken}."


def judge(rows: list[Row]) -> Verdict:
    """
    Compare mixed precision with float64, both re-orthogonalised.

    :param rows: of ``precision.csv``
    :return: the verdict
    """
    reference = reference_of(rows)
    ours = [row for row in rows if row["solver"] == CANDIDATE]
    worst = max(ours, key=lambda row: row["gain_lost"])
    shifts = [(shift(row, reference) or 0.0, place(row)) for row in ours]
    broken = [row for row in ours if row["kl_share"] is None and reference[system(row)]["kl_share"] is not None]
    return Verdict(
        len(ours), worst["gain_lost"], place(worst), *max(shifts), broken=tuple(sorted({place(row) for row in broken}))
    )


def draw(rows: list[Row], path: Path, caption: str) -> None:
    """
    Draw what each solver loses on each system, a panel a task.

    :param rows: of ``precision.csv``
    :param path: without its ending
    :param caption: what was measured
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = list(dict.fromkeys(row["policy"] for row in rows))
    size = {"ncols": len(tasks), "figsize": (3.6 * len(tasks), 3.9), "squeeze": False, "sharey": True}
    with figures.drawn(path, size) as (figure, axes):
        for axis, task in zip(axes[0], tasks, strict=True):
            for index, name in enumerate(names):
                some = [row for row in rows if (row["task"], row["policy"]) == (task, name) and row["solver"] != REFERENCE]
                x = [SOLVERS.index(row["solver"]) + 0.22 * (index - (len(names) - 1) / 2) for row in some]
                y = [max(abs(row["gain_lost"]), FLOOR) for row in some]
                axis.plot(x, y, "os^"[index % 3], color=figures.COLOURS[index], markersize=3.5, alpha=0.6, label=name)
            axis.axhline(NOTHING, color="0.4", linewidth=1, linestyle=":")
            axis.set_yscale("log")
            axis.set_xticks(range(1, len(SOLVERS)), ["\n".join(solver) for solver in SOLVERS[1:]], fontsize=6, rotation=30)
            axis.set_title(task, fontsize=9)
        axes[0][0].set_ylabel("share of the gain that is lost")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
        figure.suptitle(caption, fontsize=8, color="0.3")


SOURCE = (
    "Written by `python scripts/compare_precision.py --report` from `results/precision*.csv`: do not edit. What is measured, "
    "and how, stands atop that script; measured with `python scripts/compare_precision.py` where nothing else is said."
)
EXTRA: list[tuple[str, str, str, Callable[[list[Row]], str]]] = [
    (
        TIMINGS,
        "## Time",
        "Operators, CG iterations and verification of one solve on the late policy; in brackets: share of the first line "
        "(`scripts/compare_precision.py --timings`).",
        time_table,
    ),
    (
        COUNTS,
        "## With a preconditioner",
        "Iterations until the gain of 25 plain float64 iterations, of 25 re-orthogonalised ones, or of 25 of sb3-contrib's "
        "solver in float32, the early stop of preconditioned CG off: without a "
        "preconditioner → with K-FAC, medians over batches (`scripts/compare_preconditioners.py`).",
        count_table,
    ),
    (
        STEP_TIMINGS,
        "## Time of a policy step of equal gain",
        "Milliseconds and CG iterations of the whole policy step; in brackets: ratio to sb3-contrib's 25 iterations; "
        "gain: of the quadratic model, as a share of that of 25 plain float64 iterations. The early stop of preconditioned CG "
        "is off, except *as shipped*: K-FAC and at most 25 iterations, the damping fixed as everywhere here "
        "(`scripts/compare_preconditioners.py --timings`).",
        step_time_table,
    ),
]


def report(results: Path, docs: Path) -> str:
    """
    Write the page.

    :param results: folder of the CSVs
    :param docs: where to write
    :return: the verdict in words
    """
    rows = read(results / VALUES)
    verdict = judge(rows)
    added = [r["last_iteration_added"] for r in rows if r["solver"] == REFERENCE and r["last_iteration_added"] is not None]
    seeds, samples = sorted({row["seed"] for row in rows}), rows[0]["samples"]
    caption = f"{verdict.systems} systems; float64, re-orthogonalised = 0; dotted: what counts as nothing"
    draw(rows, docs / "figures" / "precision", f"{caption}\npython scripts/compare_precision.py")
    page = ["# Precision of the search direction", SOURCE, "## Verdict", verdict.sentence]
    page.append(
        f"Nothing: at most {NOTHING:g} of the gain and {NO_SHIFT:g} of the step's KL. The last CG iteration of the reference "
        f"adds {statistics.median(added):.1e} of the gain in the median. "
        f"Batches of {samples} samples, seeds {', '.join(seeds)}."
    )
    page += ["## Over all systems", solver_table(rows), "![loss of gain by solver](figures/precision.svg)"]
    page += ["## By policy", "Largest loss over batches and dampings, in the longer of the two solves.", policy_table(rows)]
    for name, title, text, write in EXTRA:
        if (results / name).exists():
            page += [title, text, write(read(results / name))]
    write_whole(docs / "precision.md", "\n\n".join(page) + "\n")
    return verdict.sentence
