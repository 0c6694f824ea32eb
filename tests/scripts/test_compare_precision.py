"""Precision and preconditioners: small policies that are really trained, kept and measured; verdicts on planted results."""

import csv
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rliable", reason="reports need the extra `bench`")

import collect_batches
import compare_precision
import compare_preconditioners
import report_precision
import torch
from collect_batches import Checkpoint
from evidence.runs import Run
from precision_tables import CANDIDATE, COUNTS, REFERENCE, SOLVERS, STEP_TIMINGS, TIMINGS, VALUES
from real_batches import batch_of, collect, kept_policy, policy_step
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.status import CGStatus

from .test_reports import check_figure

N_STEPS = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Early and late policies of two tasks, 512 samples an update."""
    torch.manual_seed(0)
    kept = tmp_path_factory.mktemp("batches")
    for task in ("Pendulum-v1", "CartPole-v1"):
        env = VecNormalize(make_vec_env(task, 2, seed=0))
        size = {"net_arch": [8]}
        model = TRPO("MlpPolicy", env, n_steps=N_STEPS, kl_reduction="joint", seed=0, policy_kwargs=size)
        run = Run(task, 0, "ours", 4 * N_STEPS, numerics_version=1)
        model.learn(run.steps, callback=collect_batches.Keeper(run, kept, early=2 * N_STEPS))
    return kept


def measure(script: Any, folder: Path, out: Path, *more: str) -> int:
    paths = ["--folder", str(folder), "--results", str(out / "results")]
    if script is compare_precision:
        paths += ["--docs", str(out / "docs")]
    return script.main(["--tasks", "Pendulum-v1", "--seeds", "1", *paths, *more])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_kept_policies_are_the_trained_ones(folder: Path) -> None:
    early, late = (kept_policy(Checkpoint(folder, "Pendulum-v1", stage), seed=1) for stage in ("early", "late"))
    assert (early.num_timesteps, late.num_timesteps) == (2 * N_STEPS, 4 * N_STEPS)
    assert late.env.obs_rms.count > early.env.obs_rms.count > N_STEPS
    assert any(not torch.equal(a, b) for a, b in zip(early.policy.parameters(), late.policy.parameters(), strict=True))


def test_what_is_kept_is_not_made_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr(collect_batches, "train", lambda run, folder, early: trained.append((run.task, run.steps, early)))
    assert collect_batches.main(["--tasks", "Pendulum-v1", "--folder", str(folder)]) == 0
    assert trained == []
    arguments = ["--tasks", "Pendulum-v1", "--folder", str(tmp_path), "--late", "1024", "--early", "512"]
    assert collect_batches.main(arguments) == 0
    assert trained == [("Pendulum-v1", 1024, 512)]


@pytest.mark.parametrize("task", ["Pendulum-v1", "CartPole-v1"])
def test_the_policy_step_is_that_of_train(folder: Path, task: str) -> None:
    """Same gradient, same direction, same step as ``TRPO.train`` takes of that batch."""
    model = kept_policy(
        Checkpoint(folder, task, "late"), seed=1, adaptive_damping=False, cg_max_steps=5, cg_precision="float64"
    )
    collect(model, seed=1)
    step = policy_step(model)
    found, scale = step.solve("float64", 5, 5, float(model.cg_damping))
    before = torch.cat([parameter.detach().reshape(-1) for parameter in step.evaluated.problem.parameters])
    model.train()
    result = model.session.update_inputs.result
    assert result.gradient_norm == pytest.approx(float(step.g.norm()), rel=1e-12)
    torch.testing.assert_close(result.solve.direction.vector, found.solution, rtol=1e-9, atol=1e-12)
    assert scale is not None
    assert result.solve.direction.scale.scale == pytest.approx(scale.scale, rel=1e-9)
    moved = torch.cat([parameter.detach().reshape(-1) for parameter in step.evaluated.problem.parameters])
    assert not torch.equal(moved, before)


def test_rows_are_complete_and_float64_is_the_best(folder: Path, tmp_path: Path) -> None:
    assert measure(compare_precision, folder, tmp_path) == 0
    rows = read(tmp_path / "results" / VALUES)
    systems = {(r["policy"], r["less_damping"], r["iterations"]) for r in rows}
    assert len(systems) == 3 * 3 * 2
    assert len(rows) == len(systems) * len(SOLVERS)
    assert {(r["precision"], r["recurrence"]) for r in rows} == set(SOLVERS)
    for row in rows:
        without_step = {"kl_joint", "kl_share", "improvement"} if CGStatus(row["status"]).failed else set()
        assert {name for name, value in row.items() if not value} - {"commit", "dirty"} == without_step
        # The best of a Krylov space, which rounding turns a little: others may gain a trifle more, and much less.
        assert -1e-5 <= float(row["gain_lost"]) <= 1.0
        assert row["precision"] != "float64" or float(row["kl_share"]) > 0.0
    assert all(float(r["gain_lost"]) == 0.0 for r in rows if (r["precision"], r["recurrence"]) == REFERENCE)
    sigmas = {r["policy"]: float(r["std"]) for r in rows}
    assert sigmas["small sigma"] == pytest.approx(1e-3)
    assert sigmas["late"] > 0.1
    page = (tmp_path / "docs" / "precision.md").read_text()
    assert "Mixed, re-orthogonalised" in page
    assert "## With a preconditioner" not in page
    check_figure(tmp_path / "docs" / "figures" / "precision")


def test_times_and_preconditioners_join_the_page(folder: Path, tmp_path: Path) -> None:
    assert measure(compare_precision, folder, tmp_path) == 0
    assert measure(compare_precision, folder, tmp_path, "--timings", "--repetitions", "2") == 0
    assert len(read(tmp_path / "results" / TIMINGS)) == 2 * len(SOLVERS)
    assert measure(compare_preconditioners, folder, tmp_path) == 0
    counts = read(tmp_path / "results" / COUNTS)
    assert len(counts) == 3 * 3 * 4
    assert all(1 <= int(row["none_iterations"]) <= 26 for row in counts)
    assert measure(compare_precision, folder, tmp_path, "--report") == 0
    page = (tmp_path / "docs" / "precision.md").read_text()
    assert "## Time\n" in page
    assert page.count("| Pendulum-v1 late | 25 plain |") == 1


def test_policy_steps_are_timed_against_sb3_contrib(folder: Path, tmp_path: Path) -> None:
    assert measure(compare_preconditioners, folder, tmp_path, "--timings", "--repetitions", "2", "--precision", "float64") == 0
    rows = read(tmp_path / "results" / STEP_TIMINGS)
    assert len(rows) == 2 * (4 * 3 + 2)  # policies, targets of three models each, and two as shipped
    assert all(float(row["ratio"]) == 1.0 and row["iterations"] == "25" for row in rows if row["model"] == "sb3-contrib")
    assert all(int(row["iterations"]) <= 26 for row in rows if row["model"] == "none, float64" and row["target"] == "25 plain")
    ours = [row for row in rows if row["model"] != "sb3-contrib"]
    assert all(float(row["gain_share"]) > 0.9999 for row in ours if row["target"] in ("25 plain", "25 re-orthogonalised"))
    shipped = [row for row in ours if row["target"] == "as shipped"]
    assert [row["model"] for row in shipped] == ["kfac, float64"] * 2
    assert all(int(row["iterations"]) <= 25 and float(row["gain_share"]) > 0.5 for row in shipped)


def test_the_solver_of_sb3_contrib_is_run_on_the_same_system(folder: Path) -> None:
    step, model = batch_of(Checkpoint(folder, "Pendulum-v1", "late"), None, seed=1)
    damping = float(model.cg_damping)
    solution = step.contrib_solution(5, damping)
    assert solution.dtype == torch.float32
    assert torch.equal(solution, step.contrib_solution(5, damping))
    found, _ = step.solve("float32", 0, 5, damping)
    assert step.gain(solution, damping) == pytest.approx(step.gain(found.solution, damping), rel=1e-2)


def planted(**changes: Any) -> list[dict[str, Any]]:
    """One system, in which mixed does as well as float64 but for the changes."""
    common = {"task": "Hopper-v5", "policy": "late", "seed": "1", "less_damping": "10", "iterations": "25"}
    good = {**common, "gain_lost": 0.0, "kl_share": 0.9}
    return [{**good, "solver": REFERENCE}, {**good, "solver": CANDIDATE, **changes}]


def test_the_verdict_names_a_planted_loss() -> None:
    assert report_precision.judge(planted()).passes
    assert "loses nothing anywhere" in report_precision.judge(planted()).sentence
    for changes in ({"gain_lost": 0.02}, {"gain_lost": float("inf")}, {"kl_share": 0.8}, {"kl_share": None}):
        verdict = report_precision.judge(planted(**changes))
        assert not verdict.passes
        assert "FAILS" in verdict.sentence
        assert "Hopper-v5 late, 25 iterations, damping / 10" in verdict.sentence
    assert "2.0e-02" in report_precision.judge(planted(gain_lost=0.02)).sentence
    assert "mixed does not" in report_precision.judge(planted(kl_share=None)).sentence


def test_missing_policies_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"collect_batches.py makes it"):
        measure(compare_precision, tmp_path, tmp_path)
