"""``convert-config``: exact in both directions, and one clear line when it can't be done."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import sb3_contrib
import yaml
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_trpo_ext.zoo.cli import run
from sb3_trpo_ext.zoo.convert_config import action_dimensions, convert_entry, convert_text, own_arguments

CONTRIB = """
default: {policy: MlpPolicy}
# A comment
Hopper-v5: &mujoco
  policy: 'MlpPolicy'
  n_timesteps: !!float 1e6
  policy_kwargs: "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[256, 256], vf=[256, 256]))"
HalfCheetah-v5:
  <<: *mujoco
  target_kl: 0.04
  cg_damping: 0
CartPole-v1: {policy: MlpPolicy, cg_damping: 0.001}
"""


class _Actions(gym.Env[Any, Any]):
    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space = space


class FiveActions(gym.Wrapper[Any, Any, Any, Any]):
    action_space = spaces.Box(-1, 1, (5,))


@pytest.fixture(scope="module", autouse=True)
def _register() -> None:
    if "AnyActions-v0" not in gym.registry:
        gym.register("AnyActions-v0", entry_point=_Actions)


@pytest.mark.parametrize(
    ("space", "dimensions"),
    [
        (spaces.Box(-1, 1, (3,)), 3),
        (spaces.Box(-1, 1, (2, 3)), 6),
        (spaces.MultiBinary(4), 4),
        (spaces.MultiBinary([2, 3]), 6),
        (spaces.Discrete(5), 1),
        (spaces.MultiDiscrete([3, 4]), 1),
    ],
)
def test_dimensions_that_sb3_contrib_averages_over(space: spaces.Space[Any], dimensions: int) -> None:
    assert action_dimensions("AnyActions-v0", {"env_kwargs": {"space": space}}) == dimensions


def test_wrappers_count_and_atari_is_discrete() -> None:
    entry = {"env_kwargs": {"space": spaces.Box(-1, 1, (3,))}, "env_wrapper": FiveActions}
    assert action_dimensions("AnyActions-v0", entry) == 5
    assert action_dimensions("atari", {}) == 1


def test_to_joint_writes_both_numbers_out() -> None:
    converted = yaml.safe_load(convert_text(CONTRIB, "joint"))
    assert converted["default"] == {"policy": "MlpPolicy", "kl_reduction": "mean"}
    hopper, cheetah, cartpole = (converted[name] for name in ("Hopper-v5", "HalfCheetah-v5", "CartPole-v1"))
    assert (hopper["target_kl"], hopper["cg_damping"], hopper["kl_reduction"]) == (0.03, 0.3, "joint")
    assert (cheetah["target_kl"], cheetah["cg_damping"], cheetah["n_timesteps"]) == (0.24, 0, 1e6)
    assert (cartpole["target_kl"], cartpole["cg_damping"], cartpole["kl_reduction"]) == (0.01, 0.001, "joint")
    assert hopper["policy_kwargs"] == yaml.safe_load(CONTRIB)["Hopper-v5"]["policy_kwargs"]


def test_the_text_shows_the_product_that_a_person_expects() -> None:
    entry = {"env_kwargs": {"space": spaces.Box(-1, 1, (6,))}}  # in floats, 6 * 0.01 is 0.060000000000000005 or so
    assert repr(convert_entry("AnyActions-v0", {**entry, "target_kl": 0.7}, "joint")["target_kl"]) == "4.2"
    assert 0.7 * 6 != 4.2


def test_there_and_back_is_the_same_file_for_sb3_contrib() -> None:
    original = yaml.safe_load(CONTRIB)
    back = yaml.safe_load(convert_text(convert_text(CONTRIB, "joint"), "mean"))
    for env_id, entry in original.items():
        defaults = {} if env_id == "default" else {"target_kl": 0.01, "cg_damping": 0.1}
        assert back[env_id] == {**defaults, **entry}


@given(
    digits=st.integers(1, 999_999),
    exponent=st.integers(-9, 0),
    dimensions=st.integers(1, 40),
)
def test_there_and_back_gives_the_same_floats(digits: int, exponent: int, dimensions: int) -> None:
    value = float(f"{digits}e{exponent}")
    entry = {
        "env_kwargs": {"space": spaces.Box(-1, 1, (dimensions,))},
        "target_kl": value,
        "cg_damping": value,
        "cg_damping_range": [value, 2 * value],
        "final_target_kl": value,
    }
    joint = convert_entry("AnyActions-v0", entry, "joint")
    assert joint["cg_damping_range"] == pytest.approx([dimensions * value, 2 * dimensions * value], rel=1e-15)
    assert joint["final_target_kl"] == joint["target_kl"]
    mean = convert_entry("AnyActions-v0", joint, "mean")
    assert (mean["target_kl"], mean["cg_damping"]) == (value, value)
    assert not {"cg_damping_range", "final_target_kl"} & set(mean)  # sb3-contrib doesn't know it


def test_an_entry_already_in_the_unit_is_unchanged() -> None:
    joint = {"kl_reduction": "joint", "n_steps": 5}  # δ is our default: nothing to convert, nothing to write out
    assert convert_entry("Hopper-v5", joint, "joint") == joint
    assert convert_entry("NotThere-v0", {"target_kl": 0.02, "kl_reduction": "mean"}, "mean") == {"target_kl": 0.02}


def test_to_mean_leaves_nothing_that_sb3_contrib_refuses() -> None:
    entry: dict[str, Any] = {
        "policy": "MlpPolicy",
        "kl_reduction": "joint",
        "target_kl": 0.03,
        "warn_on_risky": False,
        "cg_damping_range": [0.3, 300],
        "callback": ["sb3_trpo_ext.monitoring.X", {"sb3_trpo_ext.monitoring.Y": {"a": 1}}, "rl_zoo3.callbacks.Z"],
    }
    converted = convert_entry("Pendulum-v1", entry, "mean")
    assert converted == {"policy": "MlpPolicy", "target_kl": 0.03, "cg_damping": 0.1, "callback": ["rl_zoo3.callbacks.Z"]}
    assert "callback" not in convert_entry("Pendulum-v1", {**entry, "callback": "sb3_trpo_ext.monitoring.X"}, "mean")
    assert convert_entry("Pendulum-v1", {**entry, "callback": "a.B"}, "mean")["callback"] == "a.B"
    del converted["callback"]
    sb3_contrib.TRPO(env="Pendulum-v1", device="cpu", **converted)


def test_our_own_arguments_are_found() -> None:
    assert {"kl_reduction", "cg_damping_range", "warn_on_risky", "adaptive_damping"} <= own_arguments()
    assert not {"policy", "env", "target_kl", "cg_damping", "self"} & own_arguments()


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("Hoper-v5: {policy: MlpPolicy}", "joint", "Hoper-v5: the environment can't be made"),
        ("Hopper-v5: {target_kl: 1e-3}", "joint", "Hopper-v5.target_kl: '1e-3' is not a number (YAML reads 1e-3 as text"),
        ("Hopper-v5: {cg_damping: .nan}", "joint", "Hopper-v5.cg_damping: nan is not a number"),
        ("Hopper-v5: {cg_damping_range: 3}", "joint", "Hopper-v5.cg_damping_range: 3 is not a list"),
        ("Hopper-v5: {kl_reduction: sum}", "joint", "kl_reduction is 'sum'"),
        ("default: {kl_reduction: joint}", "mean", "default: it is in joint units"),
        ("Hopper-v5: {", "joint", "no valid YAML"),
        ("just text", "joint", "not a Zoo YAML"),
        ("Hopper-v5: 3", "joint", "not a Zoo YAML"),
        ("Hopper-v5: {env_wrapper: antigravity.Fly}", "joint", "env_wrapper antigravity.Fly is code that would be run"),
        ("this:Hopper-v5: {}", "joint", "a file may not name a module to import"),
        ("Hopper-v5: {target_kl: 1.7e+308}", "joint", "is too large"),
        ("Hopper-v5: {x: &a [*a]}", "joint", "a reference to what it is a part of"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_no_file(
    text: str, target: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.yml").write_text("CartPole-v1: {policy: MlpPolicy}\n" * text.startswith(("Ho", "de")) + text)
    assert run(["convert-config", "in.yml", "--to", target, "-o", "out.yml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".yml" or "tmp" in path.name] == ["in.yml"]


def test_a_file_is_written_whole_and_never_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yml").write_text(CONTRIB)
    command = ["convert-config", "in.yml", "--to", "joint", "-o", "out.yml", "--env", "HalfCheetah-v5", "default"]
    assert run(command) == 0
    assert "default keeps mean units" in capsys.readouterr().err
    assert list(yaml.safe_load(Path("out.yml").read_text())) == ["HalfCheetah-v5", "default"]
    Path("out.yml").write_text("mine")
    assert run(command) == 2
    assert "out.yml exists: add --force" in capsys.readouterr().err
    assert Path("out.yml").read_text() == "mine"
    assert run([*command, "--force"]) == 0
    assert run(["convert-config", "nowhere.yml", "--to", "joint"]) == 2
    assert "nowhere.yml" in capsys.readouterr().err
    assert run(["convert-config", "in.yml", "--to", "joint", "--env", "Hoper-v5"]) == 2
    assert "you maybe meant 'Hopper-v5'" in capsys.readouterr().err


def test_the_zoos_file_goes_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yml").write_text(CONTRIB)
    assert run(["convert-config", "in.yml", "--to", "joint"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["Hopper-v5"]["target_kl"] == 0.03


def test_what_is_left_out_for_sb3_contrib_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = "{kl_reduction: joint, target_kl: 0.03, final_target_kl: 0.003, warn_on_risky: false}"
    (tmp_path / "mine.yml").write_text(f"Hopper-v5: {entry}\nSwimmer-v5: {entry}\nCartPole-v1: {{gamma: 0.9}}\n")
    assert run(["convert-config", "mine.yml", "--to", "mean"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convert-config")]
    assert said == ["convert-config: sb3-contrib has no final_target_kl, it is left out of Hopper-v5, Swimmer-v5."]
    assert run(["convert-config", "mine.yml", "--to", "joint"]) == 0
    assert "left out" not in capsys.readouterr().err
