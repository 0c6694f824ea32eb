"""The pages: every public name has its place, tables written by hand are whole, and all of it builds without a network."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.status import UpdateStatus
from sb3_trpo_ext.monitoring import ALARMS
from sb3_trpo_ext.monitoring.flight_recorder import DIED
from sb3_trpo_ext.records.keys import KEYS
from tests import pages

PUBLIC = ("sb3_trpo_ext", "sb3_trpo_ext.export", "sb3_trpo_ext.monitoring", "sb3_trpo_ext.replay", "sb3_trpo_ext.zoo")
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", re.MULTILINE)


def test_every_link_leads_to_a_file_and_a_heading(repo: Path) -> None:
    read = [*repo.glob("*.md"), *repo.glob("docs/*.md"), repo / "results/README.md"]
    assert len(read) > 30
    dangling = {str(page): found for page in read if (found := pages.dangling(page.read_text(), page.parent))}
    assert dangling == {}


def test_a_heading_that_was_renamed_is_found(repo: Path, tmp_path: Path) -> None:
    migration, theory = ((repo / "docs" / name).read_text() for name in ("migration.md", "theory.md"))
    renamed = migration.replace("\n## Units\n", "\n## Unities\n")
    assert "#units" in pages.dangling(renamed, repo / "docs") - pages.dangling(migration, repo / "docs")
    (tmp_path / "theory.md").write_text(theory.replace("Joint or mean", "Sum or mean"))
    assert "theory.md#joint-or-mean" in pages.dangling("[why](theory.md#joint-or-mean)", tmp_path)
    assert pages.anchors("```\n# no heading\n```\n## The `x` of [it](y.md): 1,000 λ") == {"the-x-of-it-1000-λ"}


def unknown_names(snippets: dict[str, str], folder: Path) -> str:
    """By ruff; ``model`` and ``env`` are the reader's."""
    for name, code in snippets.items():
        (folder / f"{name}.py").write_text(code)
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select",
        "F821",
        "--output-format",
        "concise",
    ]
    return subprocess.run(
        [*ruff, "--config", 'builtins = ["model", "env"]', str(folder)], capture_output=True, text=True
    ).stdout


def test_a_snippet_that_imports_imports_all_that_it_uses(repo: Path, tmp_path: Path) -> None:
    read = [repo / "README.md", *repo.glob("docs/*.md")]
    snippets = {
        f"{page.stem}_{i}": code for page in read for i, code in enumerate(pages.blocks(page, "python")) if "import" in code
    }
    assert len(snippets) > 5
    assert "All checks passed" in unknown_names(snippets, tmp_path)
    assert "Undefined name `make_vec_env`" in unknown_names(
        {"one": "import gymnasium\nenv = make_vec_env('Hopper-v5', 8)"}, tmp_path
    )


LINKED = re.compile(r"\]\((\.\./[\w/]+\.py)\)")
NAME = re.compile(r"`(?:[A-Za-z_]\w*\.)?(?!csv|jsonl)([A-Za-z_]\w*)`")
ROOM = re.compile(r"`((?:\w+/)+)`")


def misplaced(page: str, folder: Path) -> set[str]:
    """Names that no file of their row has, and folders that there are not."""
    rows = [line for line in page.splitlines() if line.startswith("|") and LINKED.search(line)]
    found = set()
    for row in rows:
        code = "".join((folder / name).read_text() for name in LINKED.findall(row) if (folder / name).exists())
        found |= {name for name in NAME.findall(row) if not re.search(rf"\b{name}\b", code)}
    roots = (folder.parent, folder.parent / "sb3_trpo_ext")
    return found | {room for room in ROOM.findall(page) if not any((root / room).is_dir() for root in roots)}


def test_the_architecture_names_what_there_is_where_it_is(repo: Path) -> None:
    page = (repo / "docs/architecture.md").read_text()
    assert misplaced(page, repo / "docs") == set()
    planted = page.replace("`backtrack`, `judge` |", "`backtrack`, `weigh` |").replace("`sb3/ranks/`", "`sb3/rank/`")
    assert misplaced(planted, repo / "docs") == {"weigh", "sb3/rank/"}


def rooms_in(page: str) -> set[str]:
    table = page.partition("## Rooms")[2].partition("\n## ")[0]
    return {room for row in table.splitlines() if row.startswith("|") for room in ROOM.findall(row.split("|")[1])}


def test_every_room_is_in_the_architecture(repo: Path) -> None:
    package = repo / "sb3_trpo_ext"
    there = {f"{path.parent.relative_to(package)}/" for path in package.glob("*/**/__init__.py")}
    assert there - rooms_in((repo / "docs/architecture.md").read_text()) == set()


def without_a_place(page: str) -> set[str]:
    public = {f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__}
    return (public | {"sb3_trpo_ext.core.NUMERICS_VERSION"}) - set(DIRECTIVE.findall(page))


def test_every_public_name_has_its_place(repo: Path) -> None:
    page = (repo / "docs/api.md").read_text()
    assert without_a_place(page) == set()
    # A name that only the text mentions has none.
    assert without_a_place(page.replace(".. autoclass:: sb3_trpo_ext.Checkpoints", "")) == {"sb3_trpo_ext.Checkpoints"}


def test_time_saved_is_said_as_it_was_measured(repo: Path) -> None:
    """By the first table of the benchmarks, which a script writes."""
    benchmarks, migration = ((repo / "docs" / name).read_text() for name in ("benchmarks.md", "migration.md"))
    rows = re.findall(r"^\| whole training, (\w+)-v\d, (\d) environments \|[^|]*\| ([\d.]+) ", benchmarks, re.MULTILINE)
    ratios = {f"{task} in 8" if number == "8" else task: ratio for task, number, ratio in rows}
    assert len(ratios) > 4
    said = " ".join(migration.partition("## What it saves")[2].partition("## ")[0].split())
    assert f"takes {min(ratios.values())} to {max(ratios.values())} of sb3-contrib's time" in said
    for task, ratio in ratios.items():
        assert re.search(rf"{task}(?: environments)? {ratio}\b", said), task


def test_migration_names_every_key_and_every_argument(repo: Path) -> None:
    named = set(re.findall(r"`([^`\n]+)`", (repo / "docs/migration.md").read_text()))
    keys = {key.removeprefix("train/") for key in KEYS}
    assert keys - {name.removeprefix("train/") for name in named} == set()
    assert set(inspect.signature(TRPO).parameters) - named == set()


def dumps_without_a_reason(text: str) -> set[str]:
    """Of those that a page names; a recorder names them by an alarm's code, a status, or what the run died of."""
    reasons = {*(f"alarm_{code}" for code in ALARMS), *map(str, UpdateStatus), DIED}
    return set(re.findall(r"update_\d{6}_(\w+)\.json", text)) - reasons


def test_dumps_bear_the_names_that_a_recorder_gives(repo: Path) -> None:
    read = "".join(page.read_text() for page in (repo / "docs").glob("*.md"))
    assert dumps_without_a_reason(read) == set()
    assert dumps_without_a_reason("dumps/update_000042_rejected.json") == {"rejected"}


def sphinx(repo: Path, out: Path, *arguments: str) -> None:
    """With the warnings of Python switched off: those of the examples are theirs."""
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", "-W", "--keep-going", "-q", *arguments]
    done = subprocess.run(
        [*command, str(repo / "docs"), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.slow
def test_the_pages_build_and_need_no_network(repo: Path, tmp_path: Path) -> None:
    sphinx(repo, tmp_path, "-b", "html", "-n")
    built = {page.name: page.read_text() for page in tmp_path.glob("*.html")}
    assert {path.stem for path in (repo / "docs").glob("*.md")} - {Path(name).stem for name in built} == set()
    for name, text in built.items():
        assert re.findall(r'(?:<script|<img|<link)[^>]*(?:src|href)="https?:', text) == [], name
        assert "$$" not in text, name
    assert "<math" in built["theory.html"]
    assert (tmp_path / "_static" / "STIXTwoMath-Regular.ttf").exists()
    # Sphinx has a page of this name, which would have taken the place of one of ours.
    assert "Optuna study" in built["many_machines.html"]


@pytest.mark.slow
def test_the_examples_of_the_pages_run(repo: Path, tmp_path: Path) -> None:
    sphinx(repo, tmp_path, "-b", "doctest")
    said = (tmp_path / "output.txt").read_text()
    assert "0 failures in tests" in said
    assert int(re.findall(r"(\d+) tests?\n", said)[-1]) > 20
