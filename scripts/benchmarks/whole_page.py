"""docs/benchmarks.md: trainings first, then what they are made of; written from the CSVs in results/ alone."""

from __future__ import annotations

from pathlib import Path

from evidence.provenance import REPO
from evidence.store import write_whole

from benchmarks import page, training_page

PAGE, RESULTS, UPDATE_CSV = REPO / "docs" / "benchmarks.md", REPO / "results", "benchmark_update.csv"


def write(path: Path = PAGE, folder: Path = RESULTS) -> None:
    """
    Write the page.

    :param path: of the page
    :param folder: of the CSVs
    """
    update = page.page(page.read(folder / UPDATE_CSV), f"results/{UPDATE_CSV}")
    write_whole(path, f"{training_page.sections(folder)}\n{update}")
