"""Runs are trained once a session, and copied by tests that spoil them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doctor.runs import train_contrib, train_ours

Copy = Callable[[], Path]


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "run"
            if kind == "contrib":
                # Evaluations fall between the ends of rollouts, and on some of them.
                train_contrib(made[kind], 20, eval_freq=64, task="CartPole-v1", n_critic_updates=10)
            else:
                train_ours(made[kind], None if kind == "healthy" else kind)
        return made[kind]

    return get


@pytest.fixture
def ours(_trained: Callable[[str], Path]) -> Callable[[str], Path]:
    """The folder of a run of ours, by code of its alarm or "healthy"; not to be changed."""
    return _trained


@pytest.fixture
def contrib(_trained: Callable[[str], Path]) -> Path:
    """The folder of a healthy run of sb3-contrib's, with SB3's CSV, TensorBoard and evaluations; not to be changed."""
    return _trained("contrib")


@pytest.fixture
def copy_of(_trained: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run's folder, to be spoilt."""

    def get(kind: str) -> Path:
        return Path(shutil.copytree(_trained(kind), tmp_path / f"copy_of_{kind}"))

    return get
