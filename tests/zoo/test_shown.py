"""``enjoy`` and ``record_video`` show the run that is meant, and each model with the statistics that it was stored with."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import sb3_contrib
from rl_zoo3 import utils
from rl_zoo3.utils import EnvironmentName
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.checkpoints.files import write_checkpoint
from sb3_trpo_ext.sb3.checkpoints.model_files import statistics_in
from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.plan import make_plan
from sb3_trpo_ext.zoo.runs import newest_run
from sb3_trpo_ext.zoo.shown import own_statistics
from tests.sb3.checkpoints.test_model_files import held, moments
from tests.zoo.widening import TASK

RUN = Path("logs/trpo", f"{TASK}_1")
SETTINGS = [
    *("-params", "n_steps:128", "n_envs:1", "normalize:True", "learning_rate:0.005", "batch_size:64"),
    *("kl_reduction:'joint'", "target_kl:0.05", "policy_kwargs:dict(net_arch=[8])"),
]
EVERY = ["--eval-freq", "128", "--eval-episodes", "1", "--save-freq", "128", "--seed", "1", "--verbose", "0"]
TRAIN = ["train", "--env", TASK, "-n", "2048", *EVERY, *SETTINGS]


def enjoyed(capsys: pytest.CaptureFixture[str], *which: str) -> tuple[float, str]:
    """Mean reward, and what was said on stderr."""
    capsys.readouterr()
    assert run(["enjoy", "--env", TASK, "--no-render", "-n", "40", "--device", "cpu", *which]) == 0
    said = capsys.readouterr()
    line = next(line for line in said.out.splitlines() if line.startswith("Mean reward"))
    return float(line.split()[2]), said.err


def evaluated() -> dict[int, float]:
    found = np.load(RUN / "evaluations.npz")
    return {int(at): round(float(rewards.mean()), 2) for at, rewards in zip(found["timesteps"], found["results"], strict=True)}


def test_the_best_model_is_shown_with_its_own_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--env", TASK, "-n", "256", *EVERY, *SETTINGS]) == 0
    shutil.copy(RUN / "rl_model_128_steps.zip", RUN / "best_model.zip")
    rewards = evaluated()
    # What is beside them matters to neither.
    VecNormalize(make_vec_env(TASK)).save(str(RUN / TASK / "vecnormalize.pkl"))
    assert enjoyed(capsys, "--load-best") == (rewards[128], "")
    assert enjoyed(capsys, "--load-last-checkpoint") == (rewards[256], "")


@pytest.mark.slow
def test_each_model_is_shown_as_it_was_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TRAIN) == 0
    rewards = evaluated()
    best = max(rewards.values())
    assert best > rewards[2048] + 3  # or the statistics would not matter
    assert enjoyed(capsys, "--load-best") == (best, "")
    for at in (256, 1024, 2048):
        assert enjoyed(capsys, "--load-checkpoint", str(at)) == (rewards[at], "")
    assert enjoyed(capsys, "--load-last-checkpoint") == (rewards[2048], "")
    # Also where the file of the end is missing, as after a kill, or of another moment.
    (RUN / TASK / "vecnormalize.pkl").unlink()
    assert enjoyed(capsys, "--load-best", "--norm-reward") == (best, "")
    _as_record_video_does(best)
    _trained_on_from_the_best(capsys)
    _without_statistics_it_is_as_before(capsys, best)


def _as_record_video_does(best: float) -> None:
    name = EnvironmentName(TASK)
    with own_statistics("record_video"):
        _, path, _ = utils.get_model_path(0, "logs", "trpo", name, True, None, False)
        hyperparams, stats_path = utils.get_saved_hyperparams(str(RUN / TASK))
        env = utils.create_test_env(TASK, stats_path=stats_path, should_render=False, hyperparams=hyperparams)
    mean, _ = evaluate_policy(TRPO.load(path), env, n_eval_episodes=2, warn=False)
    assert round(mean, 2) == best
    assert utils.create_test_env.__module__ == "rl_zoo3.utils"


def _trained_on_from_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    """The first evaluation of a training that goes on with ``-i`` is of few steps more."""
    seen = moments(held(RUN / "best_model.zip"))
    assert run(["train", "--env", TASK, "-n", "16", *SETTINGS, "--eval-freq", "-1", "-i", str(RUN / "best_model.zip")]) == 0
    capsys.readouterr()
    count = moments(held(RUN.with_name(f"{TASK}_2") / f"{TASK}.zip"))[0][2]
    assert seen[0][2] < count < seen[0][2] + 200
    shutil.rmtree(RUN.with_name(f"{TASK}_2"))


def _without_statistics_it_is_as_before(capsys: pytest.CaptureFixture[str], best: float) -> None:
    (RUN / TASK / "vecnormalize.pkl").write_bytes(statistics_in(RUN / f"{TASK}.zip") or b"")
    for name in ("best_model.zip", f"{TASK}.zip"):
        sb3_contrib.TRPO.save(TRPO.load(RUN / name), RUN / name)
    mean, said = enjoyed(capsys, "--load-best")
    assert mean < best - 3
    assert said.count("\n") == 1
    assert f"{RUN}/best_model.zip does not hold the statistics" in said
    assert f"using {RUN}/{TASK}/vecnormalize.pkl" in said
    assert not enjoyed(capsys)[1]


def _run(name: str, at: float) -> Path:
    folder = Path("logs/trpo", name)
    env_id = name.rsplit("_", 2 if name.count("-") > 3 else 1)[0]
    (folder / env_id).mkdir(parents=True)
    (folder / env_id / "args.yml").touch()
    os.utime(folder / env_id / "args.yml", (at, at))
    return folder


UUIDS = [str(uuid.UUID(int=number, version=4)) for number in range(4)]


def test_the_newest_run() -> None:
    assert newest_run(Path("logs/trpo"), "A-v0") is None
    first = _run(f"A-v0_1_{UUIDS[0]}", 20.0)
    _run(f"A-v0_1_{UUIDS[1]}", 10.0)
    assert newest_run(Path("logs/trpo"), "A-v0") == first
    # The Zoo counts on from a run without a uuid only, which therefore is newer than all of its number.
    plain = _run("A-v0_1", 5.0)
    assert newest_run(Path("logs/trpo"), "A-v0") == plain
    second = _run(f"A-v0_2_{UUIDS[2]}", 30.0)
    assert newest_run(Path("logs/trpo"), "A-v0") == second
    tenth = _run("A-v0_10", 1.0)
    assert newest_run(Path("logs/trpo"), "A-v0") == tenth
    assert [newest_run(Path("logs/trpo"), "A-v0", number) for number in (1, 2, 3)] == [plain, second, None]
    # Other environments, names that no run has, and files.
    _run("A-v0-v0_11", 40.0)
    Path("logs/trpo/A-v0_12").touch()
    Path("logs/trpo/A-v0_13_mine").mkdir()
    assert newest_run(Path("logs/trpo"), "A-v0") == tenth
    assert newest_run(Path("logs/trpo"), "module:A-v0") == tenth
    atari = _run(f"ALE-Pong-v5_1_{UUIDS[3]}", 1.0)
    assert newest_run(Path("logs/trpo"), "ALE/Pong-v5") == atari


@pytest.mark.parametrize(
    ("where", "env_id"),
    [
        (["-f", "elsewhere"], TASK),
        (["-felsewhere", "-uuid"], TASK),
        (["--log-folder=elsewhere", "--algo", "trpo"], TASK),
        (["--log-f", "elsewhere"], TASK),
        (["-f", "elsewhere"], "ALE/Pong-v5"),
        (["-f", "elsewhere"], f"module:{TASK}"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_flags_that_name_the_place_of_a_run(where: list[str], env_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("elsewhere/trpo", f"{EnvironmentName(env_id)}_1_{UUIDS[0]}")
    about = {"num_timesteps": 128, "total_timesteps": 256}
    write_checkpoint(folder / "checkpoints", 1, {"model.zip": b"-", "state.pkl": b"-"}, about)
    plan, rest = make_plan(["--env", env_id, *where, "--resume"])
    assert (plan.run, rest[-2:]) == (folder, ["-n", "256"])
    assert f"{folder} resumes after update 1 (128 of 256 steps)" in capsys.readouterr().out


def test_a_run_with_a_uuid_from_beginning_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["train", "--env", TASK, *SETTINGS, "--eval-freq", "-1", "-uuid"]
    assert run([*short, "-n", "128"]) == 0
    (folder,) = Path("logs/trpo").iterdir()
    assert run([*short, "-n", "256", "--resume"]) == 0
    assert f"{folder} resumes after update 1 (128 of 256 steps)" in capsys.readouterr().out
    assert run([*short, "-n", "256", "--resume"]) == 0
    assert f"{folder} has done all of its steps (256 of 256)" in capsys.readouterr().out
    assert [*Path("logs/trpo").iterdir()] == [folder]
    for which in ([], ["--exp-id", "1"]):
        assert run(["enjoy", "--env", TASK, "--no-render", "-n", "20", "--device", "cpu", *which]) == 0
        assert f"Loading {folder}/{TASK}.zip" in capsys.readouterr().out


def test_a_run_with_a_uuid_that_has_no_such_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    folder = _run(f"{TASK}_1_{UUIDS[0]}", 1.0)
    assert run(["enjoy", "--env", TASK, "--no-render", "--load-best"]) == 2
    said = capsys.readouterr().err
    assert f"path: {folder}/best_model.zip" in said
    assert said.count("\n") == 1
