"""
Report what is in results/: tables and figures into docs/, nothing that was not run.

    python scripts/report_results.py                          # the longest runs of each task
    python scripts/report_results.py --steps 300000 --name results_300k
    python scripts/report_results.py --methods ours "ours [adaptive_damping=False]"

Needs the extra `bench` (rliable, matplotlib, pandas < 3).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from evidence.command_line import RESULTS, guarded
from evidence.configurations import BadInput
from evidence.provenance import REPO
from evidence.runs import REFERENCE
from evidence.store import write_whole
from rich.console import Console

try:
    import pandas as pd
    from evidence import figures, metrics, scores, sections
except ImportError as error:
    sys.exit(f"report_results: {error}: pip install -e '.[bench]' brings what reports need")

PUBLISHED = RESULTS / "published.csv"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: arguments; None for the process's own
    :return: what was asked for
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="length of the runs (default: the reference's longest on each task)")
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="default: all that the reference has")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: all that the reference has")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: every implementation, without overrides")
    parser.add_argument("--name", default="results", help="of the page and its figures (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs (default: results/)")
    parser.add_argument("--docs", type=Path, default=REPO / "docs", help="where to write (default: docs/)")
    return parser.parse_args(argv)


def draw(
    evidence: scores.Evidence, found: dict[str, dict[str, metrics.Interval]], folder: Path, name: str, command: str
) -> list[str]:
    """
    Draw every figure that the evidence allows.

    :param evidence: the runs
    :param found: aggregates
    :param folder: of the figures
    :param name: beginning of their names
    :param command: how to make them again
    :return: names, without endings
    """
    what = sections.caption(evidence)
    text = f"{what}; bars and bands: 95 % bootstrap intervals\n{command}"
    per_task = {
        task: {m: evidence.curve(m, task) for m in evidence.methods if evidence.seeds_of(m, task)} for task in evidence.tasks
    }
    labels = ("environment steps", "return")
    figures.seeds_figure(folder / f"{name}_curves", per_task, labels, f"{what}; thin: seeds, bold: their mean\n{command}")
    drawn = [f"{name}_curves"]
    if len(evidence.seeds) > 1 and any(evidence.complete(method) for method in evidence.methods):
        panels = {"IQM of normalised scores": (found["iqm"], 1.0)}
        if found["improvement"]:
            panels[f"P(better than {REFERENCE})"] = (found["improvement"], 0.5)
        figures.interval_figure(folder / f"{name}_aggregate", panels, text)
        bands = {}
        for method in evidence.methods:
            if evidence.complete(method):
                share, curves = scores.curve_tensor(evidence, method, evidence.complete(method))
                bands[method] = (share, *metrics.iqm_curve(curves))
        labels = ("share of training", "IQM of normalised returns")
        figures.band_figure(folder / f"{name}_sample_efficiency", bands, labels, text)
        drawn += [f"{name}_aggregate", f"{name}_sample_efficiency"]
    return drawn


def write_page(evidence: scores.Evidence, args: argparse.Namespace, command: str) -> Path:
    """
    Write page and figures.

    :param evidence: the runs
    :param args: the command line
    :param command: how to make it again
    :return: the page
    """
    found = sections.aggregates(evidence)
    names = draw(evidence, found, args.docs / "figures", args.name, command)
    missing = sections.gaps(evidence)
    published = sections.published_table(evidence, pd.read_csv(PUBLISHED))
    parts = [
        f"# Results: {', '.join(evidence.methods)}",
        f"Written by `{command}`: do not edit.",
        f"{sections.caption(evidence)}. Reference: {REFERENCE}.\n\n{sections.METHOD_TEXT}",
        "Missing:\n\n" + "\n".join(f"- {line}" for line in missing) if missing else "Nothing is missing.",
        "## Aggregates\n\n" + sections.aggregate_table(evidence, found),
        *(f"![{name.replace('_', ' ')}: {sections.caption(evidence)}](figures/{name}.svg)" for name in names),
        "## Tasks\n\n" + sections.task_table(evidence),
        "## Seed by seed\n\n" + sections.seed_table(evidence),
        *(["## Beside published figures\n\n" + sections.PUBLISHED_TEXT + "\n\n" + published] if published else []),
        "## Stability\n\n" + sections.STABILITY_TEXT + "\n\n" + sections.stability_table(evidence),
        "## Time\n\n" + sections.TIME_TEXT + "\n\n" + sections.time_table(evidence),
        "## Where it comes from\n\n" + sections.origin(evidence),
    ]
    page = Path(args.docs / f"{args.name}.md")
    write_whole(page, "\n\n".join(parts) + "\n")
    return page


def main(argv: list[str] | None = None) -> int:
    """
    Load, compute, write.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parse_arguments(argv)
    console = Console(soft_wrap=True, highlight=False)

    def body() -> int:
        if not args.results.is_dir():
            raise BadInput(f"{args.results}: no such folder")
        evidence = scores.load(args.results, args.steps, args.tasks, args.methods, args.seeds)
        arguments = sys.argv[1:] if argv is None else argv
        page = write_page(evidence, args, shlex.join(["python", "scripts/report_results.py", *arguments]))
        for line in sections.gaps(evidence):
            console.print(f"missing: {line}", style="yellow", markup=False)
        console.print(f"written: {page} and figures in {args.docs / 'figures'}", markup=False)
        return 0

    return guarded("report_results", body)


if __name__ == "__main__":
    sys.exit(main())
