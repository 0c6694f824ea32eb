"""Runs that truly have a trouble: the right finding comes first, with the right exit code; healthy ones have none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.finding import Finding, worst_first
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.monitoring import ALARMS, Severity
from tests.doctor.runs import CONTRIB, train_contrib
from tests.monitoring.scenarios import SCENARIOS

EXIT_CODES = {Severity.WARNING: 1, Severity.CRITICAL: 2}


CAUSES = {"TR304": "TR302", "TR503": "TR302", "TR601": "TR503", "TR602": "TR503"}
"""In these scenarios something else of the same severity is wrong as well, and explains it: it stands before it."""


@pytest.mark.parametrize("code", SCENARIOS)
def test_the_trouble_of_a_run_of_ours_comes_first(code: str, ours: Callable[[str], Path]) -> None:
    run = read_run(ours(code))
    assert run.findings[0].code == CAUSES.get(code, code)
    first = next(finding for finding in run.findings if finding.code == code)
    assert first.severity is run.findings[0].severity
    assert run.exit_code == EXIT_CODES[ALARMS[code].severity]
    assert all(finding.code == code for finding in run.findings if finding.severity is Severity.CRITICAL)
    # Since when, and the numbers: what the monitor itself said while the run went on.
    alarms = [json.loads(line) for line in (ours(code) / "alarms.jsonl").read_text().splitlines()]
    raised = next(alarm for alarm in alarms if alarm["code"] == code)
    assert (first.since_update, first.since_steps, dict(first.evidence)) == (
        raised["n_updates"],
        raised["num_timesteps"],
        raised["evidence"],
    )
    assert first.replay is not None
    # Found again without what the monitors have left, from the record alone.
    bare = Path("bare")
    bare.mkdir()
    shutil.copy(ours(code) / "updates.jsonl", bare)
    again = read_run(bare)
    assert [f.code for f in again.findings] == [f.code for f in run.findings if f.code != "DR010"]
    assert all(finding.replay is None for finding in again.findings)


def test_a_healthy_run_of_ours(ours: Callable[[str], Path]) -> None:
    run = read_run(ours("healthy"))
    assert (run.findings, run.exit_code, run.n_updates, run.num_timesteps) == ([], 0, 22, 22 * 256)
    reports = [UpdateReport.from_json(line) for line in (ours("healthy") / "updates.jsonl").read_text().splitlines()]
    points = run.points.values()
    assert [point["kl_joint"] for point in points] == [report.kl_joint for report in reports]
    assert [point["cg_gain"] for point in points] == [-(report.cg_model_history[-1] or 0.0) for report in reports]
    assert len(run.layers.values()[0]) == 4


def test_our_csv_alone_tells_what_its_keys_allow(ours: Callable[[str], Path]) -> None:
    for code in ("TR104", "TR503"):
        folder = Path(code)
        folder.mkdir()
        shutil.copy(ours(code) / "progress.csv", folder)
        run = read_run(folder, target_kl=0.01)
        assert (run.findings[0].code, run.algorithm) == (code, "sb3_trpo_ext")
        (same,) = [finding for finding in read_run(ours(code)).findings if finding.code == code]
        assert run.findings[0].since_steps == same.since_steps


def test_a_row_is_judged_by_the_bound_that_it_tells(ours: Callable[[str], Path]) -> None:
    shutil.copy(ours("healthy") / "progress.csv", ".")
    run = read_run(Path(), target_kl=1.0)  # of which these updates use next to nothing: TR105
    reports = [UpdateReport.from_json(line) for line in (ours("healthy") / "updates.jsonl").read_text().splitlines()]
    assert run.findings == []
    assert [point["target_kl"] for point in run.points.values()] == pytest.approx([r.target_kl for r in reports], rel=1e-5)


def test_arrays_alone_are_drawn(ours: Callable[[str], Path]) -> None:
    for name in ("kl.npy", "advantages.npy", "vf_loss.npy", "entropy.npy"):
        shutil.copy(ours("healthy") / name, ".")
    points = read_run(Path()).points.values()
    assert np.array_equal([point["kl_joint"] for point in points], np.load("kl.npy"))
    assert np.array_equal([point["advantage_q95"] for point in points], np.load("advantages.npy")[:, 5])


# ---------------------------------------------------------------- sb3-contrib's


@pytest.mark.parametrize("code", CONTRIB)
def test_the_trouble_of_a_run_of_sb3_contrib(code: str, tmp_path: Path) -> None:
    n_updates, settings = CONTRIB[code]
    train_contrib(tmp_path / "run", n_updates, **settings)
    (tmp_path / "csv").mkdir()
    (tmp_path / "run" / "progress.csv").rename(tmp_path / "csv" / "progress.csv")
    # From TensorBoard's events alone, and from SB3's CSV alone.
    for folder in ("run", "csv"):
        run = read_run(tmp_path / folder, target_kl=settings.get("target_kl", 0.01))
        assert run.algorithm == "sb3-contrib"
        assert run.findings[0].code == code
        assert run.exit_code == EXIT_CODES[ALARMS[code].severity]
        assert "cg_damping" not in run.findings[0].evidence


def test_a_healthy_run_of_sb3_contrib(contrib: Path) -> None:
    run = read_run(contrib)
    assert [finding.code for finding in run.findings] == ["DR011"]
    assert run.exit_code == 0
    assert run.evaluations.seen == len(np.load(contrib / "evaluations.npz")["timesteps"])


def test_figures_that_are_not_finite_are_critical(tmp_path: Path) -> None:
    train_contrib(tmp_path / "run", 4, env={"reward": lambda *_: 1e30})
    run = read_run(tmp_path / "run")
    assert (run.findings[0].code, run.findings[0].since_update, run.exit_code) == ("DR008", 1, 2)
    assert "train/value_loss" in str(run.findings[0].evidence["keys"])
    assert [finding.code for finding in run.findings].count("DR008") == 1


def test_the_zoos_configuration_tells_what_target_kl_was(tmp_path: Path) -> None:
    train_contrib(tmp_path / "run", 13, **CONTRIB["TR105"][1])
    (tmp_path / "run" / "args.yml").write_text("algo: trpo\nn_timesteps: -1\nenv: Small-v0")
    assert [finding.code for finding in read_run(tmp_path / "run").findings] == ["DR011"]
    # The default, where a configuration that is there does not name it.
    (tmp_path / "run" / "config.yml").write_text("n_timesteps: 1.0e+4")
    run = read_run(tmp_path / "run")
    assert [finding.code for finding in run.findings] == ["TR105", "DR009"]
    assert run.findings[1].evidence == {"steps": 13 * 256, "of": 10_000}
    assert run.environment == "Small-v0"
    (tmp_path / "run" / "config.yml").write_text("target_kl: 1.0e-7")
    assert read_run(tmp_path / "run").findings == []


# ---------------------------------------------------------------- order


def test_the_order() -> None:
    def found(code: str, since: int | None = None, **more: Any) -> Finding:
        return Finding(code, since_update=since, **more)

    right = [found("DR008", 3), found("TR104", 9), found("TR604", 1), found("DR003"), found("TR404", 1), found("TR403", 7)]
    assert worst_first(reversed(right)) == right
    assert worst_first([found("DR006", milder=Severity.INFO), found("TR105")])[0].code == "TR105"
