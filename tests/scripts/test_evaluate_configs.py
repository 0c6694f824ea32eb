"""``scripts/evaluate_configs.py``, from its command line to its rows."""

import csv
from pathlib import Path

import evaluate_configs
import pytest
from evidence.runs import CURVE_EPISODES, FINAL_EPISODES, Run, curve_steps
from evidence.training import expected_module
from rich.console import Console


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "Hoper-v5"], "Hoper"),
        (["--tasks", "Hopper-v5", "--seeds", "-1"], "--seeds"),
        (["--tasks", "Hopper-v5", "--jobs", "0"], "--jobs"),
        (["--tasks", "Hopper-v5", "--steps", "0"], "--steps"),
        (["--tasks", "Hopper-v5", "--set", "gama=1"], "gamma"),
        (["--tasks", "Hopper-v5", "--implementations", "contrib-zoo", "--set", "gamma=1"], "add ours"),
        (["--tasks", "Hopper-v5", "--config", "none.yml"], "none.yml"),
        (["--tasks", "FrozenLake-v1"], "no entry FrozenLake-v1"),
        (["--tasks", "Pusher-v5", "--steps", "10", "--implementations", "ppo-zoo"], "nothing to train"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    assert evaluate_configs.main([*arguments, *places]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate_configs: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_plan_goes_seed_by_seed_and_measures_the_random_policy_first() -> None:
    args = evaluate_configs.parse_arguments(["--tasks", "Hopper-v5", "Pendulum-v1", "--seeds", "3", "4", "--steps", "9"])
    runs = evaluate_configs.plan(args, Console())
    assert [(run.implementation, run.seed) for run in runs[:2]] == [("random", 0), ("random", 0)]
    assert [(run.seed, run.task, run.implementation) for run in runs[2:]] == [
        (seed, task, implementation)
        for seed in (3, 4)
        for task in ("Hopper-v5", "Pendulum-v1")
        for implementation in ("ours", "contrib-zoo")
    ]
    assert {run.steps for run in runs[2:]} == {9}


def test_without_steps_all_train_as_long_as_our_settings_say() -> None:
    command = ["--tasks", "Pendulum-v1", "--seeds", "0", "--implementations", "ours", "contrib-zoo", "ppo-zoo"]
    runs = evaluate_configs.plan(evaluate_configs.parse_arguments(command), Console())
    assert {run.steps for run in runs[1:]} == {100_000}


def test_the_tuning_baselines_are_a_command() -> None:
    command = "--implementations contrib-zoo --seeds 0 1 2 3 4 --steps 1000000 --tasks".split()
    tasks = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "InvertedDoublePendulum-v5"]
    runs = evaluate_configs.plan(evaluate_configs.parse_arguments([*command, *tasks]), Console())
    assert len(runs) == 5 + 25
    assert {run.entry["gamma"] for run in runs if run.task == "Swimmer-v5" and run.entry} == {0.9999}


def test_classes_of_the_implementations() -> None:
    names = {name: expected_module(Run("T-v0", 0, name, 1)) for name in ("ours", "contrib-zoo", "contrib-ours", "ppo-zoo")}
    assert names == {
        "ours": "sb3_trpo_ext",
        "contrib-zoo": "sb3_contrib",
        "contrib-ours": "sb3_contrib",
        "ppo-zoo": "stable_baselines3",
    }


def test_from_the_command_line_to_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hopper's entry has everything: two environments, normalisation, units to convert. One update of each."""
    settings = tmp_path / "small.yml"
    settings.write_text(
        "Hopper-v5: {policy: MlpPolicy, normalize: true, n_envs: 2, n_steps: 128, n_critic_updates: 10, gamma: 0.98, "
        "policy_kwargs: 'dict(net_arch=[16], activation_fn=nn.ReLU)', kl_reduction: joint, target_kl: 0.03, cg_damping: 0.3}"
    )
    command = ["--tasks", "Hopper-v5", "--seeds", "1", "--implementations", "ours", "contrib-ours", "--steps", "256"]
    command += ["--set", "adaptive_damping=False", "cg_rtol=0", "max_critic_updates=10", "--config", str(settings)]
    command += ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"), "--jobs", "1"]
    assert evaluate_configs.main(command) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert evaluate_configs.main([*command, "--dry-run"]) == 0
    assert "3 finished, 0 to do" in capsys.readouterr().out

    with (tmp_path / "results" / "runs.csv").open(newline="") as file:
        rows = {row["implementation"]: row for row in csv.DictReader(file)}
    ours, contrib = rows["ours"], rows["contrib-ours"]
    assert ours["numerics_version"]
    assert (contrib["numerics_version"], rows["random"]["numerics_version"]) == ("", "")
    for row in (ours, contrib):
        assert (row["steps_done"], row["updates"], row["episodes"]) == ("256", "1", str(FINAL_EPISODES))
        assert row["commit"]
        assert row["mujoco"]
        assert float(row["seconds"]) > 0
    with (tmp_path / "results" / "curves.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    curves = {name: [point for point in points if point["implementation"] == name] for name in ("ours", "contrib-ours")}
    assert [int(point["steps"]) for point in curves["ours"]] == curve_steps(256)
    assert {point["episodes"] for point in points} == {str(CURVE_EPISODES)}
    # The same initial weights, start states and first rollout, and a first step of the same length in both units
    assert [p["training_return"] for p in curves["ours"]] == [p["training_return"] for p in curves["contrib-ours"]]
    assert curves["ours"][0] | {"run": "", "implementation": ""} == curves["contrib-ours"][0] | {
        "run": "",
        "implementation": "",
    }
    assert float(ours["largest_kl_ratio"]) == pytest.approx(float(contrib["largest_kl_ratio"]), rel=0.05)
    assert list((tmp_path / "work").glob("*/")) == []
