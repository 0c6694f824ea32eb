"""The page of versions is that of the measurements in results/."""

import document_versions
import pandas as pd
import pytest

from sb3_trpo_ext.core import NUMERICS_VERSION


def test_the_committed_page_is_up_to_date() -> None:
    assert document_versions.main(["--check"]) == 0


def test_every_version_says_what_it_changed_and_every_page_is_there() -> None:
    assert sorted(document_versions.CHANGES) == list(range(1, NUMERICS_VERSION + 1))
    for stems in document_versions.PAGES.values():
        for stem in stems:
            assert (document_versions.REPO / "docs" / f"{stem}.md").is_file(), stem


def test_rows_of_others_are_not_counted() -> None:
    rows = [("ours", 2.0), ("ours", 5.0), ("ours-plain-cg", 5.0), ("contrib-zoo", 5.0), ("random", None)]
    assert document_versions.rows_of(pd.DataFrame(rows, columns=["implementation", "numerics_version"])) == "2 (1), 5 (2)"
    assert document_versions.rows_of(pd.DataFrame({"numerics_version": [4, 4, None]})) == "4 (2)"


def test_a_file_that_no_page_tells_of_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(document_versions.PAGES, "soak.csv")
    with pytest.raises(KeyError, match="soak"):
        document_versions.page()
