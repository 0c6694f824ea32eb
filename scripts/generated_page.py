"""What the scripts share that write a page of the docs from the code: they write it, or check that it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """
    Make what reads the command line.

    :param description: for its help
    :return: with the flag ``--check``
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--check", action="store_true", help="write nothing")
    return made


def write_or_check(script: str, pages: dict[Path, str], check: bool) -> int:
    """
    Do what was asked for.

    :param script: file name of the script
    :param pages: what should stand where
    :param check: write nothing
    :return: exit code
    """
    stale = [page for page, text in pages.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    for page in stale:
        if check:
            print(f"{page.name} is not up to date: run python scripts/{script}", file=sys.stderr)
        else:
            page.write_text(pages[page], encoding="utf-8")
    return 1 if check and stale else 0
