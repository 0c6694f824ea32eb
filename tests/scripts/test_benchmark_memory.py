"""The plan of the memory benchmark, and the rows that are committed."""

from dataclasses import asdict

import benchmark_memory as bench
from benchmarks.large import CNN, CONTRIB, LARGE_MLP, MLP, Update


def test_nothing_is_planned_twice() -> None:
    planned = [bench.key_of(bench.text_of(update)) for update in bench.plan([MLP, CNN, LARGE_MLP], [], "cpu")]
    assert len(planned) == len(set(planned))


def test_sb3_contrib_is_left_out_where_its_graph_would_not_fit() -> None:
    planned = list(bench.plan([CNN], [], "cpu"))
    assert max(update.samples for update in planned) == 8192
    assert max(update.samples for update in planned if update.side == CONTRIB) == bench.LIMIT[CNN]


def test_ours_is_measured_again_under_new_numerics() -> None:
    row = {"side": "ours", "numerics_version": "0"}
    assert not bench.is_current(row)
    assert bench.is_current({**row, "side": CONTRIB})


def test_what_is_measured_is_known_by_its_text() -> None:
    assert list(bench.text_of(Update(MLP, 8))) == list(asdict(Update(MLP, 8))) == bench.WHAT


def test_committed_rows_are_whole_and_in_the_table() -> None:
    rows = [row for row in bench.read() if bench.is_current(row)]
    assert rows
    assert list(rows[0]) == bench.COLUMNS
    assert len({bench.key_of(row) for row in rows}) == len(rows)
    assert len(bench.table(rows).splitlines()) == len(rows) + 2
    assert {bench.label_of(row) for row in bench.plain(rows)} >= {CONTRIB, "ours, default"}
