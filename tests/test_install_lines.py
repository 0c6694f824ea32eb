"""The documented install lines: each in a new environment of its own, where every command that it promises must run."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from sb3_trpo_ext.zoo import screen
from tests import pages

EXTRAS = re.compile(r"pip install [^\n`]*?(?<!rl-zoo3)\[([\w,]+)\]")
TORCH = re.compile(r"torch==[\d.]+")

FEW, FEW_MORE = 2_048, 4_096
"""Steps: enough for an update or two. All else in a command stays as it stands."""

DUMPING = """
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import FlightRecorder, KLMonitor, Monitor
def fails(*_):
    raise RuntimeError("so that there is a dump")
model = TRPO("MlpPolicy", "CartPole-v1", n_steps=256, log_folder="run")
model.session.between_updates, learn = [], model.learn
model.learn(1_024, callback=[KLMonitor(), FlightRecorder()])
model.train = fails
try:
    model.learn(512, callback=[KLMonitor(), FlightRecorder()])
except RuntimeError:
    pass
"""

IMPORTED = """
import os, runpy, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
for path in sys.argv[1:]:
    runpy.run_path(path, run_name="imported")
"""


@dataclass(frozen=True)
class Fresh:
    """A new environment, and a folder to run commands in."""

    python: str
    repo: Path
    folder: Path

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """What a command of this environment's Python prints."""
        return pages.run(list(words), self.repo, self.folder, python=self.python, codes=codes)

    def run_page(self, page: str, change: Callable[[list[str]], list[str] | None]) -> None:
        """All commands of a page that begin with python or torchrun, made short; None: not run."""
        for words in pages.commands(self.repo / page):
            launcher = {"torchrun": ["-m", "torch.distributed.run"], "python": []}.get(words[0])
            changed = None if launcher is None else change(words[1:])
            if launcher is not None and changed is not None:
                self.run(*launcher, *changed, codes=(0, 1, 2) if "doctor" in changed else (0,))


def readme(fresh: Fresh) -> None:
    page = fresh.repo / "README.md"
    (script,) = pages.blocks(page, "python")
    assert "learn(100_000," in script
    fresh.run("-c", script.replace("100_000", str(FEW)))
    (entry,) = pages.blocks(page, "yaml")
    assert set(yaml.load(entry, yaml.CSafeLoader)) == {"Hopper-v5"}
    (fresh.folder / "my_trpo.yml").write_text(entry)
    steps = {True: str(FEW_MORE), False: str(FEW)}
    fresh.run_page("README.md", lambda words: words + (["-n", steps["--resume" in words]] if "--env" in words else []))
    assert (fresh.folder / "report.html").exists()
    # --resume goes on in the folder of the run before.
    assert len(list(fresh.folder.glob("logs/trpo/Hopper-v5_*/Hopper-v5.zip"))) == 5
    assert list(fresh.folder.glob("wandb/offline-run-*"))


def quickstart(fresh: Fresh) -> None:
    def change(words: list[str]) -> list[str] | None:
        if "replay" not in words:
            return words
        # Which alarm there is, if any, may differ between processors.
        dumps = sorted(fresh.folder.glob("logs/trpo/CartPole-v1_1/dumps/*.json"))
        return [*words[:-1], str(dumps[0])] if dumps else None

    assert len([words for words in pages.commands(fresh.repo / "docs/quickstart.md") if words[0] == "python"]) == 7
    fresh.run_page("docs/quickstart.md", change)
    (script,) = pages.blocks(fresh.repo / "docs/quickstart.md", "python")
    fresh.run("-c", script)
    for name in ("report.html", "cartpole.zip", "logs/trpo/CartPole-v1_1/videos"):
        assert (fresh.folder / name).exists(), name


def zoo(fresh: Fresh) -> None:
    def change(words: list[str]) -> list[str] | None:
        if "plots" in words:  # of another extra: below
            return None
        if {"rl_zoo3.enjoy", "enjoy"} & set(words):
            return [*words, "--no-render", "-n", "100"]
        if "record_video" in words:
            return [*words, "-n", "5"] if screen.has_screen("Hopper-v5") or screen.renderer() else None
        if "-optimize" in words:
            return [*words, "-n", str(FEW), "--n-trials", "2", "--n-evaluations", "1", "--eval-episodes", "1"]
        return [
            *words,
            *(["--trial-id", "1"] if "--trial-id" in words else []),
            *(["-n", str(FEW)] if "--env" in words else []),
        ]

    entries = pages.blocks(fresh.repo / "docs/zoo.md", "yaml")
    (fresh.folder / "my_trpo.yml").write_text(entries[0])
    fresh.run_page("docs/zoo.md", change)
    assert "joint" in (fresh.folder / "my_trpo_joint.yml").read_text()
    assert len(list(fresh.folder.glob("logs/trpo/Hopper-v5_*/Hopper-v5.zip"))) == 3
    # What another extra would bring is named in one line.
    fresh.run("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", "-n", str(FEW))
    for words, brings in ((["plots", "train"], "rl-zoo3[plots]"), (["record_video"], "sb3-trpo-ext[zoo,doctor,envs]")):
        said = fresh.run("-m", "sb3_trpo_ext", *words, "--env", "CartPole-v1", codes=(2,))
        assert f"pip install '{brings}'" in said
        assert "Traceback" not in said


def doctor(fresh: Fresh) -> None:
    fresh.run("-c", DUMPING)
    (dump,) = fresh.folder.glob("run/dumps/*.json")
    for words in (["doctor", "run", "--html", "report.html"], ["doctor", "run", "--json"], ["replay", str(dump)]):
        fresh.run("-m", "sb3_trpo_ext", *words, codes=(0, 1, 2) if "doctor" in words else (0,))
    assert (fresh.folder / "report.html").exists()


def wandb(fresh: Fresh) -> None:
    script = pages.blocks(fresh.repo / "docs/wandb.md", "python")[0]
    assert "learn(100_000," in script
    fresh.run("-c", script.replace("100_000", str(FEW)))
    assert list(fresh.folder.glob("wandb/offline-run-*"))


def export(fresh: Fresh) -> None:
    agent = fresh.repo / "sb3_trpo_ext/zoo/trained_agents/trpo/Hopper-v5_1"
    for suffix in ("onnx", "pt", "pt2"):
        fresh.run("-m", "sb3_trpo_ext", "export", str(agent), "-o", f"policy.{suffix}")
        assert (fresh.folder / f"policy.{suffix}").exists()


def robotics(fresh: Fresh) -> None:
    fresh.run(str(fresh.repo / "examples/robotics.py"), "--steps", str(FEW))


def bench(fresh: Fresh) -> None:
    """The scripts that name this line must be able to begin; and the Zoo's plots, which it brings."""
    scripts = [path for path in fresh.repo.glob("scripts/*.py") if "pip install -e '.[bench]'" in path.read_text()]
    assert len(scripts) > 5
    fresh.run("-c", IMPORTED, *map(str, scripts))
    fresh.run("-m", "sb3_trpo_ext", "train", "--env", "CartPole-v1", "-n", str(FEW))
    fresh.run("-m", "sb3_trpo_ext", "plots", "train", "--env", "CartPole-v1")


def notebook(fresh: Fresh) -> None:
    cells = [
        cell
        for cell in json.loads((fresh.repo / "notebooks/hopper.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    (also,) = re.findall(r'^# %pip install "[^"]*" (.+)$', "".join(cells[0]["source"]), re.MULTILINE)
    pip_install(Path(fresh.python).parents[1], fresh.repo, *also.split())
    script = "\n\n".join("".join(cell["source"]) for cell in cells)
    assert script.count("24_576") == script.count("32_768") == 1
    fresh.run("-c", script.replace("24_576", "4_096").replace("32_768", "6_144"))


def plain(fresh: Fresh) -> None:
    fresh.run(str(fresh.repo / "examples/drop_in.py"), "--steps", str(FEW))
    fresh.run("-m", "sb3_trpo_ext", "export", "sb3_trpo_ext.zip", "-o", "policy.pt")


PROMISES: dict[str, Callable[[Fresh], None]] = {
    "zoo,wandb,doctor": readme,
    "zoo,doctor,envs": quickstart,
    "zoo": zoo,
    "doctor": doctor,
    "wandb": wandb,
    "export": export,
    "robotics": robotics,
    "bench": bench,
    "zoo,doctor": notebook,
    "": plain,
}
"""By the extras of an install line; none of them: the package alone."""


def install_lines(repo: Path) -> set[str]:
    """The extras of every line that is written down for a reader."""
    read = [repo / "README.md", *repo.glob("notebooks/*.ipynb")]
    read += [page for page in repo.glob("docs/*.md") if page.name != "changelog.md"]
    read += [path for folder in ("sb3_trpo_ext", "examples", "scripts") for path in (repo / folder).rglob("*.py")]
    return {extras for path in read for extras in EXTRAS.findall(path.read_text())}


def test_every_install_line_is_tried(repo: Path) -> None:
    assert install_lines(repo) == set(PROMISES) - {""}
    assert EXTRAS.findall("`pip install -e '.[zoo,other]'` and pip install 'rl-zoo3[plots]'") == ["zoo,other"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with torch in it, which comes first; made once for all workers."""
    repo, folder = Path(__file__).parents[1], tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    made = shared / "with_torch"
    with FileLock(shared / "with_torch.lock"):
        if not (made / "done").exists():
            venv.create(made, with_pip=True)
            (torch,) = set(TORCH.findall((repo / "Makefile").read_text()))
            pip_install(made, repo, torch)
            (made / "done").touch()
    return made


def pip_install(environment: Path, repo: Path, *words: str) -> None:
    """Under the versions that the project was tested with; nothing is compiled before it is needed."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {"PIP_CONSTRAINT": str(repo / "constraints.txt"), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"}
    command = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", *words]
    done = subprocess.run(command, cwd=repo, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def fresh(base: Path, repo: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fresh]:
    """An environment in which nothing but this line has been installed; its files of torch are links to ``base``'s."""
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    folder.mkdir()
    shutil.copytree(base, environment, symlinks=True, copy_function=os.link)
    extras = f"[{request.param}]" if request.param else ""
    pip_install(environment, repo, "-e", f".{extras}")
    yield Fresh(str(environment / "bin/python"), repo, folder)
    shutil.rmtree(environment)


@pytest.mark.slow
@pytest.mark.install
@pytest.mark.skipif(sys.platform != "linux", reason="links and folders are those of Linux")
@pytest.mark.parametrize("fresh", PROMISES, indirect=True, ids=[line or "no extra" for line in PROMISES])
def test_an_install_line_brings_what_its_commands_need(fresh: Fresh, request: pytest.FixtureRequest) -> None:
    PROMISES[request.node.callspec.params["fresh"]](fresh)
