"""
Draw ``docs/figures/readme``, the README's figure, from ``results/``: one incident, and the time of whole trainings.

    python scripts/draw_readme.py

Its numbers are those of ``docs/incidents.md`` (``scripts/incidents.py``) and ``docs/benchmarks.md``
(``scripts/benchmark_training.py``).
"""

from __future__ import annotations

import sys

from benchmarks.page import read
from benchmarks.trainings import CONTRIB as THEIRS
from benchmarks.trainings import OURS, SIMULATOR, WHOLE
from evidence.figures import drawn
from evidence.provenance import REPO
from incident_suite.report import LOOKS, draw_side
from incident_suite.scenario import CONTRIB, CURED, HEALTHY, TASK
from incident_suite.store import Store
from incidents import INCIDENTS
from matplotlib.axes import Axes

FIGURE = REPO / "docs" / "figures" / "readme"
STALE_WORKERS = "a"
TASKS = ("CartPole-v1", "HalfCheetah-v5", "Hopper-v5", "Ant-v5")
N_ENVS = "2"


def main() -> int:
    """
    Draw it.

    :return: exit code
    """
    with drawn(FIGURE, {"ncols": 2, "figsize": (8.4, 2.9), "width_ratios": [1.25, 1]}) as (_, (left, right)):
        draw_incident(left)
        draw_times(right)
    return 0


def draw_incident(axis: Axes) -> None:
    """
    Draw workers that go on with old weights from one update on.

    :param axis: where
    """
    incident, rows = INCIDENTS[STALE_WORKERS], Store(REPO / "results").rows()
    for side, label in {
        HEALTHY: "sb3-contrib, workers up to date",
        CONTRIB: "sb3-contrib",
        CURED: 'ours, on_stale_batch="skip"',
    }.items():
        draw_side(axis, incident, side, rows, label)
    axis.axvline(incident.onset, color="0.4", linestyle=":", linewidth=1)
    axis.set(xlabel="update", ylabel="return, mean of ten updates", ylim=(0, 520))
    axis.set_title(f"Workers act with old weights ({TASK}, from the dotted line on)", fontsize=9)
    axis.legend(frameon=False, fontsize=7.5, loc=(0.14, 0.03))


def draw_times(axis: Axes) -> None:
    """
    Draw the time of a whole training as a share of sb3-contrib's, with quartiles, and the simulator's part of it.

    :param axis: where
    """
    rows = {
        (row["task"], row["side"]): row
        for row in read(REPO / "results" / "benchmark_training.csv")
        if row["n_envs"] == N_ENVS and row["part"] == WHOLE
    }
    for place, task in enumerate(reversed(TASKS)):
        ours, simulator = rows[task, OURS], rows[task, SIMULATOR]
        ratio, low, high = (float(ours[name]) for name in ("ratio", "ratio_low", "ratio_high"))
        axis.barh(place, 1, color="0.88", height=0.7)
        axis.barh(
            place, ratio, color=LOOKS[CURED]["color"], height=0.7, xerr=[[ratio - low], [high - ratio]], error_kw={"lw": 1}
        )
        axis.barh(place, float(simulator["ratio"]), color="0.25", alpha=0.45, height=0.7, hatch="///", edgecolor="white")
        axis.text(0.98, place, f"{ratio:.2f}", va="center", ha="right", fontsize=9)
    axis.set_yticks(range(len(TASKS)), [task.split("-")[0] for task in reversed(TASKS)])
    axis.set(xlim=(0, 1), xlabel=f"share of {THEIRS}'s time (hatched: simulator)")
    axis.grid(visible=False)
    axis.set_title("Time of a whole training, RL Zoo settings", fontsize=9)


if __name__ == "__main__":
    sys.exit(main())
