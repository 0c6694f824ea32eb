"""Trials train what the Evidence runner trains, in processes that come and go; and everything together, once (slow)."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evidence.training
import pytest
import torch
import tune
import yaml
from evidence.runs import Run
from evidence.training import make_manager
from rl_zoo3 import exp_manager
from tuning import choose as choosing
from tuning import training
from tuning.points import CURRENT
from tuning.worker import BadSettings, WorkerDied, quarters

from tests.scripts.conftest import SCRIPTS

# Everything that a trial can have, in little: gSDE stays, one of the two normalisations, a schedule
ENTRY: dict[str, Any] = {
    "policy": "MlpPolicy", "n_timesteps": 512, "use_sde": True, "sde_sample_freq": 4, "n_envs": 2, "n_steps": 64,
    "batch_size": 64, "normalize": {"norm_obs": True, "norm_reward": False}, "learning_rate": "lin_0.001", "gamma": 0.9,
    "n_critic_updates": 10, "cg_max_steps": 10, "kl_reduction": "joint", "target_kl": 0.02, "cg_damping": 0.1,
}  # fmt: skip


CART_POLE = {**ENTRY, "use_sde": False, "sde_sample_freq": -1, "normalize": False}


@pytest.fixture
def _zoo_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings put our wrappers into the Zoo, for a process of their own."""
    for name in ("DummyVecEnv", "VecNormalize"):
        monkeypatch.setattr(exp_manager, name, getattr(exp_manager, name))


@pytest.mark.usefixtures("_zoo_as_it_was")
def test_a_trial_trains_what_the_evidence_runner_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("Pendulum-v1", 3, "ours", 512, ENTRY)
    policies: list[dict[str, torch.Tensor]] = []

    def learn(manager: exp_manager.ExperimentManager, model: Any) -> None:
        original(manager, model)
        policies.append({name: value.clone() for name, value in model.policy.state_dict().items()})

    original = exp_manager.ExperimentManager.learn
    monkeypatch.setattr(exp_manager.ExperimentManager, "learn", learn)
    told: list[float] = []
    training.train(run, lambda score: told.append(score) is None)
    evidence.training.train(run, tmp_path, lambda steps: None)
    assert len(told) == 4
    assert all(-2_000 < score < 0 for score in told)
    first, second = policies
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The Zoo's files, and Monitor's, are the runner's: the trial left none
    assert {path.name for path in tmp_path.iterdir()} == {"config.yml", "logs"}


@pytest.mark.usefixtures("_zoo_as_it_was")
def test_a_training_ends_when_it_is_told_to() -> None:
    told: list[float] = []
    training.train(Run("Pendulum-v1", 3, "ours", 4_000, ENTRY), lambda score: bool(told.append(score)))
    assert len(told) == 1


def test_a_worker_talks_in_quarters_and_says_what_it_refuses() -> None:
    scores = list(quarters(Run("CartPole-v1", 100, "ours", 512, CART_POLE)))
    assert len(scores) == 4
    assert all(8 <= score <= 500 for score in scores)
    with pytest.raises(BadSettings, match=r"ValueError: TRPO: gamma=2 is impossible"):
        next(quarters(Run("CartPole-v1", 100, "ours", 512, {**CART_POLE, "gamma": 2})))


def said(tmp_path: Path, body: str) -> Iterator[float]:
    """What the parent makes of a worker with this body."""
    script = tmp_path / "worker.py"
    script.write_text(body)
    return quarters(Run("T-v0", 0, "ours", 1), (sys.executable, str(script)))


def test_a_worker_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match="exit code 3: Segmentation fault"):
        list(said(tmp_path, "import sys; print('Segmentation fault', file=sys.stderr); sys.exit(3)"))
    dying = said(tmp_path, "import os; print('{\"score\": 1.5}', flush=True); input(); os.kill(os.getpid(), 9)")
    assert next(dying) == 1.5
    with pytest.raises(WorkerDied, match="exit code -9: it printed nothing"):
        next(dying)


def test_no_worker_outlives_its_trial(tmp_path: Path) -> None:
    body = "import os, time; open('../pid', 'w').write(str(os.getpid())); print('{\"score\": 1}', flush=True); time.sleep(100)"
    conversation = said(tmp_path, body.replace("../pid", str(tmp_path / "pid")))
    next(conversation)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    conversation.close()  # as a pruned trial does
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def tuned(arguments: list[str], tmp_path: Path) -> list[str]:
    places = ["--config", str(tmp_path / "mine.yml"), "--storage", str(tmp_path / "journals")]
    return ["--tasks", "CartPole-v1", "--steps", "512", *places, "--results", str(tmp_path / "results"), *arguments]


@pytest.mark.slow
def test_from_the_first_trial_to_an_entry_that_trains(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yml").write_text("# not tuned yet\n" + yaml.safe_dump({"CartPole-v1": CART_POLE}))
    path = os.pathsep.join([SCRIPTS, str(repo), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(repo / "scripts" / "tune.py"), *tuned(["--trials", "2"], tmp_path)]
    environment = {**os.environ, "PYTHONPATH": path}
    journal = tmp_path / "journals" / "CartPole-v1.log"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as first:
        while not (journal.exists() and b'"seed_100"' in journal.read_bytes()):
            assert first.poll() is None
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("[CartPole-v1 ") == 2
    assert tune.main(tuned(["--status"], tmp_path)) == 0
    assert tune.main(tuned(["--export"], tmp_path)) == 0
    assert "2 trials, 2 new" in capsys.readouterr().out
    with (tmp_path / "results" / "tuning_trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The starting points waited in front of the trial that was put back
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert CURRENT not in {row["point"] for row in rows}

    monkeypatch.setattr(choosing, "CHOICE_SEEDS", (200, 201))
    monkeypatch.setattr(choosing, "WORK", tmp_path / "work")
    assert tune.main(tuned(["--choose", "--choose-steps", "256", "--best", "1"], tmp_path)) == 0
    text = (tmp_path / "mine.yml").read_text()
    assert "2 trials of 512 steps (seeds 100 to 102)" in " ".join(text.split("\n# "))
    entry = yaml.safe_load(text)["CartPole-v1"]
    manager = make_manager(Run("CartPole-v1", 0, "ours", 128, entry), tmp_path)
    model, _ = manager.setup_experiment()  # type: ignore[misc]
    assert model.n_steps == entry["n_steps"]
    trained = subprocess.run(
        [sys.executable, "-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", "-n", "128", "--device", "cpu",
         "--conf-file", str(tmp_path / "mine.yml"), "-f", str(tmp_path / "logs")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Saving to" in trained.stdout
