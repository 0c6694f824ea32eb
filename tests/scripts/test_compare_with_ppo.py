"""``scripts/compare_with_ppo.py``: how far an update moves the policy, taken by one instrument on both sides."""

from dataclasses import replace
from pathlib import Path

import compare_with_ppo
import pandas as pd
import pytest
from evidence.configurations import make_run
from evidence.runs import OURS, Run


def small(side: str) -> Run:
    """Two updates on CartPole by the shipped settings, with small rollouts."""
    run = make_run(side, "CartPole-v1", 0, 512)
    assert run is not None
    return replace(run, entry={**run.entry, "n_envs": 2, "n_steps": 128, "batch_size": 128, "n_timesteps": 512})


def test_the_committed_table_is_up_to_date() -> None:
    assert compare_with_ppo.main(["--check"]) == 0


def test_what_is_measured_of_ours_is_what_the_update_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []

    class Both(compare_with_ppo.UpdateSizes):
        def _take(self) -> None:
            super()._take()
            if self.model.last_update is not None:  # type: ignore[attr-defined]
                reports.append(self.model.last_update)  # type: ignore[attr-defined]

    monkeypatch.setattr(compare_with_ppo, "UpdateSizes", Both)
    rows = compare_with_ppo.measure(small(OURS))
    assert [(row["update"], row["num_timesteps"], row["samples"]) for row in rows] == [(1, 256, 256), (2, 512, 256)]
    said = {report.n_updates: report for report in reports}
    for row in rows:
        assert row["kl"] == pytest.approx(said[row["update"]].kl_joint, rel=1e-3)
        assert row["kl_max"] == pytest.approx(said[row["update"]].kl_max, rel=1e-3)
        assert 0 < row["kl"] <= row["bound"] * 1.001


def test_ppo_is_measured_without_a_bound() -> None:
    first, last = compare_with_ppo.measure(small(compare_with_ppo.PPO))
    assert first["bound"] is None
    assert 0 < first["kl"] < first["kl_max"]
    assert last["kl"] == 0, "the Zoo's learning rate of CartPole ends at 0, and with it the last update"


def test_a_finished_run_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_with_ppo, "CSV", tmp_path / "sizes.csv")
    runs = compare_with_ppo.missing()
    assert len(runs) == len(compare_with_ppo.TASKS) * len(compare_with_ppo.SEEDS) * 2
    columns = ("task", "implementation", "seed", "config_hash", "numerics_version")
    row = {**dict(zip(columns, compare_with_ppo.key(runs[0]), strict=True)), "kl": 0.123456789}
    compare_with_ppo.append([row], compare_with_ppo.CSV)
    assert compare_with_ppo.missing() == runs[1:]
    assert compare_with_ppo.CSV.read_text().splitlines()[1].endswith(",0.12346")
    compare_with_ppo.append([{**row, "config_hash": "of before"}], compare_with_ppo.CSV)
    assert list(compare_with_ppo.measured().config_hash) == [runs[0].config_hash]


def test_a_run_that_was_not_measured_is_not_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_with_ppo, "CSV", tmp_path / "sizes.csv")
    assert compare_with_ppo.main(["--check"]) == 1


def test_the_table_sums_up() -> None:
    columns = ["task", "implementation", "seed", "bound", "kl", "kl_max"]
    ours = [("Hopper-v5", OURS, seed, 0.03, kl, 1.0) for seed in (0, 1) for kl in (0.02, 0.03)]
    theirs = [("Hopper-v5", compare_with_ppo.PPO, 0, None, kl, 50.0) for kl in (0.01, 0.02, 0.5)]
    text = compare_with_ppo.table(pd.DataFrame([*ours, *theirs], columns=columns))
    assert text.splitlines()[2:] == [
        "| Hopper-v5 | TRPO | 2 | 0.025 | 0.03 | 0.03 (bound 0.03) | 1 |",
        "| Hopper-v5 | PPO | 3 | 0.02 | 0.45 | 0.5 | 50 |",
    ]
