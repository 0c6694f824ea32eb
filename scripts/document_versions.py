"""
Write ``docs/versions.md``: of which NUMERICS_VERSION each measurement in ``results/`` is.

    python scripts/document_versions.py            # write it
    python scripts/document_versions.py --check    # fail if it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pandas as pd
from evidence.provenance import REPO
from generated_page import parser, write_or_check

from sb3_trpo_ext.core import NUMERICS_VERSION

PAGE = REPO / "docs" / "versions.md"

CHANGES = {
    1: "the first: any network's products by automatic differentiation",
    2: "plain MLPs in closed form: the same sums, rounded in another way",
    3: "a rollout's values are computed in one batch: rounded in another way",
    4: "large batches and networks in parts, and attention's products rounded in another way; not of small MLPs",
    5: "smaller graphs of products for large networks, and `cg_damping=0` adapts; not of the shipped MuJoCo settings",
}
"""What each version changed (docs/changelog.md has it in full)."""

PAGES = {
    "benchmark_environments.csv": ("benchmarks",),
    "benchmark_training.csv": ("benchmarks",),
    "benchmark_update.csv": ("benchmarks",),
    "chunks.csv": ("large",),
    "cnn_chunks.csv": ("large",),
    "cnn_precision.csv": ("large",),
    "fault_matrix.csv": ("resilience", "peers"),
    "incidents.csv": ("incidents", "debugging"),
    "memory.csv": ("large",),
    "precision.csv": ("precision",),
    "precision_preconditioners.csv": ("precision",),
    "precision_step_timings.csv": ("precision", "benchmarks"),
    "precision_timings.csv": ("precision",),
    "recomputation.csv": ("large",),
    "residual_window.csv": ("large",),
    "runs.csv": ("results", "results_300k", "results_ppo", "equivalence"),
    "soak.csv": ("checkpoints",),
    "swap_solvers.csv": ("equivalence",),
    "tuning/runs.csv": ("tuning",),
    "tuning_trials.csv": ("tuning",),
    "update_sizes.csv": ("trpo_or_ppo",),
}
"""What is told where."""

HEAD = f"""# Of which version the numbers are

Written by `python scripts/document_versions.py` from `results/`: do not edit.

`core.NUMERICS_VERSION` rises with every change of what an update computes by as little as a bit; now it is {NUMERICS_VERSION}.
What was measured stays as it was measured, so some of it is of an older version:

"""

TAIL = """
[results](results.md), [results_300k](results_300k.md) and [results_ppo](results_ppo.md) are of the newest version alone,
[equivalence](equivalence.md) mostly of 1 and 2. Steps of 64x64 networks differ from those of version 1 by rounding, so single
learning curves do; that means over seeds differ by no more than their intervals is to be expected, and was not measured. Times
of the versions 2 and 3 were not taken again.
"""

COLUMNS = "| file | pages | rows of version |\n| --- | --- | --- |\n"


def rows_of(table: pd.DataFrame) -> str:
    """
    Count the rows of each version.

    :param table: a CSV of results; where it names implementations, ours alone count
    :return: "3 (12), 5 (40)"
    """
    if "implementation" in table:
        table = table[table.implementation.str.startswith("ours")]
    counts = table.numerics_version.dropna().astype(int).value_counts().sort_index()
    return ", ".join(f"{version} ({count})" for version, count in counts.items())


def lines() -> Iterator[str]:
    """
    Describe each file that has versions.

    :yields: a line of the table each
    """
    for path in sorted((REPO / "results").rglob("*.csv")):
        table = pd.read_csv(path, low_memory=False)
        if "numerics_version" in table:
            name = path.relative_to(REPO / "results").as_posix()
            links = ", ".join(f"[{stem}]({stem}.md)" for stem in PAGES[name])
            yield f"| `results/{name}` | {links} | {rows_of(table)} |\n"


def page() -> str:
    """
    Write the whole page.

    :return: Markdown
    """
    changes = "".join(f"- **{version}**: {change}\n" for version, change in CHANGES.items())
    return HEAD + changes + "\n" + COLUMNS + "".join(lines()) + TAIL


def main(argv: list[str] | None = None) -> int:
    """
    Write the page, or check it.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parser(__doc__).parse_args(argv)
    return write_or_check("document_versions.py", {PAGE: page()}, args.check)


if __name__ == "__main__":
    sys.exit(main())
