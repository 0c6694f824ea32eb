"""The benchmarks of trainings and environments: that each side is what it says, and that all of it is reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

pytest.importorskip("rliable", reason="tables need the extra `bench`")

import benchmark_environments
import benchmark_training
from benchmarks import page, training_page, whole_page
from benchmarks.environments import GroupedVecEnv, monitored, process_sides, wrapper_sides
from benchmarks.trainings import (
    ACTING,
    COLLECTION,
    CONTRIB,
    CRITIC,
    IN_SIMULATOR,
    OURS,
    OURS_IN_SB3S,
    PARTS,
    POLICY_STEP,
    PPO,
    SIMULATOR,
    UPDATE,
    WHOLE,
    BareSimulator,
    Training,
    alternate,
)

import sb3_trpo_ext
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize

TASK = "Acrobot-v1"
"""Normalised in the Zoo, and needs no MuJoCo."""


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    folder = tmp_path_factory.mktemp("trainings")
    return {name: Training(name, TASK, 2, folder / name) for name in (CONTRIB, OURS, OURS_IN_SB3S, PPO)}


def test_each_side_is_trained_by_its_own_library_in_its_own_wrappers(sides: dict[str, Training]) -> None:
    made = {name: (type(s.model), type(s.model.env), type(s.model.env.unwrapped)) for name, s in sides.items()}
    assert made == {
        CONTRIB: (sb3_contrib.TRPO, VecNormalize, DummyVecEnv),
        OURS: (sb3_trpo_ext.TRPO, FastVecNormalize, FastDummyVecEnv),
        OURS_IN_SB3S: (sb3_trpo_ext.TRPO, VecNormalize, DummyVecEnv),
        PPO: (SB3PPO, VecNormalize, DummyVecEnv),
    }
    assert {s.model.n_envs for s in sides.values()} == {2}
    assert sides[OURS].steps_per_update == sides[CONTRIB].steps_per_update == 2048


@pytest.mark.parametrize("name", [CONTRIB, OURS, OURS_IN_SB3S, PPO])
def test_a_training_goes_on_and_its_parts_add_up(sides: dict[str, Training], name: str) -> None:
    side = sides[name]
    before = side.model.num_timesteps
    whole, done = side.train(2048)
    assert side.model.num_timesteps == before + done
    assert done >= 2048
    assert whole[COLLECTION] + whole[UPDATE] == pytest.approx(whole[WHOLE])
    split, done = side.split(2048)
    assert set(split) == set(PARTS)
    assert all(split[part] > 0 for part in (IN_SIMULATOR, ACTING, POLICY_STEP))
    assert (split[CRITIC] > 0) == (name != PPO)
    assert all(value >= 0 for value in split.values())
    # The clocks are gone again.
    assert "forward" not in vars(side.model.policy)
    assert "step" not in vars(side.model.env)
    assert "step" not in vars(side.model.env.unwrapped.envs[0].unwrapped)


def test_sides_take_turns_and_each_repetition_begins_with_another_one() -> None:
    order: list[str] = []

    class Side:
        def __init__(self, name: str):
            self.name = name

    def measure(side: Any, steps: int) -> Any:
        order.append(side.name)
        return {WHOLE: 2.0}, 2 * steps

    found = alternate([Side("a"), Side("b")], 4, 3, measure)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [{WHOLE: 250_000.0}] * 3, "b": [{WHOLE: 250_000.0}] * 3}


def test_the_bare_simulator_ends_its_episodes() -> None:
    bare = BareSimulator("CartPole-v1", 3)
    seconds, done = bare.train(100)
    assert done == 102
    assert seconds[WHOLE] > 0
    assert max(bare._steps) < 100


def test_a_run_writes_every_row_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, target = tmp_path / "results", tmp_path / "docs" / "benchmarks.md"
    monkeypatch.setattr(benchmark_training, "CSV", results / training_page.TRAINING_CSV)
    monkeypatch.setattr(benchmark_environments, "CSV", results / training_page.ENVIRONMENTS_CSV)
    write = whole_page.write
    monkeypatch.setattr(whole_page, "write", lambda: write(target, results))
    arguments = ["--cell", f"{TASK}:2", "--sides", OURS, "--repetitions", "2", "--split-repetitions", "1", "--updates", "1"]
    assert benchmark_training.main([*arguments, "--write"]) == 0
    rows = page.read(results / training_page.TRAINING_CSV)
    assert {row["side"] for row in rows if row["part"] == WHOLE} == {CONTRIB, OURS, SIMULATOR}
    assert {row["part"] for row in rows if row["side"] == OURS} == {WHOLE, COLLECTION, UPDATE, *PARTS}
    assert all(row["ratio"] == "1" for row in rows if row["side"] == CONTRIB)
    monkeypatch.setattr(benchmark_environments, "OTHER_STEPS", 64)
    arguments = ["--wrappers", "CartPole-v1:2", "--processes", "CartPole-v1:2", "--repetitions", "1", "--write"]
    assert benchmark_environments.main(arguments) == 0
    text = target.read_text()
    for row in [*rows, *page.read(results / training_page.ENVIRONMENTS_CSV)]:
        assert f"| {row['part']} | {row['side']} |" in text
        assert row["command"] in text
    assert "| collection, HalfCheetah-v5, 2 environments | 0.6 | - | not measured |" in text


def test_bars_judge_ours_alone() -> None:
    def row(side: str, ratio: str, part: str = WHOLE) -> dict[str, str]:
        where = {"task": "HalfCheetah-v5", "n_envs": "8", "part": part, "side": side}
        return {**where, "ratio": ratio, "ratio_low": ratio, "ratio_high": ratio}

    def verdict(*rows: dict[str, str]) -> str:
        return next(bar for bar in training_page.verdicts(list(rows)) if bar[0] == f"{WHOLE}, HalfCheetah-v5, 8 environments")[
            -1
        ]

    assert verdict(row(OURS, "0.55")) == "reached"
    assert verdict(row(OURS, "0.56")) == "missed"
    assert verdict(row(PPO, "0.1"), row(OURS, "0.1", COLLECTION)) == "not measured"


def test_what_is_no_cell_and_what_is_no_task_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark_training.main(["--cell", "HalfCheetah-v5"])
    assert "a cell is ID:N" in capsys.readouterr().err
    assert benchmark_training.main(["--cell", "HalfCheeta-v5:2"]) == 2
    assert "HalfCheeta" in capsys.readouterr().err


def test_a_few_processes_step_as_one_does() -> None:
    def history(env: Any) -> list[Any]:
        env.action_space.seed(0)
        first = env.reset()
        assert first.shape == (4, 4)
        said = [env.step(np.array([env.action_space.sample() for _ in range(4)])) for _ in range(40)]
        env.close()
        return [(o.shape, r.tolist(), d.shape, len(i), sorted(i[0])) for o, r, d, i in said]

    functions = [lambda: monitored("CartPole-v1")] * 4
    one, two = history(DummyVecEnv(functions)), history(GroupedVecEnv(functions, 2))
    # Unseeded, so episodes end at other steps; what is said has the same form.
    assert [each[:3] for each in one] == [each[:3] for each in two]
    assert all(each[3] == 4 for each in two)


def test_every_side_steps_what_it_says() -> None:
    for side in [*wrapper_sides("CartPole-v1", 2), *process_sides("CartPole-v1", 2, 1)]:
        seconds, done = side.train(20)
        side.close()
        assert done == 20
        assert seconds["step"] > 0
    names = [side.name for side in wrapper_sides("CartPole-v1", 2)]
    assert set(benchmark_environments.ADDED_TO) == set(names[1:])
