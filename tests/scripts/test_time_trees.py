"""Times of two checkouts: what is printed and kept, from trainings that are made up."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("rliable", reason="intervals need the extra `bench`")

import time_trees


def test_ratios_are_those_of_pairs_and_every_other_pair_begins_with_the_other_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def seconds(case: str, tree: Path) -> dict[str, float]:
        is_new = tree == time_trees.REPO
        asked.append(is_new)
        noise = 1.0 + len(asked) // 2 % 3  # the machine is slower for a while, for both
        return {"update": noise * (0.5 if is_new else 1.0), "training": noise}

    monkeypatch.setattr(time_trees, "seconds", seconds)
    monkeypatch.setattr(time_trees, "CSV", tmp_path / "times.csv")
    assert time_trees.main(["--old", str(tmp_path), "--cases", "CartPole-v1", "--pairs", "4", "--write"]) == 0
    assert asked == [False, True, True, False, False, True, True, False]
    update, training = csv.DictReader((tmp_path / "times.csv").open())
    assert (update["part"], training["part"], update["pairs"]) == ("update", "training", "4")
    assert float(update["low"]) <= float(update["ratio"]) <= float(update["high"])
    assert "case CartPole-v1, part update" in capsys.readouterr().out


def test_a_training_is_timed_in_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(time_trees.UPDATES, "monitors", 4)
    found = time_trees.seconds("monitors", time_trees.REPO)
    assert 0.0 < found["update"] <= found["training"] < 5.0
