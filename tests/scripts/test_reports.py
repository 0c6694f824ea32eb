"""Reports: what is chosen, what is missing, and that pages and figures are really there."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

pytest.importorskip("rliable", reason="reports need the extra `bench`")

import compare_with_contrib
import report_results
from evidence import metrics, scores, sections, tables
from evidence.configurations import BadInput
from evidence.runs import Run
from matplotlib import image

from sb3_trpo_ext.zoo import config_file

from .made_up import SOURCE, make_up

TASKS = ["HalfCheetah-v5", "Hopper-v5"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.bootstrap, "__defaults__", (200,))
    monkeypatch.setattr(metrics, "SLOW_REPETITIONS", 50)


def check_figure(path: Path) -> None:
    """There is a picture, and it is not blank."""
    root = ElementTree.parse(path.with_suffix(".svg")).getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter())) > 50
    pixels = image.imread(path.with_suffix(".png"))
    assert min(pixels.shape[:2]) > 200
    assert 0.01 < np.mean(np.any(pixels[..., :3] < 0.9, axis=-1)) < 0.9


def test_a_page_with_everything(tmp_path: Path) -> None:
    make_up(tmp_path, TASKS, ["contrib-zoo", "ours", "ppo-zoo"], 3)
    docs = tmp_path / "docs"
    command = ["--results", str(tmp_path / "results"), "--docs", str(docs)]
    assert report_results.main(command) == 0
    page = (docs / "results.md").read_text()
    assert "Nothing is missing." in page
    assert "2 tasks, seeds 0, 1, 2, 1,000,000 steps" in page
    assert (
        page.count("| Hopper-v5 |") == 4 + 3 + 3 + 2 + 3
    )  # three methods and random; seeds; published by two; stability; time
    for name in ("results_curves", "results_aggregate", "results_sample_efficiency"):
        check_figure(docs / "figures" / name)
        assert f"figures/{name}.svg" in page
    before = {path.name: path.read_bytes() for path in docs.rglob("*.*")}
    assert report_results.main(command) == 0
    assert {path.name: path.read_bytes() for path in docs.rglob("*.*")} == before  # the same each time


def test_every_seed_and_what_others_published_stand_in_tables(tmp_path: Path) -> None:
    make_up(tmp_path, TASKS, ["contrib-zoo", "ours"], 3)
    evidence = scores.load(tmp_path / "results")
    finals = evidence.finals("ours", "Hopper-v5")
    seeds = " | ".join(tables.number(float(value), 4) for value in finals)
    assert f"| Hopper-v5 | ours | {seeds} |" in sections.seed_table(evidence)
    middle = float(np.median(finals))
    theirs = {"source": "Them", "version": "v3", "steps": 1_000_000, "return_mean": middle, "spread": 1.0, "what": "one run"}
    published = pd.DataFrame({"task": ["Hopper-v5", "Ant-v5"], **theirs})
    (row,) = sections.published_table(evidence, published).splitlines()[2:]
    best, mean = (tables.number(float(value), 4) for value in (middle, finals.mean()))
    assert row == f"| Hopper-v5 | {best} ± 1 | Them, v3 | one run | {mean} (2/3) |"
    assert sections.published_table(evidence, published[1:]) == ""
    assert sections.published_table(evidence, published.assign(steps=300_000)) == ""


def test_times_are_compared_where_one_kind_of_machine_made_all_runs(tmp_path: Path) -> None:
    make_up(tmp_path, TASKS, ["contrib-zoo", "ours"], 3)
    evidence = scores.load(tmp_path / "results")
    hopper, ours = evidence.runs.task == "Hopper-v5", evidence.runs.method == "ours"
    evidence.runs["cpu_seconds"] = np.where(ours, 50.0, 200.0)
    evidence.runs.loc[ours & ~hopper, "machine"] = "another"
    found = sections.time_table(evidence)
    assert "| Hopper-v5 | contrib-zoo | 200 | - | none |" in found
    assert "| Hopper-v5 | ours | 50 | 0.25 | none |" in found
    assert "| HalfCheetah-v5 | ours | 50 | - | another |" in found


def test_published_figures_are_of_tasks_that_have_an_entry() -> None:
    published = pd.read_csv(report_results.PUBLISHED)
    assert set(published.task) < set(yaml.safe_load(config_file().read_text()))
    assert not published.duplicated(["task", "source"]).any()


def test_missing_seeds_are_said_and_not_aggregated(tmp_path: Path) -> None:
    store = make_up(tmp_path, TASKS, ["contrib-zoo", "ours"], 3)
    lost = next(row for row in store.rows("runs") if row["task"] == "Hopper-v5" and row["implementation"] == "ours")
    store._replace("runs", lost["run"], [])
    evidence = scores.load(tmp_path / "results")
    assert evidence.missing() == [("ours", "Hopper-v5", [0])]
    assert evidence.complete("ours") == ["HalfCheetah-v5"]
    assert "ours on Hopper-v5: seed 0 missing" in sections.gaps(evidence)
    assert "| Hopper-v5 | ours | 2/3 |" in sections.task_table(evidence)
    # Paired by the seeds that both have: 1 and 2
    expected = evidence.finals("ours", "Hopper-v5") - evidence.finals("contrib-zoo", "Hopper-v5")[1:]
    assert sections.paired_difference(evidence, "ours", "Hopper-v5").startswith(tables.number(float(expected.mean())))


def test_the_newest_configuration_counts_and_the_older_is_said(tmp_path: Path) -> None:
    store = make_up(tmp_path, ["Hopper-v5"], ["contrib-zoo", "ours"], 2)
    newer = {**SOURCE, "finished": "2026-02-01T00:00:00Z", "return_mean": 5.0}
    run = Run("Hopper-v5", 1, "ours", 1_000_000, {"gamma": 0.99}, numerics_version=2)
    store.add(run, newer, [{"steps": 0, "return_mean": 1.0}, {"steps": 1_000_000, "return_mean": 5.0}])
    evidence = scores.load(tmp_path / "results")
    assert evidence.finals("ours", "Hopper-v5").tolist() == [5.0]
    assert evidence.missing() == [("ours", "Hopper-v5", [0])]
    assert len(evidence.superseded) == 2
    assert "2 finished runs of an older configuration" in sections.origin(evidence)


def test_normalised_matrix_by_hand(tmp_path: Path) -> None:
    make_up(tmp_path, TASKS, ["contrib-zoo", "ours"], 3)
    evidence = scores.load(tmp_path / "results")
    matrix = scores.matrix(evidence, "contrib-zoo", TASKS)
    assert matrix.shape == (3, 2)
    np.testing.assert_allclose(matrix.mean(axis=0), 1.0)  # the reference is 1 on each task
    hopper = (evidence.finals("ours", "Hopper-v5") - 18.0) / (evidence.reference("Hopper-v5") - 18.0)
    np.testing.assert_allclose(scores.matrix(evidence, "ours", TASKS)[:, 1], hopper)


def test_other_lengths_are_other_runs(tmp_path: Path) -> None:
    make_up(tmp_path, ["Hopper-v5"], ["contrib-zoo", "ours"], 2, steps=300_000)
    make_up(tmp_path, ["Hopper-v5"], ["contrib-zoo"], 2, steps=1_000_000)
    assert scores.load(tmp_path / "results").methods == ["contrib-zoo"]
    assert scores.load(tmp_path / "results", steps=300_000).methods == ["contrib-zoo", "ours"]
    with pytest.raises(BadInput, match="there are contrib-zoo"):
        scores.load(tmp_path / "results", methods=["ours"])


def test_a_reference_below_random_is_said(tmp_path: Path) -> None:
    store = make_up(tmp_path, TASKS, ["contrib-zoo", "ours"], 2)
    random = next(row for row in store.rows("runs") if row["task"] == "Hopper-v5" and row["implementation"] == "random")
    store._replace("runs", random["run"], [{**random, "return_mean": 1e9}])
    evidence = scores.load(tmp_path / "results")
    assert evidence.complete("ours") == ["HalfCheetah-v5"]
    assert any("no better than the random policy" in line for line in sections.gaps(evidence))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no run of the reference"),
        (["--tasks", "Ant-v5"], "Ant-v5"),
        (["--results", "nowhere"], "no such folder"),
    ],
)
def test_nothing_to_report_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    assert report_results.main(["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_case_may_name_another_damping() -> None:
    task, changes = compare_with_contrib.read_case("CartPole-v1@0.1")
    assert (task, changes["cg_damping"], changes["adaptive_damping"]) == ("CartPole-v1", 0.1, False)
    assert "cg_damping" not in compare_with_contrib.read_case("CartPole-v1")[1]


@pytest.mark.parametrize("damping", ["", "x", "-1", "nan", "inf"])
def test_a_damping_that_is_none_is_refused(damping: str) -> None:
    with pytest.raises(BadInput, match=f"CartPole-v1@{damping}: .* a number >= 0, not '{damping}'"):
        compare_with_contrib.read_case(f"CartPole-v1@{damping}")


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        ([-102.0, -97.0, -101.0, -100.0, -99.0], None),
        ([-80.0, -80.0, -82.0, -79.0, -81.0], "differs"),
        ([-20.0, -180.0, -60.0, -150.0, -100.0], "too wide: more seeds"),
    ],
)
def test_verdicts_on_negative_returns(ours: list[float], reason: str | None) -> None:
    verdict = compare_with_contrib.compare("Pendulum-v1", np.array([-100.0, -99.0, -101.0, -98.0, -102.0]), np.array(ours))
    assert verdict.contrib == -100.0
    assert verdict.reason == reason
    assert verdict.width == pytest.approx((verdict.difference[2] - verdict.difference[1]) / 100.0)


def test_the_comparison_reads_its_own_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"), "--docs", str(tmp_path / "docs")]
    command = ["--tasks", "Pendulum-v1", "--seeds", "0", "1", "2", "--steps", "1000", *places]
    store = make_up(tmp_path, ["Pendulum-v1"], [], 0)
    wanted = compare_with_contrib.plan(compare_with_contrib.parse_arguments(command))["Pendulum-v1"]
    for runs in wanted.values():
        for run in runs:
            curve = [{"steps": at, "training_return": -900.0 - run.seed, "return_mean": 0.0} for at in (500, 1_000)]
            store.add(run, {"return_mean": 0.0, **SOURCE}, curve)
    assert compare_with_contrib.main(command) == 0
    assert "0 to do" in capsys.readouterr().out
    page = (tmp_path / "docs" / "equivalence.md").read_text()
    assert "| Pendulum-v1 | 3 | -901 | -901 | 0 [0, 0] | 0 % | passes |" in page
    check_figure(tmp_path / "docs" / "figures" / "equivalence")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("nan"), "-"), (3434.6, "3,435"), (-0.0, "0"), (0.1234, "0.123"), (12.34, "12.3")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert tables.number(value) == text
