"""
Sweeps: our YAML files by W&B's rules, and the module that overlays what a sweep has chosen.

The rules are those of ``sweeps/config/schema.json`` in W&B's package ``sweeps`` 0.3.0, as far as our files use it; both files
were checked against that file itself.
"""

import inspect
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

import sb3_trpo_ext.zoo.sweep as module
from sb3_trpo_ext import TRPO, zoo
from sb3_trpo_ext.monitoring.wandb_rows import RETURN
from sb3_trpo_ext.zoo import config_file
from sb3_trpo_ext.zoo.entry import BY_FLAGS
from sb3_trpo_ext.zoo.sweep import MONITOR
from sb3_trpo_ext.zoo.yaml_files import ConfigError

FOLDER = config_file().parent / "sweeps"
NAMES = ["mujoco", "classic_control"]
TOP = {"name", "project", "program", "command", "method", "metric", "early_terminate", "run_cap", "parameters"}
RANGES = {"uniform": float, "log_uniform_values": float, "int_uniform": int}


def violations(sweep: dict[str, Any]) -> list[str]:
    """What W&B would reject."""
    found = [f"unknown {key}" for key in set(sweep) - TOP]
    if sweep.get("method") not in ("bayes", "random", "grid"):
        found.append("method")
    metric = sweep["metric"]
    if set(metric) != {"name", "goal"} or metric["goal"] not in ("minimize", "maximize"):
        found.append("metric")
    stop = sweep["early_terminate"]
    if (
        stop.get("type") != "hyperband"
        or set(stop) - {"type", "min_iter", "eta", "strict"}
        or stop["min_iter"] < 1
        or stop["eta"] <= 1
    ):
        found.append("early_terminate")
    return found + [name for name, parameter in sweep["parameters"].items() if not valid(parameter)]


def valid(parameter: dict[str, Any]) -> bool:
    if set(parameter) == {"values"}:
        return len(parameter["values"]) > 0
    kind = RANGES.get(parameter.get("distribution", ""))
    if kind is None or set(parameter) != {"distribution", "min", "max"}:
        return False
    low, high = parameter["min"], parameter["max"]
    # A number such as 1e-3, without a point, is text to YAML 1.1.
    right = all(type(bound) is kind for bound in (low, high))
    return right and low < high and (low > 0 or parameter["distribution"] != "log_uniform_values")


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_all_files_are_checked() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wandb_takes_it(name: str) -> None:
    sweep = load(name)
    assert violations(sweep) == []
    sweep["parameters"]["gamma"] = {"min": 0.1}
    sweep["parameters"]["target_kl"]["min"] = "1e-3"
    assert violations(sweep) == ["target_kl", "gamma"]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_and_the_metric_are_ours(name: str) -> None:
    sweep = load(name)
    command = sweep["command"]
    assert command[:2] == ["${env}", "${interpreter}"]
    assert command[2:8] == ["-m", "sb3_trpo_ext", "train", "--track", "--conf-file", "sb3_trpo_ext.zoo.sweep"]
    # The Zoo's parser takes no --key=value.
    assert not [word for word in command if "=" in word or word == "${args}"]
    assert all(isinstance(word, str) for word in command)
    assert sweep["metric"]["name"] == RETURN
    assert command[command.index("--env") + 1] in zoo.hyperparams


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", [0, -1])
def test_every_end_of_every_range_is_a_model(name: str, which: int, recwarn: pytest.WarningsRecorder) -> None:
    sweep = load(name)
    module.refuse_unknown(sweep["parameters"])
    chosen = {
        key: (parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]])[which]
        for key, parameter in sweep["parameters"].items()
    }
    if "policy_kwargs" in chosen:
        chosen["policy_kwargs"] = eval(chosen["policy_kwargs"])
    model = TRPO("MlpPolicy", "Pendulum-v1", kl_reduction="joint", device="cpu", **chosen)
    assert model.n_steps % model.batch_size == 0
    assert not [str(warning.message) for warning in recwarn if "TRPO" in str(warning.message)]


# ---------------------------------------------------------------- the overlay


def fake_run(monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any] | None, **config: Any) -> None:
    """As much of wandb as is read."""
    path = None
    if parameters is not None:
        path = Path("parameters.yaml")
        path.write_text(yaml.safe_dump({"wandb_version": 1, **{key: {"value": value} for key, value in parameters.items()}}))
    settings = types.SimpleNamespace(sweep_param_path=path and str(path))
    wandb = types.ModuleType("wandb")
    ended: list[int | None] = []
    wandb.run = types.SimpleNamespace(  # type: ignore[attr-defined]
        settings=settings,
        config={**config, **(parameters or {})},
        ended=ended,
        finish=lambda exit_code: ended.append(exit_code),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)


def test_the_sweeps_parameters_are_laid_over_every_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    # n_timesteps and seed are flags of the Zoo, which it puts into the same config.
    fake_run(monkeypatch, {"target_kl": 0.05, "policy_kwargs": {"net_arch": [8]}}, n_timesteps=-1, seed=3)
    ours = zoo.hyperparams
    for env_id, entry in module.hyperparams.items():
        expected = {**ours[env_id], "target_kl": 0.05, "policy_kwargs": {"net_arch": [8]}}
        assert {key: value for key, value in entry.items() if key != "callback"} == {
            key: value for key, value in expected.items() if key != "callback"
        }
        assert entry["callback"][-1] == MONITOR
    # Nothing is kept.
    assert module.hyperparams is not module.hyperparams
    fake_run(monkeypatch, {"target_kl": 0.06})
    assert module.hyperparams["CartPole-v1"]["target_kl"] == 0.06


@pytest.mark.parametrize("callback", [None, "a.B", ["a.B", {"c.D": {"e": 1}}]])
def test_the_monitor_is_added_once(callback: Any) -> None:
    once = module._watched({"callback": callback})
    assert module._watched(once) == once
    assert once["callback"][-1] == MONITOR
    assert len(once["callback"]) == 1 + (0 if callback is None else 1 if isinstance(callback, str) else 2)


@pytest.mark.parametrize("run", ["none", "no sweep"])
def test_without_a_sweep_our_yaml_is_used_and_it_is_said(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(monkeypatch, None, target_kl=0.07)
    if run == "none":
        sys.modules["wandb"].run = None  # type: ignore[attr-defined]
    assert module.hyperparams["CartPole-v1"]["target_kl"] == zoo.hyperparams["CartPole-v1"]["target_kl"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert {"none": "--track begins one", "no sweep": "belongs to no sweep"}[run] in said


def test_what_would_have_no_effect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(monkeypatch, {"gamma": 0.9, "target_lk": 0.05})
    run = sys.modules["wandb"].run  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"the sweep: unknown key target_lk=0\.05.*did you mean target_kl"):
        _ = module.hyperparams
    assert run.ended == [2]
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = module.other
    assert set(inspect.signature(TRPO.__init__).parameters) >= BY_FLAGS


def test_what_is_impossible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(monkeypatch, {"cg_max_steps": 2.5})
    with pytest.raises(ConfigError, match=r"the sweep: cg_max_steps=2\.5 is impossible: it must be an integer >= 1"):
        _ = module.hyperparams
    assert sys.modules["wandb"].run.ended == [2]  # type: ignore[attr-defined]


def test_integers_that_come_as_floats_are_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "n_steps": 64.0,
        "max_critic_updates": 5.0,
        "n_envs": 2.0,
        "gamma": 1.0,
        "policy": "MlpPolicy",
    }
    fake_run(monkeypatch, given)
    entry = module.hyperparams["CartPole-v1"]
    found = {name: entry[name] for name in given}
    assert found == given
    types_ = [type(value) for value in found.values()]
    assert types_ == [int, int, int, float, str]
    assert sys.modules["wandb"].run.ended == []  # type: ignore[attr-defined]


def test_the_zoos_monitor_kwargs_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(monkeypatch, {"monitor_kwargs": {"info_keywords": ["is_success"]}})
    assert module.hyperparams["CartPole-v1"]["monitor_kwargs"] == {"info_keywords": ["is_success"]}
