"""Runs that truly have a trouble: the right finding comes first, with the right exit code; healthy ones have none."""

import json
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.discover import runs_below
from sb3_trpo_ext.doctor.finding import Finding, worst_first
from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import OWN_STEPS, Row, updates_in
from sb3_trpo_ext.doctor.text import verdict
from sb3_trpo_ext.monitoring import ALARMS, Severity, TrustRegionMonitor
from sb3_trpo_ext.replay import cli as replay
from tests.doctor.runs import CONTRIB, train_contrib, train_ours, write_events
from tests.monitoring.scenarios import SCENARIOS, healthy

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


@pytest.mark.parametrize("eval_freq", [0, 100, 128])
@pytest.mark.parametrize("csv", [True, False])
def test_rows_are_joined_by_update_wherever_their_keys_stand(csv: bool, eval_freq: int, tmp_path: Path) -> None:
    """Between rollouts, at their very ends, or without evaluations: KL and steps are those of the training."""
    remembers = train_contrib(tmp_path / "run", 9, eval_freq=eval_freq)
    for file in (tmp_path / "run").iterdir():
        if (file.name == "progress.csv") != csv:
            file.unlink()
    points = read_run(tmp_path / "run").points.values()
    found = {int(point["update"]): (int(point["steps"]), pytest.approx(point["kl_joint"], rel=1e-6)) for point in points}
    # SB3 never writes the last update, unless an evaluation comes after it.
    expected = {number: remembers.kls[number] for number in found}
    assert found == expected
    assert sorted(found) == list(range(1, len(found) + 1))
    assert len(found) >= len(remembers.kls) - 1


def test_keys_of_one_update_in_two_rows_are_one_update() -> None:
    run = Run(Path())
    rows: list[Row] = [
        {"time/total_timesteps": 256.0, "rollout/ep_rew_mean": 1.0},
        {"time/total_timesteps": 300.0, "eval/mean_reward": 2.0, "train/n_updates": 1.0, "train/kl_divergence_loss": 0.01},
        {"time/total_timesteps": 512.0, "rollout/ep_rew_mean": 3.0, "train/n_updates": 1.0, "train/std": 0.5},
        {"time/total_timesteps": 768.0, "train/n_updates": 2.0, "train/kl_divergence_loss": 0.02},
    ]
    found = [(report.n_updates, report.num_timesteps, report.kl, report.std) for report in updates_in(run, rows)]
    assert found == [(1, 256, 0.01, 0.5), (2, 512, 0.02, None)]
    assert (run.returns.values(), run.evaluations.values()) == ([(256.0, 1.0), (512.0, 3.0)], [(300.0, 2.0)])


def test_the_last_update_is_written_with_the_last_rollout() -> None:
    """TensorBoard and W&B have no dumps, only steps: what was written at one step is one row."""
    rows: list[Row] = [
        {"time/total_timesteps": 256.0, "rollout/ep_rew_mean": 1.0},
        {"time/total_timesteps": 300.0, "eval/mean_reward": 2.0, "train/kl_divergence_loss": 0.01},
        {"time/total_timesteps": 512.0, "rollout/ep_rew_mean": 3.0, "train/kl_divergence_loss": 0.02},
    ]
    assert [(r.n_updates, r.num_timesteps) for r in updates_in(Run(Path()), rows)] == [(1, 256), (2, 512)]
    own: list[Row] = [
        {"time/total_timesteps": 256.0 * n, "train/n_updates": float(n), "train/kl_divergence_loss": 0.01, OWN_STEPS: 1.0}
        for n in (1, 2, 3)
    ]
    assert [r.num_timesteps for r in updates_in(Run(Path()), own)] == [256, 512, 768]


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


# ---------------------------------------------------------------- the recorder, and thresholds of one's own


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


# ---------------------------------------------------------------- whose event files they are


def test_event_folders_of_several_runs_are_several_runs() -> None:
    for name in ("TRPO_1", "TRPO_2"):
        Path("logs", name).mkdir(parents=True)
        write_events(Path("logs", name, f"{EVENTS}1"), range(20))
    Path("logs/monitor.csv").write_text('#{"env_id": "Small"}\nr,l,t\n1.5,10,3.0\n')
    runs = list(runs_below([Path("logs")], 0.01))
    assert [(run.path.name, run.judged) for run in runs] == [("logs", 0), ("TRPO_1", 20), ("TRPO_2", 20)]
    shutil.rmtree("logs/TRPO_2")
    # One folder is the run's.
    assert [(run.path.name, run.judged) for run in runs_below([Path("logs")], 0.01)] == [("logs", 20)]


def test_a_later_event_file_replaces_steps_that_it_writes_again() -> None:
    write_events(Path(f"{EVENTS}1"), range(30), kl=0.5)
    write_events(Path(f"{EVENTS}2"), range(20, 50), kl=0.005)
    write_events(Path(f"{EVENTS}3"), [0], kl=0.005)
    Path(f"{EVENTS}3").write_bytes(
        Path(f"{EVENTS}3").read_bytes().replace(b"train/kl", b"own_t/kl").replace(b"rollout", b"own_too")
    )
    run = read_run(Path(), target_kl=0.01)
    steps = [point["steps"] for point in run.points.values()]
    assert steps == sorted(set(steps))
    assert [(f.file, f.evidence) for f in run.findings if f.code == "DR012"] == [(f"{EVENTS}1", {"from_step": 21 * 256})]
    assert sum(point["kl_joint"] == 0.5 for point in run.points.values()) == 20


def test_the_zoos_event_files_elsewhere_are_joined_where_it_is_certain() -> None:
    for number in (1, 2):
        Path(f"logs/trpo/Small_{number}/Small").mkdir(parents=True)
        Path(f"logs/trpo/Small_{number}/0.monitor.csv").write_text('#{"env_id": "Small"}\nr,l,t\n1.5,10,3.0\n')
        Path(f"runs/{number}/Small/TRPO_1").mkdir(parents=True)
        write_events(Path(f"runs/{number}/Small/TRPO_1/{EVENTS}1"), range(20 * number))
        Path(f"logs/trpo/Small_{number}/Small/args.yml").write_text(f"algo: trpo\ntensorboard_log: runs/{number}\n")
    both = [Path("logs"), Path("runs")]
    assert [(run.path.name, run.judged) for run in runs_below(both, 0.01)] == [("Small_1", 20), ("Small_2", 40)]
    # Two runs with the same folder: nothing says whose they are.
    Path("logs/trpo/Small_2/Small/args.yml").write_text("algo: trpo\ntensorboard_log: runs/1\n")
    assert len(list(runs_below(both, 0.01))) == 4


def test_the_order() -> None:
    def found(code: str, since: int | None = None, **more: Any) -> Finding:
        return Finding(code, since_update=since, **more)

    right = [found("DR008", 3), found("TR104", 9), found("TR604", 1), found("DR003"), found("TR404", 1), found("TR403", 7)]
    assert worst_first(reversed(right)) == right
    assert worst_first([found("DR006", milder=Severity.INFO), found("TR105")])[0].code == "TR105"


@pytest.mark.parametrize("name", ["progress.csv", f"{EVENTS}1", "monitor.csv", "evaluations.npz"])
def test_returns_that_are_not_finite(name: str) -> None:
    if name == "progress.csv":
        rows = "".join(f"{n},{'nan' if n > 4 else 1.0},0.005,{256 * n}\n" for n in range(1, 21))
        Path(name).write_text("train/n_updates,rollout/ep_rew_mean,train/kl_divergence_loss,time/total_timesteps\n" + rows)
    elif name == "monitor.csv":
        Path(name).write_text("#{}\nr,l,t\n1.0,10,1.0\nnan,10,2.0\n")
    elif name == "evaluations.npz":
        np.savez(name, timesteps=np.array([1, 2]), results=np.array([[1.0], [np.nan]]))
    else:
        write_events(Path(name), range(20), **{"eval/mean_reward": float("inf")})
    run = read_run(Path(), target_kl=0.01)
    assert run.findings[0].code == "DR008"
    assert run.exit_code == 2


def test_numbers_that_are_not_finite_in_tensorflows_form() -> None:
    tensor = TensorProto(dtype=1, float_val=[float("nan")])
    record = Event(step=256, summary=Summary(value=[Summary.Value(tag="train/value_loss", tensor=tensor)])).SerializeToString()
    write_events(Path(f"{EVENTS}1"), range(20))
    length = struct.pack("<Q", len(record))
    with Path(f"{EVENTS}1").open("ab") as file:
        for part in (length, record):
            file.write(part + struct.pack("<I", masked_crc32c(part)))
    assert "DR008" in [finding.code for finding in read_run(Path(), target_kl=0.01).findings]


def test_returns_that_do_not_vary_make_no_run_sick() -> None:
    rows = "".join(f"{n},nan,0.005,{256 * n}\n" for n in range(1, 9))
    Path("progress.csv").write_text(
        "train/n_updates,train/explained_variance,train/kl_divergence_loss,time/total_timesteps\n" + rows
    )
    assert [
        finding.code for finding in read_run(Path(), target_kl=0.01).findings if finding.severity is Severity.CRITICAL
    ] == []


def test_a_number_that_is_not_finite_is_no_number_of_json() -> None:
    plain = Finding("TR101", {"spike": float("inf"), "what": "x"}).plain()
    assert json.loads(json.dumps(plain, allow_nan=False))["evidence"] == {"spike": "inf", "what": "x"}
