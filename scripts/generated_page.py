"""What the scripts share that write a page of the docs from the code: they write it, or check that it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def write_or_check(script: str, description: str | None, page: Path, text: str, argv: list[str] | None) -> int:
    """
    Do what was asked for.

    :param script: file name of the script
    :param description: for its help
    :param page: where the page is
    :param text: what it should be
    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args(argv).check:
        page.write_text(text, encoding="utf-8")
        return 0
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{page.name} is not up to date: run python scripts/{script}", file=sys.stderr)
    return 1
