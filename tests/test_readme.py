"""The README: its links lead somewhere, and what it says to type exists; ``tests/test_install_lines.py`` runs it."""

import re
import subprocess
from pathlib import Path

import pytest

from tests import pages


@pytest.fixture
def readme(repo: Path) -> Path:
    return repo / "README.md"


def test_every_link_leads_to_a_file(readme: Path) -> None:
    text = readme.read_text()
    assert pages.dangling(text, readme.parent) == set()
    assert pages.dangling(text.replace("(docs/theory.md)", "(docs/no_theory.md)"), readme.parent) == {"docs/no_theory.md"}


def test_make_knows_its_targets(readme: Path) -> None:
    """
    Here make only says what it would do.

    ``make test`` runs this test, in CI too; the script of ``make run`` runs in ``tests/zoo/test_main_job.py``.
    """
    targets = [words[1] for words in pages.commands(readme) if words[0] == "make"]
    assert targets == ["run", "test"]
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=readme.parent, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), target
        assert {"run": "scripts/main_job.py", "test": "pytest"}[target] in done.stdout


def test_pip_is_asked_for_extras_that_there_are(readme: Path) -> None:
    """Nothing is installed here; ``tests/test_install_lines.py`` does, slowly."""
    asked = re.findall(r"pip install .*", readme.read_text())
    extras = {extra for line in asked for names in re.findall(r"\[([\w,]+)\]", line) for extra in names.split(",")}
    there = (readme.parent / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert extras == {"zoo", "wandb", "doctor"}
    assert extras - set(re.findall(r"^(\w+) = \[", there, re.MULTILINE)) == set()


def test_no_command_is_left_out(readme: Path) -> None:
    assert {words[0] for words in pages.commands(readme)} == {"make", "python", "torchrun"}
