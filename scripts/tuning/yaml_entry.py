"""Replace one entry of a Zoo YAML and the comment above it, and leave every other line as it is."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import yaml
from evidence.configurations import BadInput, Entry

LINE_LENGTH = 120
RISKY = "  # a joint bound above 0.1 is risky, and was found to be good here"


def with_entry(text: str, task: str, entry: Entry, comment: str) -> str:
    """
    Replace an entry.

    :param text: a Zoo YAML
    :param task: its key
    :param entry: complete settings
    :param comment: stands above it, in place of the comment that stood there
    :return: the YAML with this entry; all others mean what they meant
    :raises BadInput: if there is no such entry
    """
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if re.match(rf"{re.escape(task)}:(\s|$)", line)), None)
    if start is None:
        raise BadInput(f"no entry {task} to replace")
    end = _end_of(lines, start)
    anchor = re.search(r"&([\w-]+)", lines[start])
    above = start
    while above and lines[above - 1].startswith("#"):
        above -= 1
    written = [*(f"# {line}" for line in textwrap.wrap(comment, LINE_LENGTH)), f"{task}:", *_lines_of(entry)]
    before, old, after = lines[:above], lines[start:end], lines[end:]
    if anchor:
        after = _without_merge(after, anchor[1], old[1:])
    result = "\n".join([*before, *written, *after]) + "\n"
    _check(text, result, task, entry)
    return result


def _end_of(lines: list[str], start: int) -> int:
    """The line after an entry: its lines are indented."""
    end = start + 1
    while end < len(lines) and lines[end].startswith(" "):
        end += 1
    return end


def _lines_of(entry: Entry) -> list[str]:
    """Settings as the file writes them: a line each."""
    lines = []
    for key, value in entry.items():
        line = f"  {key}: {_scalar(value)}"
        lines.append(line + RISKY if key == "warn_on_risky" else line)
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        # 1e-3 is text to YAML 1.1, hence the tag; steps are written as people say them, 2e5.
        short = re.sub(r"\.?0*e\+0*", "e", f"{value:e}") if abs(value) >= 1e4 else f"{value:g}"
        return f"!!float {short}" if "e" in short and float(short) == value else repr(value)
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.]+", value) and not value.isdigit() else f'"{value}"'
    return yaml.safe_dump(value, default_flow_style=True, width=1_000).splitlines()[0]


def _without_merge(lines: list[str], anchor: str, merged: list[str]) -> list[str]:
    """Write out, in the entries that merged it, what an anchor that is going away stood for."""
    result: list[str] = []
    for number, line in enumerate(lines):
        if line.strip() != f"<<: *{anchor}":
            result.append(line)
            continue
        start = max(above for above in range(number) if lines[above] and not lines[above].startswith((" ", "#")))
        own = {_key(other) for other in lines[start + 1 : _end_of(lines, start)]} - {"<<"}
        result += [other for other in merged if _key(other) not in own]
    return result


def _key(line: str) -> str:
    return line.partition(":")[0].strip()


def _check(before: str, after: str, task: str, entry: Entry) -> None:
    """Nothing else may have changed, and this entry must be read as what was trained."""
    old = yaml.safe_load(before)
    try:
        new = yaml.safe_load(after)
    except yaml.YAMLError:
        new = None
    if new != {**old, task: entry} or list(new) != list(old):
        raise BadInput(f"{task}: the file is written in a way that can't be edited safely; nothing was changed")
