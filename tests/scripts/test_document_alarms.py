"""The page of alarms is that of the table."""

from pathlib import Path

import document_alarms
import pytest

from sb3_trpo_ext.monitoring import ALARMS


def test_the_committed_page_is_up_to_date() -> None:
    assert document_alarms.main(["--check"]) == 0


def test_every_alarm_stands_on_the_page_once_under_its_heading() -> None:
    lines = document_alarms.page().splitlines()
    for kind in ALARMS.values():
        (line,) = [text for text in lines if text.startswith(f"| {kind.code} |")]
        assert kind.meaning in line
        assert kind.remedy in line
        heading = [text for text in lines[: lines.index(line)] if text.startswith("## ")][-1]
        assert heading == f"## {document_alarms.GROUPS[kind.code[2]]}"


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(document_alarms, "REPO", tmp_path)
    monkeypatch.setattr(document_alarms, "PAGE", tmp_path / "alarms.md")
    assert document_alarms.main(["--check"]) == 1
    assert document_alarms.main([]) == 0
    assert document_alarms.main(["--check"]) == 0
    (tmp_path / "alarms.md").write_text(document_alarms.page().replace("TR103", "TR199"))
    assert document_alarms.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is not up to date") == 2
