"""What other TRPOs do: the README's table and the page are those of the source, and what was read stands where it says."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import document_peers
import pytest

from sb3_trpo_ext.monitoring import ALARMS
from tests import pages


def installed(package: document_peers.Cell, path: str) -> Path | None:
    """Of the version that was read, or none."""
    try:
        found = distribution(package["name"])
    except PackageNotFoundError:
        return None
    return Path(str(found.locate_file(path))) if found.version == package["version"] else None


def test_the_committed_pages_are_up_to_date() -> None:
    assert document_peers.main(["--check"]) == 0


def test_every_cell_leads_to_what_was_read(repo: Path) -> None:
    known = document_peers.load()
    for row in known["rows"]:
        assert list(row["cells"]) == ["sb3-contrib", "tianshou", "skrl", "omnisafe", "pfrl", "this"]
        for name, cell in row["cells"].items():
            place = f"{row['asks']}, {name}"
            assert all(cell[each] for each in ("can", "why")), place
            link = document_peers.link(cell, known["packages"])
            if name == "this":
                assert pages.dangling(link, repo / "docs") == set(), place
            else:
                assert cell["says"], place
                assert link.partition("](")[2].startswith("https://github.com/"), place
                assert "#L" in link, place


def test_installed_packages_say_what_is_quoted(tmp_path: Path) -> None:
    """sb3-contrib, SB3 and skrl; the others by hand, with ``--read``."""
    assert document_peers.misread(installed) == []
    away = tmp_path / "empty.py"
    away.touch()
    assert len(document_peers.misread(lambda _, path: away)) == 5 * len(document_peers.load()["rows"])


def test_the_number_of_alarms_is_right() -> None:
    (row,) = [row for row in document_peers.load()["rows"] if row["asks"] == "Alarms"]
    assert row["cells"]["this"]["can"] == str(len(ALARMS))


def test_a_stale_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = document_peers.README.read_text()
    monkeypatch.setattr(document_peers, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(text.replace("| Resume | model |", "| Resume | ✓ |"))
    assert document_peers.main(["--check"]) == 1
    assert capsys.readouterr().err == "README.md is not up to date: run python scripts/document_peers.py\n"
    assert document_peers.main([]) == 0
    assert (tmp_path / "README.md").read_text() == text
