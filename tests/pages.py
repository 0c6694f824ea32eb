"""What the tests of the pages share: blocks of code in Markdown, commands run as a reader would, links."""

import os
import re
import subprocess
import sys
from pathlib import Path

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_CODE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} (.+?) *$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str = "") -> list[str]:
    """Code of one language; commands have none."""
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


def commands(page: Path) -> list[list[str]]:
    """Each command, in words, without its comment."""
    lines = [line for text in blocks(page) for line in text.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := line.partition("#")[0].split())]


def run(words: list[str], repo: Path, folder: Path, python: str = sys.executable, codes: tuple[int, ...] = (0,)) -> str:
    """What a command prints, in a folder of its own; a window is one that nobody sees."""
    env = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy", "WANDB_SILENT": "true"}
    done = subprocess.run([python, *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in codes, (words, done.returncode, done.stderr[-2000:])
    return done.stdout + done.stderr


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub and MyST make them; a comment in code is no heading."""
    titles = [LINK.sub("]", title).lower() for title in HEADING.findall(ANY_CODE.sub("", text))]
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}


def dangling(text: str, folder: Path) -> set[str]:
    """Links to files that do not exist, or to a heading that a page does not have; the network is not asked."""
    return {link for link in LINK.findall(text) if not link.startswith(("http:", "https:")) and not _leads(link, text, folder)}


def _leads(link: str, text: str, folder: Path) -> bool:
    name, _, anchor = link.partition("#")
    page = folder / name
    if not page.exists() or not anchor:
        return page.exists()
    return anchor in anchors(page.read_text() if name else text)
