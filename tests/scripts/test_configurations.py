"""Which settings a run has, and what makes two runs the same."""

from pathlib import Path

import pytest
import yaml
from evidence import configurations
from evidence.configurations import BadInput, make_run, parse_overrides, zoo_entry
from evidence.runs import Run, config_hash, curve_steps


def test_the_zoos_v4_entries_are_copied_to_v5() -> None:
    entries = yaml.safe_load((configurations.ZOO_FILES / "trpo.yml").read_text())
    assert "HalfCheetah-v5" not in entries
    entry, source = zoo_entry("trpo", "HalfCheetah-v5") or ({}, "")
    assert entry == entries["HalfCheetah-v4"]
    assert entry["target_kl"] == 0.04
    assert "HalfCheetah-v4" in source


def test_a_mujoco_task_that_the_zoo_never_named_gets_its_mujoco_defaults() -> None:
    entries = yaml.safe_load((configurations.ZOO_FILES / "trpo.yml").read_text())
    entry, source = zoo_entry("trpo", "InvertedDoublePendulum-v5") or ({}, "")
    assert entry == entries["Ant-v4"] == entries["Hopper-v4"]
    assert "Ant-v4" in source


def test_ppo_has_its_own_and_what_it_lacks_is_left_out() -> None:
    assert (zoo_entry("ppo", "Hopper-v5") or ({}, ""))[1].endswith("Hopper-v4")
    assert (zoo_entry("ppo", "CartPole-v1") or ({}, ""))[1].endswith("CartPole-v1")
    assert make_run("ppo-zoo", "Pusher-v5", 0, 1_000) is None


def test_contrib_ours_takes_the_same_step() -> None:
    ours = make_run("ours", "HalfCheetah-v5", 0, 1_000)
    contrib = make_run("contrib-ours", "HalfCheetah-v5", 0, 1_000)
    assert ours is not None
    assert contrib is not None
    assert contrib.entry["target_kl"] * 6 == pytest.approx(ours.entry["target_kl"], rel=1e-15)
    assert contrib.entry["cg_damping"] * 6 == pytest.approx(ours.entry["cg_damping"], rel=1e-15)
    assert contrib.entry["n_critic_updates"] == ours.entry["n_critic_updates"]
    assert not {"kl_reduction", "warn_on_risky"} & set(contrib.entry)
    assert (ours.numerics_version, contrib.numerics_version) == (configurations.NUMERICS_VERSION, None)


def test_overrides_change_our_settings_and_their_hash_but_not_the_zoos() -> None:
    changes = parse_overrides(["adaptive_damping=False", "gamma=0.9", "cg_rtol=1e-3", "policy_kwargs={net_arch: [8]}"])
    assert changes == {"adaptive_damping": False, "gamma": 0.9, "cg_rtol": 0.001, "policy_kwargs": {"net_arch": [8]}}
    plain, changed = (make_run("ours", "Hopper-v5", 0, 1_000, some) for some in (None, changes))
    assert plain is not None
    assert changed is not None
    assert changed.entry["adaptive_damping"] is False
    assert changed.id != plain.id
    assert make_run("contrib-zoo", "Hopper-v5", 0, 1_000, changes) == make_run("contrib-zoo", "Hopper-v5", 0, 1_000)
    converted = make_run("contrib-ours", "Hopper-v5", 0, 1_000, changes)
    assert converted is not None
    assert converted.overrides == "gamma=0.9 policy_kwargs={'net_arch': [8]}"  # it knows no others


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["gama=0.9"], "you maybe meant gamma"), (["gamma"], "KEY=VALUE"), (["gamma={"], "--set gamma={")],
)
def test_a_bad_override_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_run("ours", "Hopper-v5", 0, 1_000, parse_overrides(overrides))


def test_the_equivalence_settings_are_the_tasks_own() -> None:
    assert configurations.equivalence_overrides("Pendulum-v1") == {
        "adaptive_damping": False,
        "max_critic_updates": 15,
        "cg_rtol": 0.0,
        "final_target_kl": None,  # sb3-contrib's stays as it is
    }


def test_the_hash_is_of_the_content() -> None:
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert config_hash({"a": 1, "warn_on_risky": False, "n_timesteps": 5}) == config_hash({"a": 1})
    # Monitors only look on; those that may end a run, and callbacks of others, may not.
    watched = "sb3_trpo_ext.monitoring.TrustRegionMonitor"
    assert config_hash({"a": 1, "callback": watched}) == config_hash({"a": 1})
    assert config_hash({"a": 1, "callback": [{watched: {"on_trouble": "stop"}}]}) != config_hash({"a": 1})
    assert config_hash({"a": 1, "callback": "theirs.Callback"}) != config_hash({"a": 1})


def test_a_run_is_its_key() -> None:
    run = Run("Hopper-v5", 0, "ours", 1_000, {"gamma": 0.99}, "somewhere", "", 1)
    assert Run.from_json(run.to_json()) == run
    assert Run("Hopper-v5", 0, "ours", 1_000, {"gamma": 0.99}, "elsewhere", "", 1).id == run.id
    others = [
        Run("Walker2d-v5", 0, "ours", 1_000, {"gamma": 0.99}, "", "", 1),
        Run("Hopper-v5", 1, "ours", 1_000, {"gamma": 0.99}, "", "", 1),
        Run("Hopper-v5", 0, "contrib-ours", 1_000, {"gamma": 0.99}, "", "", 1),
        Run("Hopper-v5", 0, "ours", 2_000, {"gamma": 0.99}, "", "", 1),
        Run("Hopper-v5", 0, "ours", 1_000, {"gamma": 0.98}, "", "", 1),
        Run("Hopper-v5", 0, "ours", 1_000, {"gamma": 0.99}, "", "", 2),
    ]
    assert len({run.id, *(other.id for other in others)}) == 7


def test_curves_begin_with_the_untrained_policy_and_end_with_the_run() -> None:
    assert curve_steps(1_000_000)[:2] == [0, 50_000]
    assert curve_steps(1_000_000)[-1] == 1_000_000
    assert len(curve_steps(1_000_000)) == 21


def test_a_yaml_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("Hopper-v5: {policy: MlpPolicy, n_timesteps: 5, gamma: 0.5}")
    run = make_run("ours", "Hopper-v5", 0, 10, path=path)
    assert run is not None
    assert run.entry["gamma"] == 0.5
    with pytest.raises(BadInput, match="no entry Hoper"):
        configurations.our_entry("Hoper-v5", path)
