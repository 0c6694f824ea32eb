"""One thread for a small network unless the user says otherwise, and a resumed run's own number."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stable_baselines3.common.envs import FakeImageEnv

from sb3_trpo_ext import TRPO, Checkpoints, zoo
from sb3_trpo_ext.sb3.checkpoints import callback as checkpoint
from sb3_trpo_ext.sb3.checkpoints import resumption
from sb3_trpo_ext.sb3.checkpoints.state import about
from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.threads import VARIABLES, choose_threads, is_small
from tests import pages

TRAIN = ("train", "--env", "CartPole-v1", "--eval-freq", "-1", "--seed", "1", "-params", "n_steps:32", "n_envs:1", "-n")
SAYS = "the network is small: torch uses one thread (--num-threads N or OMP_NUM_THREADS=N for more)\n"


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As torch itself would choose on two cores."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # put back afterwards, whatever a test sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(resumption, "processors", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def model(**settings: object) -> TRPO:
    return TRPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=1, device="cpu", **settings)


def written(run_folder: str) -> list[int]:
    """The number of threads that each checkpoint names, oldest first."""
    manifests = sorted(Path(run_folder, "checkpoints").glob("*/manifest.json"))
    return [json.loads(path.read_text())["build"]["threads"] for path in manifests]


@pytest.mark.parametrize("env_id", ["Humanoid-v5", "Ant-v5", "HalfCheetah-v5"])  # the widest observations, and networks
def test_every_network_that_we_ship_is_small(env_id: str) -> None:
    kwargs = eval(zoo.hyperparams[env_id].get("policy_kwargs", "dict()"), {"dict": dict, "nn": torch.nn})
    assert is_small(TRPO("MlpPolicy", env_id, policy_kwargs=kwargs, device="cpu", kl_reduction="joint").policy)


def test_wide_networks_and_convolutions_are_not_small() -> None:
    assert is_small(model().policy)
    assert not is_small(model(policy_kwargs={"net_arch": [512, 512]}).policy)  # 532,000 parameters
    images = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True)
    small = {"net_arch": [], "features_extractor_kwargs": {"features_dim": 8}}
    convolves = TRPO("CnnPolicy", images, n_steps=32, policy_kwargs=small, device="cpu").policy
    assert sum(part.numel() for part in convolves.parameters()) < 100_000
    assert not is_small(convolves)


@pytest.mark.parametrize(
    ("variables", "asked", "threads"),
    [({}, -1, 1), ({}, 2, 2), *(({name: "2"}, -1, 2) for name in VARIABLES), ({"OMP_NUM_THREADS": ""}, -1, 1)],
)
def test_one_thread_unless_somebody_has_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], asked: int, threads: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    choose_threads(model().policy, asked)
    assert torch.get_num_threads() == threads
    assert capsys.readouterr().err == (f"sb3_trpo_ext: {SAYS}" if threads == 1 else "")
    choose_threads(model().policy, asked)
    assert capsys.readouterr().err == ""


def test_worker_processes_inherit_it() -> None:
    choose_threads(model().policy, -1)
    assert {os.environ[name] for name in VARIABLES} == {"1"}


def test_a_large_network_keeps_what_torch_has_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    choose_threads(model(policy_kwargs={"net_arch": [512, 512]}).policy, -1)
    assert torch.get_num_threads() == 2
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "threads"), [((), 1), (("--num-threads", "2"), 2)], ids=["nothing said", "--num-threads"])
def test_train_and_resume(flags: tuple[str, ...], threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TRAIN, "64", *flags]) == 0
    assert (SAYS in capsys.readouterr().err) is (threads == 1)
    assert written("logs/trpo/CartPole-v1_1") == [threads]

    torch.set_num_threads(3)
    assert run([*TRAIN, "96", "--resume"]) == 0
    out, err = capsys.readouterr()
    assert f"--resume: torch's number of threads is {threads}, as it was when the checkpoint was written" in out
    assert SAYS not in err
    assert written("logs/trpo/CartPole-v1_1")[-1] == threads

    assert run([*TRAIN, "128", "--resume", "--num-threads", "3"]) == 0
    assert written("logs/trpo/CartPole-v1_1")[-1] == torch.get_num_threads() == 3


def test_a_trained_agent_that_is_trained_on_is_small_too(capsys: pytest.CaptureFixture[str]) -> None:
    model().save("mine.zip")
    assert run([*TRAIN, "64", "-i", "mine.zip"]) == 0
    assert SAYS in capsys.readouterr().err
    assert written("logs/trpo/CartPole-v1_1") == [1]


def test_a_search_uses_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    # No trial is asked for, so none has finished: that is what it says in the end.
    assert run(["train", "--env", "CartPole-v1", "-n", "64", "-optimize", "--max-total-trials", "0", "--no-optim-plots"]) == 2
    assert SAYS in capsys.readouterr().err
    assert torch.get_num_threads() == 1


def test_a_checkpoint_names_the_threads_of_its_own_moment_and_resume_uses_them() -> None:
    learner = model(log_folder="run")
    learner.learn(32, callback=Checkpoints())
    torch.set_num_threads(3)
    learner.learn(32, callback=Checkpoints(), reset_num_timesteps=False)
    assert written("run") == [2, 3]
    torch.set_num_threads(1)
    TRPO.resume("run", device="cpu")
    assert torch.get_num_threads() == 3


def test_a_checkpoint_that_names_no_threads_goes_on_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "about", lambda *of: {**about(*of), "build": {}})
    model(log_folder="run").learn(32, callback=Checkpoints())
    assert "threads" not in next(Path("run/checkpoints").glob("*/manifest.json")).read_text()
    torch.set_num_threads(1)
    assert TRPO.resume("run", device="cpu")._n_updates == 1
    resumption.use_threads(None)
    assert torch.get_num_threads() == 1


def test_more_threads_than_processors_are_not_used_and_that_is_said() -> None:
    with pytest.warns(UserWarning, match="the run had 5 threads, and this process may use 4 processors: using 2 threads"):
        resumption.use_threads(5)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_first_script_of_a_page_sets_one_thread_and_says_why(repo: Path, page: str) -> None:
    script = next(text for text in pages.blocks(repo / page, "python") if ".learn(" in text)
    assert re.search(r"^torch\.set_num_threads\(1\)  # .*wait for one another$", script, re.MULTILINE)


def test_every_example_that_trains_sets_it_before_torch_is_imported(repo: Path) -> None:
    for path in (repo / "examples").glob("*.py"):
        text = path.read_text()
        if ".learn(" in text and path.stem != "several_processes":  # torchrun sets it
            before = text.partition("OMP_NUM_THREADS")[0]
            assert before != text, path
            assert not re.search(r"^(import|from) (torch|stable_baselines3|sb3|numpy)", before, re.MULTILINE), path


def test_processors_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert resumption.processors() == 2
