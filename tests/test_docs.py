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
from sb3_trpo_ext.monitoring.keys import KEYS

PUBLIC = ("sb3_trpo_ext", "sb3_trpo_ext.export", "sb3_trpo_ext.monitoring", "sb3_trpo_ext.replay", "sb3_trpo_ext.zoo")
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", re.MULTILINE)


def without_a_place(page: str) -> set[str]:
    public = {f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__}
    return (public | {"sb3_trpo_ext.core.NUMERICS_VERSION"}) - set(DIRECTIVE.findall(page))


def test_every_public_name_has_its_place(repo: Path) -> None:
    page = (repo / "docs/api.md").read_text()
    assert without_a_place(page) == set()
    # A name that only the text mentions has none.
    assert without_a_place(page.replace(".. autoclass:: sb3_trpo_ext.Checkpoints", "")) == {"sb3_trpo_ext.Checkpoints"}


def test_migration_names_every_key_and_every_argument_of_ours(repo: Path) -> None:
    named = set(re.findall(r"`([^`\n]+)`", (repo / "docs/migration.md").read_text()))
    keys = {key.removeprefix("train/") for key in KEYS}
    assert keys - {name.removeprefix("train/") for name in named} == set()
    ours = {name for name, each in inspect.signature(TRPO).parameters.items() if each.kind is each.KEYWORD_ONLY}
    assert ours - named == set()


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
    pages = {page.name: page.read_text() for page in tmp_path.glob("*.html")}
    assert {path.stem for path in (repo / "docs").glob("*.md")} - {Path(name).stem for name in pages} == set()
    for name, text in pages.items():
        assert re.findall(r'(?:<script|<img|<link)[^>]*(?:src|href)="https?:', text) == [], name
        assert "$$" not in text, name
    assert "<math" in pages["theory.html"]
    assert (tmp_path / "_static" / "STIXTwoMath-Regular.ttf").exists()
    # Sphinx has a page of this name, which would have taken the place of one of ours.
    assert "Optuna study" in pages["many_machines.html"]


@pytest.mark.slow
def test_the_examples_of_the_pages_run(repo: Path, tmp_path: Path) -> None:
    sphinx(repo, tmp_path, "-b", "doctest")
    said = (tmp_path / "output.txt").read_text()
    assert "0 failures in tests" in said
    assert int(re.findall(r"(\d+) tests?\n", said)[-1]) > 20


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_command_of_the_quickstart_runs(repo: Path, tmp_path: Path) -> None:
    blocks = FENCED.findall((repo / "docs/quickstart.md").read_text())
    lines = [line.partition("#")[0].split() for language, text in blocks if not language for line in text.splitlines()]
    commands = [words for words in lines if words[:1] == ["python"]]
    assert len(commands) == 7
    (script,) = [text for language, text in blocks if language == "python"]
    # A window that nobody sees; and which alarm there is, if any, may differ between processors.
    env = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
    for _, *arguments in [*commands, ["python", "-c", script]]:
        if "replay" in arguments:
            dumps = sorted(tmp_path.glob("logs/trpo/CartPole-v1_1/dumps/*.json"))
            if not dumps:
                continue
            arguments = [*arguments[:-1], str(dumps[0])]
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        verdicts = (0, 1, 2) if "doctor" in arguments else (0,)
        assert done.returncode in verdicts, (arguments, done.stderr[-2000:])
    for name in ("report.html", "cartpole.zip", "logs/trpo/CartPole-v1_1/videos"):
        assert (tmp_path / name).exists(), name
