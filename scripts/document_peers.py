"""
Write ``docs/peers.md`` and the table in ``README.md`` from ``docs/peers.yml``: what other TRPOs do, and where that was read.

    python scripts/document_peers.py                  # write them
    python scripts/document_peers.py --check          # fail if they are not up to date
    python scripts/document_peers.py --read FOLDER    # do the packages unpacked in FOLDER say what is quoted?

For the last: ``pip download --no-deps sb3-contrib==2.9.2`` and so on, each archive unpacked in FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from evidence.provenance import REPO
from generated_page import parser, with_block, write_or_check

SOURCE = REPO / "docs" / "peers.yml"
PAGE = REPO / "docs" / "peers.md"
README = REPO / "README.md"
OURS, OUR_NAME = "this", "sb3_trpo_ext"
BEGIN, END = "<!-- peers: python scripts/document_peers.py -->\n", "<!-- /peers -->\n"

HEAD = """# Beside other TRPOs

Written by `python scripts/document_peers.py` from `docs/peers.yml`: do not edit.

What a chooser may ask of a TRPO for PyTorch, with the line of code that the answer was read from: {packages},
the newest on PyPI on {read_on}. Lines are those of the packages; links lead to the tag of that release. Tests look up each
quoted line in the packages that are installed with this one; `python scripts/document_peers.py --read FOLDER` does it for
all. How fast they are: [benchmarks](benchmarks.md).

These five do much that this one doesn't: each has other algorithms, and skrl runs some of them in JAX and Warp (not TRPO).
TRPO is all that is here.

*Fails*, of skrl 2.1.1 on several processes: `update` calls `reduce_parameters`, which averages the parameters' `.grad`.
TRPO's policy step makes none, and `torch.cat` of an empty list raises. Seen with two processes on Pendulum-v1, separate
networks for policy and value, and gloo instead of nccl (there was no GPU).

"""

Cell = dict[str, str]


def load() -> dict[str, Any]:
    """
    Read the source.

    :return: ``read_on``, ``packages`` and ``rows``
    """
    found: dict[str, Any] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """
    Write the page.

    :return: Markdown
    """
    known = load()
    packages = ", ".join(f"{each['name']} {each['version']}" for each in known["packages"].values())
    parts = [HEAD.format(packages=packages, read_on=known["read_on"])]
    for row in known["rows"]:
        lines = [
            f"| {OUR_NAME if name == OURS else name} | {cell['can']} | {cell['why']} | {link(cell, known['packages'])} |\n"
            for name, cell in row["cells"].items()
        ]
        parts.append(f"## {row['asks']}\n\n| | | | read |\n| --- | --- | --- | --- |\n{''.join(lines)}\n")
    return "".join(parts).rstrip() + "\n"


def link(cell: Cell, packages: dict[str, Cell]) -> str:
    """
    Lead to what was read.

    :param cell: with ``at``
    :param packages: by the folder that they install
    :return: a Markdown link; of ours, relative to ``docs/``
    """
    path, _, line = cell["at"].partition("#L")
    package = packages.get(path.split("/")[0])
    if package is None:
        return f"[{path}]({path.removeprefix('docs/') if path.startswith('docs/') else f'../{path}'})"
    return f"[{path}, line {line}]({package['url']}{cell['at']})"


def readme() -> str:
    """
    Put the table into the README.

    :return: all of it
    """
    rows = [row for row in load()["rows"] if row.get("readme", True)]
    names = [OUR_NAME if name == OURS else name for name in rows[0]["cells"]]
    lines = [f"| | {' | '.join(names)} |\n", f"|---|{'---|' * len(names)}\n"]
    lines += [f"| {row['asks']} | {' | '.join(cell['can'] for cell in row['cells'].values())} |\n" for row in rows]
    return with_block(README.read_text(encoding="utf-8"), BEGIN, "".join(lines), END)


def misread(place: Callable[[Cell, str], Path | None]) -> list[str]:
    """
    Look for quoted lines that do not say what is quoted.

    :param place: from a package and a path in it to the file; None: it isn't here
    :return: row, column and place of each
    """
    known, wrong = load(), []
    for row in known["rows"]:
        for name, cell in row["cells"].items():
            path, _, line = cell["at"].partition("#L")
            if name == OURS or (file := place(known["packages"][path.split("/")[0]], path)) is None:
                continue
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            if cell["says"] not in "".join(lines[int(line) - 1 : int(line)]):
                wrong.append(f"{row['asks']}, {name}: {cell['at']}")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    arguments = parser(__doc__)
    arguments.add_argument("--read", type=Path, metavar="FOLDER", help="compare with the packages unpacked there")
    args = arguments.parse_args(argv)
    if args.read:
        wrong = misread(lambda _, path: next(args.read.glob(f"**/{path}"), Path(path)))
        print("\n".join(wrong), file=sys.stderr)
        return 1 if wrong else 0
    return write_or_check("document_peers.py", {PAGE: page(), README: readme()}, args.check)


if __name__ == "__main__":
    sys.exit(main())
