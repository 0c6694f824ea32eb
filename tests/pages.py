"""What the tests of the pages share: blocks of code in Markdown, commands run as a reader would, links."""

import os
import re
import subprocess
import sys
from pathlib import Path

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str = "") -> list[str]:
    """Code of one language; commands have none."""
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


def commands(page: Path) -> list[list[str]]:
    """Each line of the commands, in words, without its comment."""
    lines = [line for text in blocks(page) for line in text.splitlines()]
    return [words for line in lines if (words := line.partition("#")[0].split())]


def run(words: list[str], repo: Path, folder: Path) -> None:
    """In a folder of its own; a window is one that nobody sees. The doctor's verdict is its exit code."""
    env = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy", "WANDB_SILENT": "true"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in ((0, 1, 2) if "doctor" in words else (0,)), (words, done.stderr[-2000:])


def dangling(text: str, folder: Path) -> set[str]:
    """Links to files that do not exist; the network is not asked."""
    relative = {link.partition("#")[0] for link in LINK.findall(text) if not link.startswith(("http:", "https:"))}
    return {link for link in relative if link and not (folder / link).exists()}
