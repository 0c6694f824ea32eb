"""Every test is seeded, runs on one thread, and leaves nothing in the repository."""

import os
import time

# Before anything imports pygame or W&B.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ["WANDB_MODE"] = "offline"

from pathlib import Path

import hypothesis
import pytest
import torch
from stable_baselines3.common.utils import set_random_seed

torch.set_num_threads(1)

REPO = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where the time of a run is limited (CI), slow tests for which none is left are skipped, and the summary says so."""
    until = float(os.environ.get("SLOW_TESTS_UNTIL") or "inf")
    if item.get_closest_marker("slow") is not None and time.time() > until:
        pytest.skip("no time is left for slow tests (SLOW_TESTS_UNTIL)")


class _TorchRandom:
    """Torch's generator as hypothesis wants it: set back before every example, so that a failing one fails again."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = _TorchRandom()  # hypothesis keeps only a weak reference
hypothesis.register_random(_torch_random)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    set_random_seed(0)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MUJOCO_LOG.TXT, trpo_runs/ and wandb/ go to the working directory: give each test its own."""
    monkeypatch.chdir(tmp_path)
    for name, folder in {"WANDB_DIR": "", "WANDB_DATA_DIR": "wandb_data", "WANDB_CACHE_DIR": "wandb_cache"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))


@pytest.fixture
def repo() -> Path:
    """The root of the repository (tests run elsewhere)."""
    return REPO


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The same test on the CPU (fast tier) and on a GPU (`make pytest-gpu`)."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
