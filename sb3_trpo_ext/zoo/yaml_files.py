"""
YAML that a person has written, or that nobody need trust: plain values only, each key once, within bounds.

References (``&name``, ``*name``, ``<<``) are read, because the Zoo's files use them; what they stand for counts each time.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from sb3_trpo_ext.records.one_line import one_line
from sb3_trpo_ext.sb3.arguments.naming import maybe

LARGEST_FILE = 2**20
"""Bytes; the Zoo's largest has 20,000."""

LARGEST_TREE = 100_000
"""Values, references written out; our YAML has 500."""

DEEPEST = 50
"""Levels of nesting; a Zoo YAML has 6."""


class ConfigError(ValueError):
    """
    What stands in a file, or about it on the command line, can't be used.

    :param message: one line for a person; what it quotes is made printable
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


def read_yaml(path: Path) -> Any:
    """
    Read a file.

    :param path: the file
    :return: what it holds
    :raises ConfigError: if it can't be read, is too large, or is no such YAML
    """
    text = read_text(path)
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_text(path: Path) -> str:
    """
    Read a file of text, within bounds.

    :param path: the file
    :return: its text
    :raises ConfigError: if it can't be read or is too large
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, not a YAML file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"{path}: has more than {LARGEST_FILE >> 10} KiB")
        return content.decode()
    except ConfigError:
        raise
    except FileNotFoundError as error:
        near = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: there is no such file{maybe(path.name, near)}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: can't be read ({' '.join(str(error).split())})") from error


def parse_yaml(text: str) -> Any:
    """
    Read a text.

    :param text: YAML
    :return: plain values
    :raises ConfigError: saying what is wrong in which line
    """
    if len(text) > LARGEST_FILE:
        raise ConfigError(f"has more than {LARGEST_FILE >> 10} KiB")
    if yaml.reader.Reader.NON_PRINTABLE.search(text):
        raise ConfigError("no valid YAML: it holds control characters")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Weighing().weigh(node, 0)
        return loader.construct_document(node)  # type: ignore[no-untyped-call]
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"no valid YAML: {str(error.problem or error.context)[:200]}{_line(error.problem_mark)}") from error
    except RecursionError as error:
        raise ConfigError(f"no valid YAML: nested more than {DEEPEST} levels deep") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        # Dates that there are not, integers of 5,000 digits: PyYAML lets through what Python says.
        raise ConfigError(f"no valid YAML: {' '.join(str(error).split())[:200]}") from error
    finally:
        loader.dispose()


def _line(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


class _Weighing:
    """Counts what a document would hold with its references written out, before anything is made of it."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._open: set[int] = set()

    def weigh(self, node: yaml.Node, depth: int) -> int:
        """
        Count.

        :param node: a part of the document
        :param depth: levels above it
        :return: how many values it stands for
        :raises ConfigError: too many, too deep, a reference to what holds it, or a key twice
        """
        if id(node) in self._open:
            raise ConfigError(f"no valid YAML: a reference to what it is a part of{_line(node.start_mark)}")
        if depth > DEEPEST:
            raise ConfigError(f"no valid YAML: nested more than {DEEPEST} levels deep{_line(node.start_mark)}")
        if id(node) not in self._known:
            self._open.add(id(node))
            self._known[id(node)] = 1 + sum(self.weigh(part, depth + 1) for part in _parts(node))
            self._open.discard(id(node))
        if self._known[id(node)] > LARGEST_TREE:
            raise ConfigError(f"no valid YAML: its references stand for more than {LARGEST_TREE} values")
        return self._known[id(node)]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"no valid YAML: a key that is no plain word{_line(key.start_mark)}")
        if (key.tag, key.value) in seen:
            raise ConfigError(f"the key {key.value[:80]!r} stands there twice{_line(key.start_mark)}")
        seen.add((key.tag, key.value))
    return [part for pair in node.value for part in pair]
