"""What the verdict makes of a finding: runs that died, troubles that are over or came back, and runs that are too short."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext.doctor.examine import Examiner
from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.text import verdict
from sb3_trpo_ext.monitoring import Severity, TrustRegionMonitor
from sb3_trpo_ext.replay import cli as replay
from tests.doctor.runs import train_ours
from tests.monitoring.reports import make_report
from tests.monitoring.scenarios import healthy


class Dies(BaseCallback):
    def _on_step(self) -> bool:
        if self.num_timesteps > 1000:
            raise RuntimeError("the robot [red]fell[/red] over\x1b[31m")
        return True


def test_a_run_that_died_says_of_what_and_how_to_replay(capsys: pytest.CaptureFixture[str]) -> None:
    model = healthy()
    model.log_folder = "run"
    with pytest.raises(RuntimeError):
        model.learn(5000, callback=[TrustRegionMonitor(), Dies()])
    run = read_run(Path("run"))
    first = run.findings[0]
    assert (first.code, run.exit_code, first.since_update) == ("DR006", 2, 3)
    assert first.evidence == {"error": "RuntimeError: the robot [red]fell[/red] over [31m"}
    assert first.replay is not None
    assert replay.main(first.replay.split()[4:]) == 0
    assert "bit for bit" in capsys.readouterr().out
    stopped = json.loads(next(Path("run/dumps").glob("*_died.json")).read_text())
    Path("run/dumps/update_000003_died.json").write_text(json.dumps({**stopped, "error": "SIGTERM"}))
    again = read_run(Path("run"))
    assert [finding.code for finding in again.findings if finding.code in ("DR006", "DR013")] == ["DR013"]
    assert again.exit_code == 0
    # Who goes on from there has another run.
    model.learn(3000, callback=TrustRegionMonitor(), reset_num_timesteps=False)
    assert read_run(Path("run")).exit_code == 0


def test_an_alarm_of_a_users_own_threshold_is_told_as_it_was_raised() -> None:
    model = healthy()
    model.log_folder = "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(12 * 256, callback=TrustRegionMonitor(kl={"unused": 1.0}))
    (found,) = read_run(Path("run")).findings
    assert (found.code, found.since_update, found.updates) == ("TR105", 10, None)
    assert found.since == "update 10 (2,560 steps)"


def test_a_run_without_monitors_is_judged_too() -> None:
    run = read_run(train_ours(Path("run"), "TR104", monitors=False))
    assert (run.findings[0].code, run.exit_code) == ("TR104", 2)


def test_a_trouble_that_is_over_says_so() -> None:
    train_ours(Path("run"), "TR104", n_updates=13)
    text = Path("run/updates.jsonl").read_text().splitlines()
    good = json.loads(train_ours(Path("other")).joinpath("updates.jsonl").read_text().splitlines()[0])
    for number in range(14, 40):
        text.append(json.dumps({**good, "n_updates": number, "num_timesteps": 256 * number}))
    Path("run/updates.jsonl").write_text("\n".join(text) + "\n")
    (found,) = [f for f in read_run(Path("run")).findings if f.code == "TR104"]
    assert (found.since_update, found.ongoing) == (10, False)
    assert found.last_update is not None
    assert 13 < found.last_update < 20
    assert f"last in update {found.last_update}" in found.since
    # For long enough to count less, as a run that died and went on does.
    assert (found.severity, read_run(Path("run")).exit_code) == (Severity.WARNING, 1)


def rejected_in(*spells: range, last: int) -> Run:
    """A run whose steps are rejected in some updates."""
    lines = []
    for number in range(1, last + 1):
        bad = any(number in spell for spell in spells)
        row = f"{number},{0.0 if bad else 0.005},{256 * number},{int(not bad)}\n"
        lines.append(row)
    header = "train/n_updates,train/kl_divergence_loss,time/total_timesteps,train/is_line_search_success\n"
    Path("progress.csv").write_text(header + "".join(lines))
    return read_run(Path(), target_kl=0.01)


def test_a_trouble_that_came_back_says_since_when() -> None:
    run = rejected_in(range(10, 25), range(80, 95), last=95)
    (found,) = [finding for finding in run.findings if finding.code == "TR104"]
    assert found.since_update is not None
    assert found.again_update is not None
    assert found.since_update < 25 < 80 < found.again_update < 95
    assert f"again since update {found.again_update}, to the end" in found.since
    assert found.plain()["again_update"] == found.again_update
    assert found.severity is Severity.CRITICAL


@pytest.mark.parametrize(("calm", "severity"), [(5, Severity.CRITICAL), (40, Severity.WARNING)])
def test_a_trouble_counts_less_when_it_has_been_over_for_long(calm: int, severity: Severity) -> None:
    run = rejected_in(range(1, 31), last=30 + 10 + calm)
    (found,) = [finding for finding in run.findings if finding.code == "TR104"]
    assert (found.severity, found.ongoing, found.again_update) == (severity, False, None)


def test_a_few_updates_are_no_bill_of_health() -> None:
    run = rejected_in(range(1, 9), last=8)
    assert [finding.code for finding in run.findings] == ["DR015"]
    assert run.findings[0].evidence == {"judged": 8, "of": 8}
    assert (run.exit_code, run.verdict) == (0, "not judged")
    assert verdict(run).plain == "not judged"
    assert rejected_in(last=30).verdict == "healthy"


@pytest.mark.parametrize("name", ["updates.jsonl", "evaluations.npz", "progress.csv", "monitor.csv", f"{EVENTS}1"])
def test_a_run_that_has_just_begun_is_no_trouble(name: str) -> None:
    Path(name).touch()
    run = read_run(Path())
    assert {finding.code for finding in run.findings} <= {"DR004", "DR014"}
    assert "DR014" in {finding.code for finding in run.findings}
    assert run.exit_code == 0


def test_evaluations_that_have_not_come_yet() -> None:
    np.savez("evaluations.npz", timesteps=np.array([]), results=np.empty((0, 5)))
    assert [finding.code for finding in read_run(Path()).findings] == ["DR014"]


@pytest.mark.parametrize(("between", "again"), [(0.08, None), (0.07, 23)])
def test_a_layer_about_its_threshold_is_judged_as_the_monitor_judges_it(between: float, again: int | None) -> None:
    examiner = Examiner()
    for number, share in enumerate([0.12] * 10 + [between] * 10 + [0.12] * 10, start=1):
        layer = {"layer_names": ("critic 3",), "layer_units": (64,), "layer_dead": (share,), "layer_saturated": (0.0,)}
        examiner.look(make_report(number, activity_samples=256, **layer))
    (found,) = [finding for finding in examiner.findings() if finding.code == "TR301"]
    assert (found.since_update, found.again_update, found.ongoing) == (3, again, True)
