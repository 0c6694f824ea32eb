"""What is published: a wheel and a source distribution, built as a release is, and looked into."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
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

NO_EXTRA = "does not provide the extra"
WHERE = """
import sys
import sb3_trpo_ext
from sb3_trpo_ext import zoo
assert sb3_trpo_ext.__file__.startswith(sys.prefix), sb3_trpo_ext.__file__
assert zoo.config_file().is_relative_to(sys.prefix), zoo.config_file()
assert zoo.hyperparams["Hopper-v5"]["kl_reduction"] == "joint"
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
def test_the_index_would_take_them(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(built.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


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
def test_the_readme_installs_what_trains_by_our_yaml_and_shows_the_trained_agent(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In a new environment that has the packages of this one, but not its sb3_trpo_ext.

    No index is asked: pip ends with an error if what an extra asks for is not there, in that version.
    """
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "fresh", with_pip=False)
    ((python,), (site,)) = ((tmp_path / "fresh").glob(each) for each in ("bin/python", "lib/python*/site-packages"))
    others = tmp_path / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("sb3_trpo_ext", "_sb3_trpo_ext")):
            (others / path.name).symlink_to(path)
    (site / "others.pth").write_text(f"{others}\n")

    def run(*words: str) -> str:
        done = subprocess.run([str(python), *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    (asked,) = re.findall(r"`pip install '(sb3-trpo-ext\[.*?\])'`", (Path(__file__).parents[1] / "README.md").read_text())
    said = run("-m", "pip", "install", "--no-index", "--find-links", str(built), asked)
    assert f"Successfully installed sb3-trpo-ext-{VERSION}" in said
    assert NO_EXTRA not in said
    assert NO_EXTRA in run("-m", "pip", "install", "--no-index", "sb3-trpo-ext[nothing]")
    run("-c", WHERE)
    run("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", "-n", "2048", "--seed", "1", "--eval-freq", "-1")
    agent = ("--env", "Hopper-v5", "--pretrained", "--no-render", "-n", "1000", "--device", "cpu")
    assert "Mean reward" in run("-m", "sb3_trpo_ext", "enjoy", *agent)
    assert (tmp_path / "logs/trpo/CartPole-v1_1/CartPole-v1.zip").is_file()
