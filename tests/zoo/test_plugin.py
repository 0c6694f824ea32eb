"""The plug-in: what importing ``sb3_trpo_ext.zoo`` does to the RL Zoo, and the hyperparameters that it ships."""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rl_zoo3
import rl_zoo3.enjoy
import rl_zoo3.exp_manager as zoo
import yaml
from rl_zoo3.utils import get_callback_list

import sb3_trpo_ext.zoo
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.zoo import wandb_mode
from sb3_trpo_ext.zoo.convert_config import convert_entry
from tests.zoo.tuned import TUNED

ZOO_ENTRIES = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "trpo.yml").read_text())
OURS = sb3_trpo_ext.zoo.hyperparams
# The Zoo has no MuJoCo entries for v5, and for these none at all: they take its MuJoCo defaults
NOT_IN_THE_ZOO = ("Reacher-v5", "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Pusher-v5", "HumanoidStandup-v5")
MUJOCO = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Walker2d",
    "Humanoid",
    "Swimmer",
    "Reacher",
    "InvertedPendulum",
    "InvertedDoublePendulum",
    "Pusher",
    "HumanoidStandup",
)
NOT_TUNED = "not tuned yet"


def comments() -> dict[str, str]:
    """What stands above each entry."""
    lines = sb3_trpo_ext.zoo.config_file().read_text().splitlines()
    found: dict[str, str] = {}
    for number, line in enumerate(lines):
        if line.partition(":")[0] in OURS:
            above = itertools.takewhile(lambda other: other.startswith("#"), reversed(lines[:number]))
            found[line.partition(":")[0]] = " ".join(other.removeprefix("# ") for other in reversed(list(above)))
    return found


def zoo_entry(env_id: str) -> dict[str, Any]:
    if env_id in NOT_IN_THE_ZOO:
        return ZOO_ENTRIES["Ant-v4"]
    return ZOO_ENTRIES.get(env_id) or ZOO_ENTRIES[env_id.replace("-v5", "-v4")]


def test_the_zoos_own_dictionaries_are_changed_in_place() -> None:
    from sb3_trpo_ext.zoo.search_space import convert_trpo_params, sample_trpo_params

    for algos in (rl_zoo3.ALGOS, rl_zoo3.enjoy.ALGOS, zoo.ALGOS):
        assert algos["trpo"] is TRPO
    assert zoo.HYPERPARAMS_SAMPLER["trpo"] is sample_trpo_params
    assert zoo.HYPERPARAMS_CONVERTER["trpo"] is convert_trpo_params
    assert rl_zoo3.ALGOS["ppo"].__module__.startswith("stable_baselines3.")


def test_importing_twice_changes_nothing() -> None:
    before = dict(rl_zoo3.ALGOS)
    importlib.reload(sb3_trpo_ext.zoo)
    assert rl_zoo3.ALGOS == before


def test_each_reader_gets_hyperparameters_of_its_own() -> None:
    first = importlib.import_module("sb3_trpo_ext.zoo").hyperparams
    first["Hopper-v5"].update(n_steps=1)
    assert sb3_trpo_ext.zoo.hyperparams["Hopper-v5"]["n_steps"] == 1024
    with pytest.raises(AttributeError, match="no attribute 'hyperparam'"):
        _ = sb3_trpo_ext.zoo.hyperparam


def test_the_promised_tasks_are_there() -> None:
    classic = {"CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"}
    box2d = {"LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3"}
    assert set(OURS) == {"default", *(f"{name}-v5" for name in MUJOCO), *classic, *box2d}


@pytest.mark.parametrize("env_id", [env_id for env_id, comment in comments().items() if comment == NOT_TUNED])
def test_an_entry_that_is_not_tuned_is_the_zoos_in_joint_units(env_id: str) -> None:
    ours = {key: value for key, value in OURS[env_id].items() if key not in ("warn_on_risky", "callback")}
    assert ours == convert_entry(env_id.replace("Hardcore", ""), zoo_entry(env_id), "joint")


@pytest.mark.parametrize("env_id", OURS)
def test_every_entry_is_watched(env_id: str) -> None:
    (monitor,) = get_callback_list(OURS[env_id])
    assert isinstance(monitor, TrustRegionMonitor)
    # sb3-contrib's TRPO has no reports to watch.
    assert "callback" not in convert_entry(env_id, OURS[env_id], "mean")


@pytest.mark.parametrize("env_id", OURS)
def test_an_entry_is_not_risky_or_says_so(env_id: str) -> None:
    entry = OURS[env_id]
    if env_id == "default":
        assert entry["kl_reduction"] == "mean"
        return
    assert entry["kl_reduction"] == "joint"
    risky = (
        entry["target_kl"] > 0.1
        or entry.get("cg_max_steps", 15) < 10
        or not entry.get("normalize_advantage", True)
        or entry.get("n_critic_updates", 10) < 10
    )
    assert entry.get("warn_on_risky", True) is not risky


def test_every_entry_says_how_it_was_tuned_or_that_it_was_not() -> None:
    assert list(comments()) == list(OURS)
    bad = [env_id for env_id, text in comments().items() if text != NOT_TUNED and not TUNED.fullmatch(text)]
    assert bad == []


@pytest.fixture
def _no_choice_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_mode, "_chosen_here", False)  # and as it was before, afterwards


NOTHING_CONFIGURED = {"HOME": ".", "WANDB_CONFIG_DIR": "none", "NETRC": "none"}
NETRC = "machine api.wandb.ai login user password 0123456789012345678901234567890123456789"


@pytest.mark.usefixtures("_no_choice_made")
@pytest.mark.parametrize(
    ("environ", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "0" * 40}, "", None),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
        ({"NETRC": "netrc"}, NETRC, None),
        ({"NETRC": "netrc"}, NETRC.replace("api.wandb.ai", "elsewhere"), "offline"),
        ({"NETRC": "netrc", "WANDB_BASE_URL": "https://elsewhere"}, NETRC, "offline"),
        ({"NETRC": "netrc"}, "broken", "offline"),
    ],
)
def test_wandb_is_offline_exactly_without_a_key(
    environ: dict[str, str],
    netrc: str,
    mode: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "netrc").write_text(netrc)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**NOTHING_CONFIGURED, **environ}.items():
        monkeypatch.setenv(name, value)
    wandb_mode.choose_wandb_mode()
    wandb_mode.choose_wandb_mode()
    assert os.environ.get("WANDB_MODE") == mode
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("_no_choice_made")
@pytest.mark.parametrize(("setting", "mode"), [("api_key = 0123", None), ("mode = disabled", None), ("[broken", "offline")])
def test_wandbs_settings_file_counts(setting: str, mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings").write_text(f"[default]\n{setting}\n")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name, value in {**NOTHING_CONFIGURED, "WANDB_CONFIG_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    wandb_mode.choose_wandb_mode()
    assert os.environ.get("WANDB_MODE") == mode


@pytest.mark.parametrize("flags", [[], ["--track"]])
def test_who_tracks_a_run_is_told_that_it_goes_offline(flags: list[str], tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_API_KEY")}
    environ |= {**NOTHING_CONFIGURED, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1])}
    code = (
        "import os, sys; from sb3_trpo_ext.zoo.cli import preflight; print(os.environ['WANDB_MODE']);"
        "parser = preflight.CheckingParser(); parser.add_argument('--algo');"
        "parser.add_argument('--track', action='store_true');"
        "parser.parse_args(['--algo', 'ppo', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "offline\n"
    assert done.stderr.count("W&B: no API key found") == len(flags)
