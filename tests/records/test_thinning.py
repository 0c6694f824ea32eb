"""Which updates of a long run are recorded."""

import math

import pytest

from sb3_trpo_ext.records.thinning import EVERY_UPDATE_UNTIL, is_recorded


def test_a_run_of_ordinary_length_has_every_update() -> None:
    assert all(map(is_recorded, range(EVERY_UPDATE_UNTIL + 1)))
    assert not is_recorded(EVERY_UPDATE_UNTIL + 1)


@pytest.mark.parametrize("first", [1, 2, 7, 10, 100, 1000])
def test_the_number_of_rows_is_bounded_by_the_logarithm_of_the_length(first: int) -> None:
    rows, last = 0, 0
    for number in range(1, 200 * first + 1):
        if is_recorded(number, first):
            # Never further apart than a small share of the run so far.
            assert number - last == 1 or (number - last) * first <= 2 * number + first
            rows, last = rows + 1, number
        assert rows <= first + (first + 1) / 2 * math.ceil(math.log2(max(1.0, number / first)))
    assert rows > 4 * first


@pytest.mark.parametrize("doublings", [0, 1, 2, 10])
def test_ten_million_updates(doublings: int) -> None:
    """Each doubling adds as many rows, at even distances; looked at in stretches."""
    until, stride = EVERY_UPDATE_UNTIL << doublings, 1 << doublings
    begins = until // 2 if doublings else 0
    for start in range(begins, until - 2 * stride, (until - begins) // 50):
        assert sum(map(is_recorded, range(start + 1, start + 2 * stride + 1))) == 2
    assert (until - begins) // stride == (EVERY_UPDATE_UNTIL // 2 if doublings else EVERY_UPDATE_UNTIL)
