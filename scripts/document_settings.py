"""
Write ``docs/settings.md`` from the rules that the constructor checks, its signature and its docstring.

    python scripts/document_settings.py            # write it
    python scripts/document_settings.py --check    # fail if it is not up to date
"""

from __future__ import annotations

import inspect
import re
import sys

from evidence.provenance import REPO
from generated_page import parser, write_or_check

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.arguments.validation import OF_SB3, SETTINGS

PAGE = REPO / "docs" / "settings.md"

HEAD = """# Settings

Written by `python scripts/document_settings.py` from the rules that `TRPO`'s constructor checks: do not edit.

Every argument, as a keyword or a key of a Zoo YAML (there `env`, `seed`, `verbose`, `device`, `tensorboard_log` are flags).
What is not possible is refused before anything is made, in one line with the argument, its value, what is possible and the
nearest right name. Those below the first table are ours; in sb3-contrib there are none by these names.

"""

COLUMNS = "| argument | possible | default | meaning |\n| --- | --- | --- | --- |\n"
ELSEWHERE = {
    "policy": "a name (`MlpPolicy`, `CnnPolicy`, `MultiInputPolicy`), or a class",
    "env": "a registered id, a `gymnasium.Env` or a `VecEnv`",
    "_init_setup_model": "True or False",
}
"""Arguments with no rule of their own."""


def page() -> str:
    """
    Write the page.

    :return: Markdown
    """
    parameters = [each for each in inspect.signature(TRPO).parameters.values() if each.name != "self"]
    ours = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    theirs = [each for each in parameters if each not in ours]
    tables = [COLUMNS + "".join(map(row, part)) for part in (theirs, ours)]
    return HEAD + "## As in sb3-contrib\n\n" + tables[0] + "\n## Ours\n\n" + tables[1]


def row(parameter: inspect.Parameter) -> str:
    """
    Write a row.

    :param parameter: an argument of the constructor
    :return: one line of Markdown
    """
    name = parameter.name
    rule = {**SETTINGS, **OF_SB3}.get(name)
    possible = ELSEWHERE[name] if rule is None else rule.valid
    default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
    return f"| `{name}` | {possible} | {default} | {meanings()[name].replace('``', '`')} |\n".replace("| |", "|  |")


def meanings() -> dict[str, str]:
    """
    Read the docstring.

    :return: what each argument means, by its name
    """
    text = " ".join((inspect.getdoc(TRPO) or "").split())
    return dict(re.findall(r":param (\w+): (.*?)(?= :param | :raises )", text))


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    return write_or_check("document_settings.py", {PAGE: page()}, parser(__doc__).parse_args(argv).check)


if __name__ == "__main__":
    sys.exit(main())
