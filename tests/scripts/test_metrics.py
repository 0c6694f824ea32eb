"""The arithmetic of reports, against examples that were worked out by hand."""

import numpy as np
import pytest

pytest.importorskip("rliable", reason="reports need the extra `bench`")

from evidence import metrics


def test_normalised_scores() -> None:
    scores = metrics.normalise(np.array([10.0, 60.0, 110.0, -40.0]), random=10.0, reference=110.0)
    assert scores.tolist() == [0.0, 0.5, 1.0, -0.5]
    assert metrics.normalise(np.array([-200.0]), random=-1_200.0, reference=-200.0).tolist() == [1.0]  # negative returns
    with pytest.raises(ValueError, match="no better than the random policy"):
        metrics.normalise(np.array([1.0]), random=2.0, reference=2.0)


def test_the_iqm_drops_a_quarter_at_each_end_of_all_runs() -> None:
    scores = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]])  # middle half of 8: 2, 3, 4, 5
    assert metrics.iqm(scores) == 3.5


def test_an_interval_of_equal_runs_is_a_point_and_others_hold_their_estimate() -> None:
    assert metrics.iqm_interval(np.full((5, 2), 1.25)) == (1.25, 1.25, 1.25)
    point, low, high = metrics.mean_interval(np.arange(5.0)[:, None])
    assert point == 2.0
    assert 0.0 <= low < 2.0 < high <= 4.0
    # 5 values: standard error of the mean sqrt(2 / 5) = 0.63; the percentile interval is about 2 x 1.96 of these wide
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(2 / 5), rel=0.1)
    point, low, high = metrics.median_interval(np.array([1.0, 1.0, 1.1, 1.2, 9.0])[:, None])
    assert (point, low, high) == (1.1, 1.0, 9.0)


def test_intervals_are_the_same_each_time_and_leave_numpys_generator_alone() -> None:
    scores = np.random.default_rng(1).standard_normal((5, 3))
    np.random.seed(7)  # noqa: NPY002
    first = metrics.iqm_interval(scores)
    after = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    assert np.random.random() == after  # noqa: NPY002
    assert metrics.iqm_interval(scores) == first


def test_probability_of_improvement_counts_pairs() -> None:
    better, worse = np.array([[3.0], [4.0]]), np.array([[1.0], [2.0]])
    assert metrics.improvement_interval(better, worse)[0] == 1.0
    assert metrics.improvement_interval(worse, better)[0] == 0.0
    # (1, 4) against (2, 3): 4 beats both, 1 beats none
    assert metrics.improvement_interval(np.array([[1.0], [4.0]]), np.array([[2.0], [3.0]]))[0] == 0.5


def test_a_curve_of_iqms_is_that_of_each_point() -> None:
    scores = np.stack([np.full((4, 1), value) for value in (0.0, 0.5, 1.0)], axis=-1)
    points, intervals = metrics.iqm_curve(scores)
    assert points.tolist() == [0.0, 0.5, 1.0]
    assert intervals.tolist() == [[0.0, 0.5, 1.0]] * 2


@pytest.mark.parametrize(
    ("returns", "cap", "expected"),
    [
        ([0, 10, 20, 30], np.inf, 0.0),  # never fell
        ([0, 100, 40, 90], np.inf, 0.6),  # from 100 to 40
        ([0, 100, 60, 200, 100], np.inf, 0.5),  # the later fall is the larger share
        ([0, 100, 60, 200, 100], 100.0, 0.4),  # what lay above 100 is not charged for
        ([0, 100, -20], np.inf, 1.2),  # below random
        ([0, 9, 1, 8], np.inf, 0.0),  # below the floor of 10: noise
        ([0], np.inf, 0.0),
    ],
)
def test_drawdown(returns: list[float], cap: float, expected: float) -> None:
    assert metrics.max_drawdown(np.array(returns, dtype=float), 0.0, 100.0, cap) == pytest.approx(expected)
    shifted = np.array(returns, dtype=float) - 1_000.0  # Pendulum's returns are negative
    assert metrics.max_drawdown(shifted, -1_000.0, -900.0, cap - 1_000.0) == pytest.approx(expected)


def test_share_of_evaluations_that_fell() -> None:
    assert metrics.lowered_share(np.array([1.0, 2.0, 1.5, 1.5, 3.0])) == 0.25


def test_mean_height_is_the_area_over_the_length() -> None:
    steps = np.array([0.0, 10.0, 30.0])
    assert metrics.mean_height(steps, np.array([0.0, 10.0, 10.0])) == pytest.approx((50 + 200) / 30)
    # no training episode ended before the first point
    assert metrics.mean_height(steps, np.array([np.nan, 10.0, 20.0])) == pytest.approx(15.0)
