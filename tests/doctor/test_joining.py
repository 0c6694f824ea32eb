"""Rows of loggers become updates: by ``train/n_updates``, wherever keys stand; and whose event files they are."""

import shutil
from pathlib import Path

import pytest

from sb3_trpo_ext.doctor.discover import runs_below
from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.tables import OWN_STEPS, Row, updates_in
from tests.doctor.runs import train_contrib, write_events


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
