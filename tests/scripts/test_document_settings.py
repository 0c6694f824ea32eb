"""The page of settings is that of the constructor."""

import inspect
from pathlib import Path

import document_settings
import pytest

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.arguments.validation import SETTINGS


def test_the_committed_page_is_up_to_date() -> None:
    assert document_settings.main(["--check"]) == 0


def test_every_argument_stands_on_the_page_once() -> None:
    lines = document_settings.page().splitlines()
    for name in inspect.signature(TRPO).parameters:
        (line,) = [text for text in lines if text.startswith(f"| `{name}` |")]
        assert line.count(" | ") == 3
        assert name not in SETTINGS or SETTINGS[name].valid in line


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(document_settings, "REPO", tmp_path)
    monkeypatch.setattr(document_settings, "PAGE", tmp_path / "settings.md")
    assert document_settings.main(["--check"]) == 1
    assert document_settings.main([]) == 0
    assert document_settings.main(["--check"]) == 0
    (tmp_path / "settings.md").write_text(document_settings.page().replace("0.99", "0.999"))
    assert document_settings.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is not up to date") == 2
