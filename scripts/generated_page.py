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


def with_block(page: str, begin: str, text: str, end: str) -> str:
    """
    Put what is generated between its marks in a page that is otherwise written by hand.

    :param page: Markdown with both marks
    :param begin: the first mark, with its line end
    :param text: what stands between them
    :param end: the second mark, with its line end
    :return: the page, otherwise as it was
    """
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{text}{end}{rest.partition(end)[2]}"


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
