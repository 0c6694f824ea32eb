"""What is published: a wheel and a source distribution, built as a release is, and looked into."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

import sb3_trpo_ext

VERSION = sb3_trpo_ext.__version__
SHIPPED = (
    "sb3_trpo_ext/py.typed",
    "sb3_trpo_ext/doctor/page.css",
    "sb3_trpo_ext/zoo_configs/trpo.yml",
    "sb3_trpo_ext/zoo_configs/sweeps/mujoco.yaml",
    "sb3_trpo_ext/zoo/trained_agents/trpo/Hopper-v5_1/Hopper-v5.zip",
    "sb3_trpo_ext/zoo/trained_agents/trpo/Hopper-v5_1/Hopper-v5/vecnormalize.pkl",
    "sb3_trpo_ext/zoo/trained_agents/trpo/Hopper-v5_1/Hopper-v5/config.yml",
)
IN_THE_SOURCE = (
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "Makefile",
    "constraints.txt",
    "docs/quickstart.md",
    "notebooks/hopper.ipynb",
    "tests/test_package.py",
    "zoo_configs/trpo.yml",
    "scripts/make_pretrained.py",
    "results/incidents.csv",
)
LARGEST_WHEEL, LARGEST_SOURCE = 1_000_000, 5_000_000

# Where nothing of the checkout is in the way: no `PYTHONPATH`, and the files that were unpacked first.
FROM_THE_WHEEL = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import sb3_trpo_ext
from sb3_trpo_ext import zoo
from sb3_trpo_ext.__main__ import main
assert sb3_trpo_ext.__file__.startswith(sys.path[0]), sb3_trpo_ext.__file__
assert zoo.config_file().is_relative_to(sys.path[0]), zoo.config_file()
assert zoo.hyperparams["Hopper-v5"]["kl_reduction"] == "joint"
sys.exit(main())
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel made from it (`python -m build`), with what is installed."""
    repo, out = Path(__file__).parents[1], tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(repo)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert sorted(path.name for path in out.iterdir()) == [
        f"sb3_trpo_ext-{VERSION}-py3-none-any.whl",
        f"sb3_trpo_ext-{VERSION}.tar.gz",
    ]
    return out


@pytest.mark.slow
def test_the_wheel_holds_what_is_shipped_and_no_more(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.stat().st_size < LARGEST_WHEEL
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        metadata = Metadata.from_email(wheel.read(f"sb3_trpo_ext-{VERSION}.dist-info/METADATA"))
    assert set(SHIPPED) - names == set()
    assert {name.partition("/")[0] for name in names} == {"sb3_trpo_ext", f"sb3_trpo_ext-{VERSION}.dist-info"}
    assert [name for name in names if "__pycache__" in name or "logs/" in name] == []
    assert (metadata.name, str(metadata.version), metadata.license_expression) == ("sb3-trpo-ext", VERSION, "MIT")
    assert {"zoo", "wandb", "doctor", "envs", "bench", "dev", "docs"} <= set(metadata.provides_extra or [])


@pytest.mark.slow
def test_the_source_holds_tests_and_pages_and_no_heap_of_measurements(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    assert path.stat().st_size < LARGEST_SOURCE
    with tarfile.open(path) as source:
        names = {name.removeprefix(f"sb3_trpo_ext-{VERSION}/") for name in source.getnames()}
    assert set(IN_THE_SOURCE) - names == set()
    assert {name for name in names if name.startswith("results/") and name.endswith(".csv")} == {"results/incidents.csv"}
    assert [name for name in names if name.startswith(("logs/", ".venv/", "docs/_build/"))] == []


@pytest.mark.slow
def test_what_is_in_the_wheel_trains_by_our_yaml_and_shows_the_trained_agent(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(tmp_path / "site")
    for arguments in (
        ["train", "--env", "CartPole-v1", "-n", "2048", "--seed", "1", "--eval-freq", "-1"],
        ["enjoy", "--env", "Hopper-v5", "--pretrained", "--no-render", "-n", "1000", "--device", "cpu"],
    ):
        command = [sys.executable, "-c", FROM_THE_WHEEL, str(tmp_path / "site"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Mean reward" in done.stdout
    assert (tmp_path / "logs/trpo/CartPole-v1_1/CartPole-v1.zip").is_file()
