"""The examples do what they say, from a person's command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = (
    *("drop_in", "custom_policy", "dict_observations", "robotics"),
    *("hardware", "resume", "sweep", "several_processes"),
)


def example(repo: Path, name: str, *arguments: str, launched: tuple[str, ...] = ()) -> str:
    """What it prints."""
    environ = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launched, str(repo / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(pattern: str, said: str) -> list[float]:
    """What a pattern's groups caught, in all of its places."""
    return [float(number) for found in re.finditer(pattern, said) for number in found.groups()]


def test_every_example_is_in_the_page_and_here(repo: Path) -> None:
    scripts = {path.stem for path in (repo / "examples").glob("*.py")}
    included = re.findall(r"literalinclude\} \.\./examples/(\w+)\.py", (repo / "docs/examples.md").read_text())
    assert scripts == set(NAMES) == set(included)
    for name in NAMES:
        text = (repo / "examples" / f"{name}.py").read_text()
        assert f"examples/{name}.py --steps" in text.split('"""')[1], f"{name}: how is it run?"
        assert f'example(repo, "{name}"' in Path(__file__).read_text()


@pytest.mark.slow
def test_drop_in(repo: Path) -> None:
    said = example(repo, "drop_in")
    theirs, ours = numbers(r"mean return ([\d.]+)", said)
    assert min(theirs, ours) > 150, said  # untrained: about 20
    kl, bound = numbers(r"accepted, KL ([\d.]+) of at most ([\d.]+)", said)
    assert 0 < kl <= bound
    assert "loaded by the other: sb3_contrib sb3_trpo_ext" in said


@pytest.mark.slow
def test_custom_policy(repo: Path) -> None:
    said = example(repo, "custom_policy", "--steps", "8000")
    assert "15 tensors, among them features_extractor.frequencies.weight; not moved: none" in said
    kl, bound = numbers(r"accepted, KL ([\d.]+) of at most ([\d.]+)", said)
    assert 0 < kl <= bound
    # Waves are no plain stack of layers, so none that the closed form could take.
    assert "closed" not in said.partition("Fisher products: ")[2]


@pytest.mark.slow
def test_dict_observations(repo: Path) -> None:
    said = example(repo, "dict_observations", "--steps", "4000")
    before, after = numbers(r"mean return of the last 100 episodes (-[\d.]+)", said)
    assert after > before + 2, said
    assert "features: 34, normalised: ['hand']" in said


@pytest.mark.slow
def test_robotics(repo: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    said = example(repo, "robotics", "--steps", "30000")
    before, after = numbers(r"mean return of the last 100 episodes ([\d.]+)", said)
    assert after > before + 3, said
    kl, bound = numbers(r"KL of the last update ([\d.]+) of at most ([\d.]+)", said)
    assert 0 < kl <= bound
    assert Path("maze.zip").exists()
    assert Path("maze_vecnormalize.pkl").exists()


@pytest.mark.slow
def test_hardware(repo: Path) -> None:
    said = example(repo, "hardware", "--steps", "12000")
    dropped, of = numbers(r"steps dropped: (\d+) of (\d+)", said)
    # Each step measures, and so does each reset: 0.2 % of them fail.
    assert 0.001 < dropped / of < 0.004, said
    assert "VecNormalize is finite: True" in said
    assert numbers(r"mean return of the last episodes (-[\d.]+)", said)[0] > -40, said


@pytest.mark.slow
def test_resume(repo: Path) -> None:
    said = example(repo, "resume", "--steps", "10000")
    killed, began = numbers(r"killed at step (\d+)\nkilled: goes on from step (\d+)", said)
    assert 0 < began < killed < 10_000
    assert "bit for bit: True" in said


@pytest.mark.slow
def test_sweep(repo: Path) -> None:
    first = example(repo, "sweep", "--steps", "1500", "--trials", "2")
    second = example(repo, "sweep", "--steps", "1500", "--trials", "1")
    assert numbers(r"trials so far: (\d+)", first + second) == [2, 3]
    assert numbers(r"mean return ([\d.]+)", second) >= numbers(r"mean return ([\d.]+)", first)
    assert "kl_reduction: joint" in second


@pytest.mark.slow
def test_several_processes(repo: Path) -> None:
    launched = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    said = example(repo, "several_processes", "--steps", "6000", launched=launched)
    # 2 environments of 2 ranks, 512 steps each.
    assert sorted(re.findall(r"rank (\d) of 2: 2048 samples an update", said)) == ["0", "1"]
    first, second = re.findall(r"norm of the weights ([\d.]+)", said)
    assert first == second
