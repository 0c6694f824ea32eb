"""Two hosts, which are network namespaces of this one, and the link between them is cut."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TIMEOUT = 6.0
ADDRESSES = ("10.213.7.1", "10.213.7.2")
PATIENCE = 120.0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    names = [f"trpo{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "trpo0", "netns", names[0], "type", "veth", "peer", "name", "trpo0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "trpo0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "trpo0", "up")
        yield names
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error} {getattr(error, 'stderr', '')}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def launch(repo: Path, host: str, node: int, told: Path) -> subprocess.Popen[str]:
    command = [
        *("ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *(f"--node-rank={node}", f"--master-addr={ADDRESSES[0]}", "--master-port=29511"),
        *(str(repo / "tests/sb3/ranks/two_hosts.py"), str(told)),
    ]
    own = {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", "TRPO_RANK_TIMEOUT": str(TIMEOUT), "GLOO_SOCKET_IFNAME": "trpo0"}
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_link_that_is_cut_ends_both_hosts_in_the_time_out(repo: Path, hosts: list[str], tmp_path: Path) -> None:
    told = tmp_path / "told"
    processes = [launch(repo, host, node, told) for node, host in enumerate(hosts)]
    try:
        end = time.monotonic() + PATIENCE
        while not all(
            Path(f"{told}.{rank}").exists() and int(Path(f"{told}.{rank}").read_text() or 0) >= 3 for rank in (0, 1)
        ):
            assert all(process.poll() is None for process in processes), [each.communicate()[0] for each in processes]
            assert time.monotonic() < end
            time.sleep(0.05)
        begin = time.monotonic()
        ip("-n", hosts[0], "link", "set", "trpo0", "down")
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        seconds = time.monotonic() - begin
    finally:
        for process in processes:
            process.kill()
    for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode != 0
        assert f"RanksError: TRPO: rank {rank} stops, since the ranks can't go on together" in output
    assert seconds < TIMEOUT + 45.0
