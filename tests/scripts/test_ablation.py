"""Ablations: each variant is another training, and the page says what the numbers say."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rliable", reason="reports need the extra `bench`")

import ablation
from evidence import metrics, training
from evidence.configurations import BadInput
from evidence.runs import PLAIN_CG, RANDOM, Run

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3 import hyperparameters

from .made_up import SOURCE, store_at

TASKS = ["HalfCheetah-v5", "Hopper-v5"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.bootstrap, "__defaults__", (200,))


def planned(*more: str) -> ablation.Wanted:
    return ablation.plan(ablation.parse_arguments(["--tasks", *TASKS, "--steps", "1000", *more]))


def test_each_variant_is_a_training_of_its_own() -> None:
    runs = ablation.in_turn(planned())
    trained = [run for run in runs if run.implementation != RANDOM]
    assert len(trained) == len({run.id for run in trained}) == len(TASKS) * 5 * len(ablation.NAMES)
    assert len(runs) - len(trained) == len(TASKS)
    # An early look sees everything: the first seed of each variant comes before any second one.
    assert [run.seed for run in trained] == sorted(run.seed for run in trained)
    bare = "adaptive_damping=False cg_precision=float32 cg_preconditioner=none max_critic_updates="
    epochs = {run.entry["n_critic_updates"] for run in trained}
    assert {run.overrides for run in trained if run.implementation == PLAIN_CG} == {"", *(f"{bare}{n}" for n in epochs)}


def test_plain_cg_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_trpo_ext.zoo.cli.use_fast_wrappers", lambda: None)
    monkeypatch.setattr(hyperparameters, "RESIDUALS_MEMORY", hyperparameters.RESIDUALS_MEMORY)
    model = TRPO("MlpPolicy", "CartPole-v1", device="cpu")
    kept = []
    for plain_cg in (False, True):
        training.use_ours(plain_cg)
        kept.append(model.hyperparameters().policy_settings(100).cg.keep)
    assert kept == [model.cg_max_steps, 0]


def test_the_preconditioner_is_the_other_one() -> None:
    for shipped, other in (("kfac", "none"), ("none", "kfac")):
        assert ablation.variants_of({"cg_preconditioner": shipped})["preconditioner"].overrides == {"cg_preconditioner": other}


def test_what_is_asked_for_alone() -> None:
    wanted = planned("--variants", "float64", "--seeds", "3", "4")
    assert {name: [run.seed for run in runs] for name, runs in wanted["Hopper-v5"].items()} == {
        "shipped": [3, 4],
        "float64": [3, 4],
    }
    with pytest.raises(BadInput, match="at least two"):
        planned("--seeds", "0")


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One variant is worse by 0.3 on each seed, one better by 0.1, one by noise; it takes twice the time."""
    store = store_at(tmp_path)
    shifts, random = {"shipped": 0.0, "fixed-damping": -0.3, "float64": 0.1, "plain-cg": 0.0}, 100.0
    wanted = planned("--variants", "fixed-damping", "float64", "plain-cg")
    for task, runs in wanted.items():
        store.add(Run(task, 0, RANDOM, 0), {"return_mean": random, **SOURCE}, [])
        for name, group in runs.items():
            for run in group:
                wobble = 0.01 * (-1) ** run.seed if name == "plain-cg" else 0.0
                score = random + 1_000 * (1.0 + shifts[name] + wobble)
                store.add(run, {"return_mean": score, "cpu_seconds": 2.0 if name == "float64" else 1.0, **SOURCE}, [])
    command = ["--tasks", *TASKS, "--steps", "1000", "--variants", "fixed-damping", "float64", "plain-cg"]
    places = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path), "--work", str(tmp_path / "work")]
    assert ablation.main([*command, *places]) == 0
    page = (tmp_path / "ablation.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("|")}
    assert "-0.3 [-0.3, -0.3] | worse so | 1.00 |" in next(line for line in page.splitlines() if "fixed-damping |" in line)
    assert "0.1 [0.1, 0.1] | better so | 2.00 |" in next(line for line in page.splitlines() if "float64 |" in line)
    assert "no difference that these runs show" in next(line for line in page.splitlines() if "plain-cg |" in line)
    assert rows["shipped"] == "| shipped | 1,100 ± 0 | 1,100 ± 0 |"
    assert page in capsys.readouterr().out.replace("\r", "")


def test_the_arithmetic_of_a_difference() -> None:
    shipped = ablation.Measured({"a": np.array([10.0, 30.0]), "b": np.array([2.0, 2.0])}, {})
    variant = ablation.Measured({"a": np.array([20.0, 30.0]), "b": np.array([1.0, 2.0])}, {})
    found = ablation.differences(variant, shipped, {"a": 0.0, "b": 0.0})
    assert found.tolist() == [[0.5, -0.5], [0.0, 0.0]]
