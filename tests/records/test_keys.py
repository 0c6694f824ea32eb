"""The one table from report fields to logger keys."""

import dataclasses

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.keys import CHARTS, KEYS, NOT_IN_TENSORBOARD, logged_values
from tests.monitoring.reports import make_report


def test_every_key_reads_a_field_that_exists() -> None:
    known = {field.name for field in dataclasses.fields(UpdateReport)} | {"accepted"}
    assert set(KEYS.values()) <= known
    assert all(key.startswith("train/") for key in KEYS)
    assert set(KEYS) >= NOT_IN_TENSORBOARD
    assert len(set(KEYS.values())) == len(KEYS)


def test_a_key_stands_in_one_chart() -> None:
    keys = [key for charts in CHARTS.values() for chart in charts.values() for key in chart]
    assert len(set(keys)) == len(keys)
    assert set(KEYS) <= set(keys)


def test_none_is_not_logged_and_zero_is() -> None:
    values = dict(logged_values(make_report(entropy=None, kl=0.0, cg_iterations=0, std=None)))
    assert not {"train/entropy", "train/std"} & values.keys()
    assert values["train/kl_divergence_loss"] == 0.0
    assert values["train/cg_iterations"] == 0


def test_acceptance_is_a_number() -> None:
    for status, number in (("accepted", 1.0), ("line_search_failed", 0.0), ("stale_batch", 0.0)):
        value = dict(logged_values(make_report(status=status)))["train/is_line_search_success"]
        assert (value, type(value)) == (number, float)


def test_values_are_the_reports() -> None:
    report = make_report()
    for key, value in logged_values(report):
        assert value == getattr(report, KEYS[key])
