"""The notebook: kept without outputs, and it runs from top to bottom."""

import json
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PATH = "notebooks/hopper.ipynb"
LIMIT = 120
"""Seconds: it takes 15 on an idle core."""


@pytest.fixture
def notebook(repo: Path) -> Any:
    return nbformat.read(repo / PATH, as_version=4)


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: Any) -> list[str]:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def test_it_is_a_notebook_without_outputs(repo: Path, notebook: Any) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
    assert set(json.loads((repo / PATH).read_text())["metadata"]) == {"kernelspec", "language_info"}  # no trace of an editor
    # What would install something is for a person to switch on.
    assert all(line.startswith("#") for line in cells[0].source.splitlines())


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(repo: Path, notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.monotonic() - begun < LIMIT
    out = printed(notebook)
    assert re.search(r"^accepted KL 0\.0\d+ of at most 0\.03$", out, re.MULTILINE)
    assert re.search(r"^exit code [01]$", out, re.MULTILINE)
    assert "24576 -> 32768 steps; 16 updates in the run folder" in out
    assert float(re.findall(r"mean return (\d+)", out)[0]) > 1000
    assert len(pictures(notebook)) == 1
