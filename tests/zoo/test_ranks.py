"""``torchrun … -m sb3_trpo_ext train``: one run in one folder, whatever happens to one of the ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_trpo_ext.zoo import ranks as zoo_ranks
from sb3_trpo_ext.zoo.cli import run

PATIENCE = 240.0
N_RANKS, N_ENVS, N_STEPS = 2, 1, 128
UPDATE = N_RANKS * N_ENVS * N_STEPS


ONE_HOST = ("--standalone", f"--nproc-per-node={N_RANKS}")


def torchrun(
    repo: Path, n_updates: int, *flags: str, restarts: int = 0, rank_timeout: float = 60.0, where: tuple[str, ...] = ONE_HOST
) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", *where),
        *(
            f"--max-restarts={restarts}",
            "-m",
            "sb3_trpo_ext",
            "train",
            "--env",
            "CartPole-v1",
            "--seed",
            "5",
            "--eval-freq",
            "-1",
        ),
        *("-n", str(n_updates * UPDATE), "--checkpoint-every", "1", "-params", f"n_envs:{N_ENVS}", f"n_steps:{N_STEPS}"),
        *("batch_size:64", "n_critic_updates:2", *flags),
    ]
    environment = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "TRPO_RANK_TIMEOUT": str(rank_timeout)}
    if where is not ONE_HOST:
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as docs/scaling.md says
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output


def ranks_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == process.pid:
            found.update({int(each[5:]): int(folder.name) for each in variables if each.startswith(b"RANK=")})
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "updates.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_updates(process: subprocess.Popen[str], n_updates: int) -> Path:
    run_folder, end = Path("logs/trpo/CartPole-v1_1"), time.monotonic() + PATIENCE
    while len(rows(run_folder)) < n_updates:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    return run_folder


def test_torchrun_without_ranks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    plan, rest = zoo_ranks.common_plan(["--env", "CartPole-v1"])
    assert (plan.run, rest) == (None, ["--env", "CartPole-v1"])


def test_a_search_is_refused_before_the_ranks_meet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run(["train", "--env", "CartPole-v1", "-optimize"]) == 2
    assert "torchrun spreads no search" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_two_ranks_is_one_run(repo: Path) -> None:
    process = torchrun(repo, 3, "--eval-freq", str(2 * UPDATE), "--eval-episodes", "1")
    output = ended(process)
    assert process.returncode == 0, output
    assert output.count("Seed: 5") == 1
    assert [path.name for path in Path("logs/trpo").iterdir()] == ["CartPole-v1_1"]
    folder = Path("logs/trpo/CartPole-v1_1")
    assert [row["num_timesteps"] for row in rows(folder)] == [UPDATE, 2 * UPDATE, 3 * UPDATE]
    assert {row["n_samples"] for row in rows(folder)} == {UPDATE}
    assert {path.name for path in folder.glob("*.monitor.csv")} == {f"{env}.monitor.csv" for env in range(N_RANKS * N_ENVS)}
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [2 * UPDATE]
    assert (folder / "CartPole-v1.zip").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(N_RANKS))
def test_a_killed_rank_ends_all(repo: Path, rank: int) -> None:
    process = torchrun(repo, 100_000)
    wait_for_updates(process, 2)
    pids = ranks_of(process)
    time.sleep(random.Random(rank).random())
    os.kill(pids[rank], signal.SIGKILL)
    begin = time.monotonic()
    output = ended(process)
    assert process.returncode != 0
    assert time.monotonic() - begin < 45.0
    # torchrun, which sees the death too, may end the other before it has said why.
    told = f"sb3_trpo_ext: TRPO: rank {1 - rank} stops, since the ranks can't go on together: another rank has ended"
    assert told in output or "Signal 15 (SIGTERM) received" in output
    assert f"[rank{1 - rank}]: Traceback" not in output
    assert not any(Path("/proc", str(pid)).exists() for pid in pids.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ranks_that_are_killed_at_random_moments_start_again_from_the_last_checkpoint(repo: Path, seed: int) -> None:
    chance = random.Random(seed)
    process = torchrun(repo, 14, restarts=2)
    for n_updates in (2, 6):
        wait_for_updates(process, n_updates)
        time.sleep(chance.random())
        if ranks := sorted(ranks_of(process).values()):  # a quick training has ended before the second kill
            os.kill(chance.choice(ranks), signal.SIGKILL)
        time.sleep(1.0)
    output = ended(process)
    assert process.returncode == 0, output
    # Once, if the second was killed before it had begun to read the checkpoint.
    assert 1 <= output.count("resumes after update") <= 2
    folder = Path("logs/trpo/CartPole-v1_1")
    assert [path.name for path in Path("logs/trpo").iterdir()] == [folder.name]
    assert [row["n_updates"] for row in rows(folder)] == list(range(1, 15))
    assert [row["num_timesteps"] for row in rows(folder)] == [UPDATE * number for number in range(1, 15)]


@pytest.mark.slow
def test_a_rank_that_is_killed_on_another_host_has_both_resume(repo: Path) -> None:
    """Two agents, as on two hosts, each of which counts failures of its own."""
    meeting = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:29657", "--rdzv-id=test")
    agents = [torchrun(repo, 30, restarts=2, rank_timeout=20.0, where=meeting) for _ in range(2)]
    try:
        folder = wait_for_updates(agents[0], 2)
        ranks = {rank: pid for agent in agents for rank, pid in ranks_of(agent).items()}
        os.kill(ranks[1], signal.SIGKILL)
        outputs = [ended(agent) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert [path.name for path in Path("logs/trpo").iterdir()] == [folder.name]
    assert [row["n_updates"] for row in rows(folder)] == list(range(1, 31))


@pytest.mark.slow
def test_sigterm_to_torchrun_leaves_a_checkpoint_of_the_last_update(repo: Path) -> None:
    process = torchrun(repo, 100_000, "--checkpoint-every", "1000")
    folder = wait_for_updates(process, 3)
    process.send_signal(signal.SIGTERM)
    ended(process)
    newest = max((folder / "checkpoints").iterdir())
    assert newest.name == f"update_{rows(folder)[-1]['n_updates']:06d}"
