"""The report: exact through strict JSON, whatever the update did."""

import dataclasses
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.damping import DampingState
from sb3_trpo_ext.core.diagnostics import Diagnosed
from sb3_trpo_ext.core.fisher import FisherOperator
from sb3_trpo_ext.core.objective import OnPolicyCheck
from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import CriticStatus, OnPolicyStatus, UpdateStatus
from sb3_trpo_ext.core.summary import Context, finite, summarise
from sb3_trpo_ext.core.update import PolicyResult, update_policy
from tests.core.problems import FAMILIES, SETTINGS, make_case
from tests.monitoring.reports import make_report

DAMPING = DampingState(0.1, 0.1, 100.0)
CONTEXT = Context(
    n_updates=1,
    num_timesteps=2,
    updates_skipped=3,
    n_samples=4,
    target_kl=0.5,
    kl_reduction="joint",
    behaviour_worst_cell="env 3",
    entropy=0.6,
    std=0.7,
    cg_precision="mixed",
    fisher_rung="a rung",
    explained_variance=0.8,
    explained_variance_after=0.9,
    critic_epochs_enforced=10,
    collection="collected",
    notes=("noted",),
    samples_dropped=11,
)
CRITIC = CriticResult(CriticStatus.IMPROVED, 10, 2.0, 1.0, 1.5)

finite_numbers = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**70), 2**70),
    "float": finite_numbers,
    "str": st.text(),
    "float | None": st.none() | finite_numbers,
    "int | None": st.none() | st.integers(),
    "str | None": st.none() | st.text(),
    "tuple[int, ...]": st.lists(st.integers(), max_size=4).map(tuple),
    "tuple[float, ...]": st.lists(finite_numbers, max_size=4).map(tuple),
    "tuple[float | None, ...]": st.lists(st.none() | finite_numbers, max_size=4).map(tuple),
    "tuple[str, ...]": st.lists(st.text(), max_size=4).map(tuple),
}
reports = st.builds(UpdateReport, **{field.name: VALUES[str(field.type)] for field in dataclasses.fields(UpdateReport)})


@given(report=reports)
def test_json_and_back_is_exact(report: UpdateReport) -> None:
    again = UpdateReport.from_json(report.to_json())
    assert again == report
    for field in dataclasses.fields(report):
        assert type(getattr(again, field.name)) is type(getattr(report, field.name)), field.name
    assert "\n" not in report.to_json()


@given(report=reports, absent=st.sets(st.sampled_from([field.name for field in dataclasses.fields(UpdateReport)])))
def test_a_field_that_an_older_version_did_not_have_was_not_computed(report: UpdateReport, absent: set[str]) -> None:
    written = {name: value for name, value in json.loads(report.to_json()).items() if name not in absent}
    needed = {f.name for f in dataclasses.fields(report) if str(f.type) in ("int", "float", "str")} & absent
    if needed:
        with pytest.raises(ValueError, match=rf"of another version: missing fields .*'{min(needed)}'.*, unknown fields \[\]"):
            UpdateReport.from_json(json.dumps(written))
        return
    again = UpdateReport.from_json(json.dumps(written))
    for field in dataclasses.fields(report):
        nothing = () if str(field.type).startswith("tuple") else None
        assert getattr(again, field.name) == (nothing if field.name in absent else getattr(report, field.name))


@settings(max_examples=30)
@given(report=reports)
def test_any_report_can_be_printed_and_says_first_what_became_of_the_policy(report: UpdateReport) -> None:
    text = str(report)
    assert text.startswith(f"update {report.n_updates} (")
    assert report.status in text
    assert report.advice in text


def test_what_is_printed_of_a_report() -> None:
    report = make_report(
        7,
        kl_reduction="joint",
        advice="All well.",
        cg_status="converged",
        line_search_status="accepted",
        critic_status="improved",
    )
    assert str(report).splitlines() == [
        "update 7 (448 steps, 3 samples): accepted. All well.",
        "  step: KL 0.00143 of 0.25 (joint), surrogate +0.25 of +0.25 expected, line search accepted, 3 backtracks",
        "  conjugate gradient: converged, 3 iterations, relative residual 0.25, damping 0.25, 3 failed before it",
        "  policy: entropy 0.25 nats, std 0.25",
        "  critic: improved in 3 epochs, value loss 0.25 to 0.25, explained variance 0.25 to 0.25",
    ]


def test_what_was_not_computed_is_not_printed() -> None:
    absent = dict.fromkeys(("cg_status", "line_search_status", "expected_improvement", "entropy", "std", "explained_variance"))
    report = make_report(line_search_backtracks=0, notes=("the first",), **absent)
    lines = str(report).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["step", "critic", "note"]
    assert lines[0] == "  step: KL 0.01 of 0.25 (text), surrogate +0.25"
    assert "variance" not in lines[1]
    assert lines[2] == "  note: the first"


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"of_the_future": 1}', "unknown fields .'of_the_future'"), ("[1]", "not an .* but list"), ("{", "Expecting")],
)
def test_what_is_no_report_of_this_version_is_an_error_that_says_so(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpdateReport.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("n_updates", value) for value in ('"3"', "true", "null", "3.0", "NaN", "[3]", "{}")),
        *(("kl", value) for value in ('"0.1"', "true", "null", "NaN", "-Infinity", "1e999", "9" * 400)),
        *(("advice", value) for value in ("3", "null", '"\\ud800"')),
        *(("trial_kls", value) for value in ("null", "3", '["a"]', "[[1.0]]", "[NaN]")),
        ("notes", "[" * 100_000),
    ],
    ids=lambda value: value[:12],
)
def test_a_field_holds_what_it_says_or_it_is_no_report(field: str, value: str) -> None:
    plain = json.loads(make_report().to_json())
    text = json.dumps({**plain, field: "HERE"}).replace('"HERE"', value)
    with pytest.raises(ValueError, match=f"{field} can't be|is no JSON|too deeply"):
        UpdateReport.from_json(text)
    assert UpdateReport.from_json(json.dumps({**plain, "kl": 1})).kl == 1


def test_an_error_names_no_more_than_fits_into_a_line() -> None:
    with pytest.raises(ValueError, match="unknown fields") as caught:
        UpdateReport.from_json(
            json.dumps({**json.loads(make_report().to_json()), **{"x" * 1000 + str(n): 0 for n in range(99)}})
        )
    assert len(str(caught.value)) < 500


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def report_of(result: PolicyResult, critic: CriticResult = CRITIC) -> UpdateReport:
    """A report from an update's parts, every other field being nothing."""
    return summarise(result, critic, DAMPING, CONTEXT, Diagnosed())


def test_what_no_step_knows_arrives_in_the_field_of_its_name() -> None:
    report = report_of(update_policy(make_case(FAMILIES["gaussian"]).problem, SETTINGS, DAMPING))
    assert {field.name: getattr(report, field.name) for field in dataclasses.fields(Context)} == vars(CONTEXT)


def strict_round_trip(report: UpdateReport) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(report.to_json(), parse_constant=no_constant)
    assert UpdateReport.from_json(report.to_json()) == report
    return parsed


def test_an_accepted_update_reports_what_was_applied() -> None:
    result = update_policy(make_case(FAMILIES["gaussian"]).problem, replace(SETTINGS, max_kl=1.0, shrink=0.5), DAMPING)
    report = report_of(result)
    strict_round_trip(report)
    assert report.accepted
    assert result.search is not None
    last = result.search.trials[-1].evaluation
    assert (report.kl, report.kl_joint, report.kl_reverse, report.kl_max) == (
        last.kl,
        last.kl_joint,
        last.kl_reverse,
        last.kl_max,
    )
    assert report.surrogate_improvement == last.improvement
    assert report.line_search_backtracks == len(result.search.trials) - 1
    assert len(report.trial_kls) == len(report.trial_statuses) == len(report.trial_fractions) == len(result.search.trials)
    assert result.solve is not None
    assert report.cg_residual_history == result.solve.result.residual_history
    assert report.behaviour_worst_cell == "env 3"


def test_a_rejected_update_reports_zero_applied_and_every_trial() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    shifted = replace(problem, surrogate=replace(problem.surrogate, phi=problem.surrogate.phi + 10.0))
    result = update_policy(shifted, SETTINGS, DAMPING)
    report = report_of(result)
    strict_round_trip(report)
    assert report.status == UpdateStatus.LINE_SEARCH_FAILED.value
    assert not report.accepted
    assert (report.kl, report.kl_joint, report.kl_max, report.surrogate_improvement) == (0.0, 0.0, 0.0, 0.0)
    assert report.line_search_backtracks == len(report.trial_kls) == SETTINGS.max_trials
    assert min(kl for kl in report.trial_kls if kl is not None) > 1.0


def test_a_skipped_update_has_none_where_nothing_was_computed() -> None:
    problem = make_case(FAMILIES["gaussian"]).problem
    report = report_of(update_policy(replace(problem, evidence=problem.evidence + 1.0), SETTINGS, DAMPING))
    strict_round_trip(report)
    assert (report.cg_status, report.cg_residual, report.line_search_status, report.line_search_backtracks) == (None,) * 4
    assert report.trial_kls == report.cg_residual_history == ()
    assert report.kl == 0.0


def test_numbers_that_are_not_finite_become_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    honest = FisherOperator.product

    def product(self: FisherOperator, v: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return honest(self, v) * (torch.inf if calls == 3 else 1.0)

    monkeypatch.setattr(FisherOperator, "product", product)
    fixed = replace(DAMPING, adaptive=False)
    result = update_policy(make_case(FAMILIES["gaussian"]).problem, SETTINGS, fixed)
    broken = CriticResult(CriticStatus.NON_FINITE, 3, math.inf, math.nan, math.nan)
    parsed = strict_round_trip(report_of(result, broken))
    assert parsed["cg_status"] == "non_finite"
    assert parsed["value_loss_before"] is parsed["value_loss_after"] is parsed["value_loss"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_evidence_that_is_not_finite_still_makes_a_report(bad: float) -> None:
    """An update skipped because of it must not fail in writing its report."""
    check = OnPolicyCheck(OnPolicyStatus.TOO_DETERMINISTIC, bad, bad, 0, bad, bad)
    report = report_of(PolicyResult(UpdateStatus.STALE_BATCH, check, DAMPING))
    assert strict_round_trip(report)["behaviour_kl"] is None
    assert report.behaviour_kl_threshold is None


def test_advantages_that_are_not_finite_still_make_a_report() -> None:
    raw = torch.randn(48, dtype=torch.float64)
    raw[5], raw[6] = torch.nan, torch.inf
    result = update_policy(make_case(FAMILIES["gaussian"], advantages=raw).problem, SETTINGS, DAMPING)
    assert result.status is UpdateStatus.ZERO_VARIANCE_ADVANTAGES
    report = report_of(result)
    assert strict_round_trip(report)["advantage_std"] is None
    assert report.advantage_quantiles == ()


def test_a_report_that_smuggles_a_nan_is_refused() -> None:
    report = report_of(update_policy(make_case(FAMILIES["gaussian"]).problem, SETTINGS, DAMPING))
    with pytest.raises(ValueError, match="JSON"):
        replace(report, kl=math.nan).to_json()


@pytest.mark.parametrize(("value", "kept"), [(1.0, 1.0), (0.0, 0.0), (None, None), (math.nan, None), (-math.inf, None)])
def test_finite(value: float | None, kept: float | None) -> None:
    assert finite(value) == kept
