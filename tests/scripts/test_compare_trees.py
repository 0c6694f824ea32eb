"""Two checkouts, bit by bit: a planted difference is found, however small, and a tree does not differ from itself."""

from pathlib import Path
from typing import Any

import compare_trees
import numpy as np
import pytest
import torch
from trees.cases import CASES
from trees.comparison import compare, field_changes
from trees.environments import ACTIONS, OBSERVATIONS
from trees.train import digest


def found(**changes: Any) -> dict[str, Any]:
    report = {"n_updates": 1, "kl": 0.009, "std": None, "trial_kls": [0.02, 0.009], **changes}
    return {"reports": [{**report, "n_updates": 1}, {**report, "n_updates": 2}], "values": {"policy net.weight": "ab12"}}


def test_what_is_the_same_has_no_difference() -> None:
    assert compare([found()], [found()]).differences == ()
    assert compare([found()], [found()]).compared > 8


@pytest.mark.parametrize(
    "changes",
    [{"kl": float(np.nextafter(0.009, 1.0))}, {"std": 0.0}, {"trial_kls": [0.02]}, {"kl": "0.009"}, {"n_samples": 64.0}],
    ids=["last bit", "None", "shorter", "type", "int or float"],
)
def test_a_planted_difference_of_a_report_is_found(changes: dict[str, Any]) -> None:
    (name,) = changes
    differences = compare([found(n_samples=64)], [found(**{"n_samples": 64, **changes})]).differences
    assert [line.split(": ")[:2] for line in differences] == [["report 1", name], ["report 2", name]]


def test_the_sign_of_a_zero_is_a_difference() -> None:
    assert len(compare([found(kl=0.0)], [found(kl=-0.0)]).differences) == 2


def test_values_reports_and_ranks_that_are_missing_are_found() -> None:
    other, short, gone = found(), found(), found()
    other["values"]["policy net.weight"] = "ab13"
    del short["reports"][1]
    del gone["values"]["policy net.weight"]
    assert compare([found()], [other]).differences == ("policy net.weight: ab12 -> ab13",)
    assert compare([found()], [short]).differences == ("number of reports: 2 -> 1",)
    assert compare([found()], [gone]).differences == ("policy net.weight: ab12 -> (absent)",)
    assert compare([found(), found()], [found(), other]).differences == ("rank 1: policy net.weight: ab12 -> ab13",)
    assert "number of ranks: 2 -> 1" in compare([found(), found()], [found()]).differences


def test_fields_that_are_new_gone_or_renamed_are_told_and_are_no_difference() -> None:
    told = compare([found(grad=0.5, old=1)], [found(gradient_norm=0.5, new=2)])
    assert (told.renamed, told.new, told.gone, told.differences) == ((("grad", "gradient_norm"),), ("new",), ("old",), ())
    # A field that holds nothing could be any other that holds nothing.
    assert field_changes([{"a": None}], [{"b": None}]) == ((), ("b",), ("a",))


def test_a_hash_sees_a_bit_a_shape_a_type_and_a_place() -> None:
    ones = torch.ones(4)
    bit = ones.clone()
    bit[3] = torch.nextafter(bit[3], torch.tensor(2.0))
    others = [bit, ones.view(2, 2), ones.double(), -ones, [ones], {"a": ones}]
    assert len({digest(each) for each in [ones, *others]}) == 1 + len(others)
    assert digest({"a": ones, "b": [1, 2.0]}) == digest({"a": ones.clone(), "b": [1, 2.0]})
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))


def test_every_kind_of_action_and_of_observation_is_trained() -> None:
    envs = [{"actions": "Box", "observations": "Box", **case.env} for case in CASES.values() if isinstance(case.env, dict)]
    assert {env["actions"] for env in envs} == set(ACTIONS)
    assert {env["observations"] for env in envs} == set(OBSERVATIONS)
    assert any(case.ranks == 2 for case in CASES.values())


def test_the_exit_code_says_whether_anything_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sides = iter([found(), found(), found(), found(kl=0.0091)])
    monkeypatch.setattr(compare_trees, "train", lambda *_: [next(sides)])
    assert compare_trees.main(["--old", str(tmp_path), "--cases", "Box"]) == 0
    assert compare_trees.main(["--old", str(tmp_path), "--cases", "Box"]) == 1
    assert "report 1: kl: 0.009 -> 0.0091" in capsys.readouterr().out


def test_a_training_that_fails_is_no_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert compare_trees.main(["--old", str(tmp_path), "--cases", "Box"]) == 2
    assert "compare_trees: Box in " in capsys.readouterr().err


@pytest.mark.slow
def test_a_tree_does_not_differ_from_itself(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_trees.main(["--old", str(repo), "--cases", "truncate", "two ranks"]) == 0
    assert capsys.readouterr().out.count(" values, equal") == 2
