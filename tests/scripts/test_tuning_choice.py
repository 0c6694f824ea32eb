"""What is exported, shown, chosen and written."""

import argparse
import csv
import io
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import tune
import yaml
from evidence.configurations import BadInput, parse_overrides
from evidence.runs import Run, config_hash
from evidence.store import Store
from rich.console import Console
from tuning import choose as choosing
from tuning.choose import choose, comment_of, find_candidates
from tuning.points import CURRENT, params_of
from tuning.search import search
from tuning.study import Tuning, best_trials, finished_trials, open_study
from tuning.table import PARAMETERS, export, show_status
from tuning.yaml_entry import with_entry

from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.zoo import config_file
from sb3_trpo_ext.zoo.convert_config import convert_text
from tests.scripts.made_up_trials import SEEDS, Trainings, make_tuning
from tests.zoo.tuned import TUNED

optuna.logging.set_verbosity(optuna.logging.WARNING)
SHIPPED = config_file().read_text()


TRIALS = 20
"""More than there are starting points: some are bad enough to be given up."""


def searched(folder: Path, task: str = "Hopper-v5", trials: int = TRIALS) -> Tuning:
    tuning = make_tuning(folder, task)
    search([tuning], trials, Console(quiet=True), Trainings())
    return tuning


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_says_what_a_trial_was_and_what_became_of_it(tmp_path: Path) -> None:
    tuning = searched(tmp_path)
    assert export([tuning], tmp_path) == f"tuning_trials.csv: {TRIALS} trials, {TRIALS} new"
    rows = read(tmp_path / "tuning_trials.csv")
    first = rows[0]
    expected = {"trial": "0", "point": CURRENT, "state": "complete", "value": "1000", "seed_100": "999", "seed_102": "1001",
                "rungs": "249.75 499.5 749.25 999 999.5", "numerics_version": str(NUMERICS_VERSION), "target_kl": "0.03",
                "cg_damping": "0.3", "n_envs": "2", "rollout": "2048", "gamma": "0.99", "batch_size": "128"}  # fmt: skip
    assert {key: first[key] for key in expected} == expected
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned
    assert all(row["reason"].startswith("rung ") and not row["value"] and row["commit"] for row in pruned)
    assert all(row[name] for row in rows for name in (*PARAMETERS, "finished"))


def test_an_export_keeps_the_rows_of_journals_that_are_gone(tmp_path: Path) -> None:
    one, other = searched(tmp_path, trials=3), searched(tmp_path, "Swimmer-v5", 2)
    export([one], tmp_path)
    before = (tmp_path / "tuning_trials.csv").read_text()
    assert export([other], tmp_path) == "tuning_trials.csv: 5 trials, 2 new"
    one.journal.unlink()
    assert export([one, other], tmp_path) == "tuning_trials.csv: 5 trials, 0 new"
    assert set(before.splitlines()) <= set((tmp_path / "tuning_trials.csv").read_text().splitlines())


def test_the_status_shows_each_study(tmp_path: Path) -> None:
    tuning = searched(tmp_path)
    refused = make_tuning(tmp_path, "Walker2d-v5")
    search([refused], 2, Console(quiet=True), Trainings(refuse=True))
    console = Console(file=io.StringIO(), width=80)
    show_status([tuning, refused, make_tuning(tmp_path, "InvertedDoublePendulum-v5")], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    cells = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "-v5 " in line and "trial " not in line}
    whole = sum(trial.state.name == "COMPLETE" for trial in finished_trials(open_study(tuning)))
    assert cells["Hopper-v5"][:4] == [str(TRIALS), str(whole), "0", "0.0"]
    assert " ".join(cells["Hopper-v5"][4:7]) == "1,000 ± 1"
    assert cells["Walker2d-v5"] == ["2", "0", "2", "0.0", "-", "-"]
    assert cells["InvertedDoublePendulum-v5"] == ["0", "0", "0", "0.0", "-", "-"]
    best = best_trials(open_study(tuning), 1)[0]
    assert f"Hopper-v5 trial {best.number}: δ {best.params['target_kl']:.3g}" in text


Returns = Callable[[Run], float | None]


def choice(tmp_path: Path, tuning: Tuning, config: Path, monkeypatch: pytest.MonkeyPatch, returns: Returns) -> int:
    """Choose, where a run has this late return; None: it fails."""

    def carry_out(runs: list[Run], machinery: argparse.Namespace, console: Console) -> list[Run]:
        store = Store(machinery.results, machinery.work)
        for run in runs:
            late = returns(run)
            if late is not None:
                curve = [{"steps": 50 * point, "return_mean": -9e9 if point <= 15 else late} for point in range(21)]
                store.add(run, {"return_mean": -1.0, "commit": "c0ffee"}, curve)
        return [run for run in runs if returns(run) is None]

    config.write_text(SHIPPED)
    monkeypatch.setattr(choosing, "carry_out", carry_out)
    monkeypatch.setattr(choosing, "WORK", tmp_path / "work")
    args = tune.parse_arguments(["--tasks", tuning.task, "--choose", "--config", str(config)])
    args.results = tmp_path / "results"
    return choose(tuning, args, Console(quiet=True))


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5", "BipedalWalker-v3"])
def test_the_winner_at_full_length_is_written_with_its_evidence(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tuning = tmp_path / "mine.yml", searched(tmp_path, task)
    candidates = find_candidates(tuning, 5, 1_000_000)
    winner = candidates[-1]
    assert winner.name != CURRENT
    better = config_hash(winner.entry)
    assert choice(tmp_path, tuning, config, monkeypatch, lambda run: run.seed + 1e3 * (run.config_hash == better)) == 0
    entries = yaml.safe_load(config.read_text())
    assert config_hash(entries[task]) == config_hash(winner.entry)
    before = yaml.safe_load(SHIPPED)
    assert {key: entries[key] for key in before if key != task} == {key: before[key] for key in before if key != task}
    lines = config.read_text().splitlines()
    start = lines.index(f"{task}:")
    comment = " ".join(line.removeprefix("# ") for line in lines[start - 6 : start] if line.startswith("# "))
    for part in ("tuned 20", f"NUMERICS_VERSION {NUMERICS_VERSION}", f"{TRIALS} trials of 1,000 steps (seeds 100 to 102)",
                 f"best of {len(candidates)} at 1,000,000 steps (seeds 200 to 202)", "late return 1,201.0 ± 1.0",
                 "before 201.0 ± 1.0"):  # fmt: skip
        assert part in comment
    assert TUNED.search(comment)
    assert "not tuned" not in comment
    assert max(map(len, lines)) <= 127 or max(map(len, SHIPPED.splitlines())) > 127
    convert_text(config.read_text(), "mean", [task])
    seeds = {(row["config_hash"], row["seed"]) for row in read(tmp_path / "results" / "tuning" / "runs.csv")}
    assert seeds == {(config_hash(one.entry), str(seed)) for one in candidates for seed in (200, 201, 202)}


def test_the_current_entry_stays_when_nothing_beats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tuning = tmp_path / "mine.yml", searched(tmp_path)
    current = config_hash(tuning.entry)
    assert choice(tmp_path, tuning, config, monkeypatch, lambda run: float(run.config_hash == current)) == 0
    assert yaml.safe_load(config.read_text()) == yaml.safe_load(SHIPPED)
    assert "late return 1.0 ± 0.0, and it was so before" in " ".join(config.read_text().split("\n# "))


def test_candidates_are_the_best_whole_trials_each_once(tmp_path: Path) -> None:
    tuning = searched(tmp_path, trials=30)
    candidates = find_candidates(tuning, 4, 500)
    best = best_trials(open_study(tuning), 4)
    assert [trial.value for trial in best] == sorted((trial.value for trial in best), reverse=True)
    points = [params_of(one.entry) for one in candidates]
    assert len(points) == 5
    assert all(point not in points[:at] for at, point in enumerate(points))
    assert (candidates[0].name, candidates[0].entry) == (CURRENT, tuning.entry)
    assert {run.seed for one in candidates for run in one.runs}.isdisjoint({*SEEDS, *range(5)})
    assert statistics.mean(run.steps for one in candidates for run in one.runs) == 500


def test_candidates_made_by_hand_come_last_and_need_no_trial(tmp_path: Path) -> None:
    tuning = make_tuning(tmp_path)
    changes = [parse_overrides(["final_target_kl=0.001", "normalize={norm_obs: false}"]), parse_overrides(["gamma=0.98"])]
    current, *made = find_candidates(tuning, 5, 500, changes)
    assert (current.name, current.entry) == (CURRENT, tuning.entry)
    assert [one.entry for one in made] == [tuning.entry | change for change in changes]
    assert "gamma=0.98" in made[1].name
    comment = comment_of(tuning, {one.name: [1.0, 1.0] for one in (current, *made)}, made[0], ["c0ffee", "decaf"])
    assert "no search; best of 3 (2 made by hand) at 500 steps" in comment
    assert TUNED.search(comment)
    with pytest.raises(BadInput, match="--also gama: no such setting"):
        find_candidates(tuning, 5, 500, [{"gama": 0.98}])
    with pytest.raises(BadInput, match="--also takes KEY=VALUE"):
        parse_overrides(["gamma"], "--also")


def test_without_a_whole_trial_there_is_nothing_to_choose(tmp_path: Path) -> None:
    tuning = make_tuning(tmp_path)
    search([tuning], 2, Console(quiet=True), Trainings(refuse=True))
    with pytest.raises(BadInput, match="no trial has trained every seed"):
        find_candidates(tuning, 5, 500)


def test_a_failed_candidate_is_left_out_and_a_failed_current_entry_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tuning = tmp_path / "mine.yml", searched(tmp_path)
    current = config_hash(tuning.entry)
    others_fail = choice(
        tmp_path / "a", tuning, config, monkeypatch, lambda run: 1.0 if run.config_hash == current or run.seed == 200 else None
    )
    assert others_fail == 1
    assert "and it was so before" in " ".join(config.read_text().split("\n# "))
    current_fails = choice(
        tmp_path / "b", tuning, config, monkeypatch, lambda run: None if run.config_hash == current else 1.0
    )
    assert current_fails == 1
    assert config.read_text() == SHIPPED


def test_only_the_entry_and_its_comment_change() -> None:
    entry = {
        **yaml.safe_load(SHIPPED)["Hopper-v5"],
        "gamma": 0.995,
        "learning_rate": "lin_0.0003",
        "normalize": {"norm_obs": True},
    }
    text = with_entry(SHIPPED, "Hopper-v5", entry, "tuned")
    block = re.compile(r"(# .*\n)+Hopper-v5:\n(  .*\n)+")
    assert block.sub("", text) == block.sub("", SHIPPED) != SHIPPED
    assert "\n\n# tuned\nHopper-v5:\n" in text
    assert yaml.safe_load(text)["Hopper-v5"] == entry


@pytest.mark.parametrize(
    "value",
    [1e-05, 1.23456789e-05, 3.2e-4, 1e6, 1234567.5, 1.5, "lin_1e-05", "dict(pi=[64, 64])", "123", {"a": False}, True, 7],
)
def test_every_value_is_read_as_it_was(value: Any) -> None:
    text = with_entry(SHIPPED, "Hopper-v5", {"policy": "MlpPolicy", "value": value}, "c")
    read_back = yaml.safe_load(text)["Hopper-v5"]["value"]
    assert (read_back, type(read_back)) == (value, type(value))


def test_steps_are_written_as_people_say_them() -> None:
    for value, said in ((5e4, "5e4"), (1e5, "1e5"), (1.5e6, "1.5e6")):
        assert f"  n_timesteps: !!float {said}\n" in with_entry(SHIPPED, "Hopper-v5", {"n_timesteps": value}, "c")


def test_a_file_that_can_not_be_edited_safely_is_left() -> None:
    text = "A-v0: &a\n  gamma: 0.9\nB-v0: {<<: *a}\n"
    with pytest.raises(BadInput, match="nothing was changed"):
        with_entry(text, "A-v0", {"gamma": 0.8}, "c")
    with pytest.raises(BadInput, match="no entry C-v0"):
        with_entry(text, "C-v0", {"gamma": 0.8}, "c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "Hoper-v5"], "Hoper"),
        (["--tasks", "default"], "default"),
        (["--tasks", "Hopper-v5", "--config", "x"], "x"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([*arguments, "--storage", str(tmp_path / "s")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tune: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()
