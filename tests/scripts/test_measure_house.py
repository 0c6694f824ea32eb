"""Code lines are counted as they are said to be, each in its room."""

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rliable", reason="intervals need the extra `bench`")

import measure_house

SOURCE = '''"""
A docstring.
"""

# A comment.
LIMIT = 3  # with a reason
"""Of a constant,
in two lines."""


def message(name: str) -> str:
    """Of a function."""
    text = """kept,
    in two lines"""
    return (
        text + "# no comment" + name
    )
'''


def test_docstrings_comments_and_blank_lines_are_no_code() -> None:
    assert measure_house.code_lines(SOURCE) == 7
    assert measure_house.code_lines("") == 0


def test_each_module_has_its_room() -> None:
    rooms = {"__main__.py": "top", "core/cg.py": "core", "sb3/trpo.py": "sb3", "sb3/update/report.py": "sb3/update"}
    rooms["monitoring/display/progress.py"] = "monitoring"
    assert {path: measure_house.room_of(Path(path)) for path in rooms} == rooms


def test_rooms_of_an_old_tree_are_shown_beside_those_of_a_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    new, old = Counter({"core": 10, "sb3": 1, "sb3/update": 5}), Counter({"core": 12, "sb3": 7})
    measure_house.show_lines(new, old, measure_house.Console())
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["core", "12", "10", "-2"] in rows
    assert ["sb3", "in", "all", "7", "6", "-1"] in rows
    assert ["the", "package", "19", "16", "-3"] in rows


def test_imports_are_compared_with_something(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        measure_house.main(["--imports", "3"])
    assert "name it with --old" in capsys.readouterr().err


def test_imports_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def seconds(tree: Path) -> float:
        asked.append(tree.name)
        return {"old": 2.0, "new": 1.0}[tree.name]

    monkeypatch.setattr(measure_house, "import_seconds", seconds)
    assert measure_house.import_times(Path("old"), Path("new"), 2).tolist() == [[2.0, 1.0], [2.0, 1.0]]
    assert asked == ["old", "new", "old", "new", "new", "old"]
