"""Every point of the search space is an entry that the Zoo and TRPO take, and the entry of a point is that point."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from evidence.configurations import BadInput, our_entry
from evidence.runs import Run
from optuna.samplers import RandomSampler
from torch import nn
from tuning.points import CURRENT, SEARCHED, entry_of, params_of, starting_points, with_warning
from tuning.study import Tuning
from tuning.training import TrialManager

from sb3_trpo_ext import TRPO, zoo
from sb3_trpo_ext.sb3.arguments.validation import refuse_impossible
from sb3_trpo_ext.zoo.search_space import TUNING_SPACE, widened
from tests.scripts.made_up_trials import make_tuning

optuna.logging.set_verbosity(optuna.logging.WARNING)
DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(TRPO).parameters.items()}
ENTRIES = {task: entry for task, entry in zoo.hyperparams.items() if task != "default"}


def random_entries(tuning: Tuning, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    return [entry_of(study.ask(tuning.space).params, tuning.entry) for _ in range(count)]


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Pendulum-v1"])
def test_every_sample_is_possible(tmp_path: Any, task: str) -> None:
    for entry in random_entries(make_tuning(tmp_path, task), 500):
        values = {key: value for key, value in entry.items() if key in DEFAULTS and not str(value).startswith("lin_")}
        refuse_impossible({**DEFAULTS, **values})
        assert entry["n_envs"] * entry["n_steps"] % entry["batch_size"] == 0
        assert entry["n_steps"] >= 64
        assert entry["kl_reduction"] == "joint"
        assert entry.get("warn_on_risky", True) == (entry["target_kl"] <= 0.1)


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "CartPole-v1", "MountainCarContinuous-v0"])
def test_the_zoo_makes_a_model_of_a_sample_without_a_word(tmp_path: Any, task: str) -> None:
    for entry in random_entries(make_tuning(tmp_path, task), 8):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model, _ = TrialManager(Run(task, 1, "ours", 100, entry)).setup_experiment()
        assert isinstance(model, TRPO)
        assert (model.n_envs, model.n_steps, model.gamma) == (entry["n_envs"], entry["n_steps"], entry["gamma"])
        assert float(model.target_kl) == entry["target_kl"]
        normalization = model.get_vec_normalize_env()
        assert (normalization is not None) == ("normalize" in entry)
        if isinstance(entry.get("normalize"), dict):
            assert {name: getattr(normalization, name) for name in entry["normalize"]} == entry["normalize"]
        text = entry["policy_kwargs"]
        assert f"pi={model.policy.net_arch['pi']}" in text
        assert model.policy.activation_fn.__name__ in text
        rate = str(entry["learning_rate"])
        assert model.lr_schedule(0.5) == pytest.approx(float(rate.removeprefix("lin_")) / (2 if "lin" in rate else 1))
        assert bool(model.use_sde) == entry.get("use_sde", False)
        model.env.close()
    assert {path.name for path in tmp_path.iterdir()} <= {"MUJOCO_LOG.TXT"}  # trials write nothing


@pytest.mark.parametrize("task", ENTRIES)
def test_the_point_of_an_entry_that_we_ship_is_that_entry(task: str) -> None:
    entry = ENTRIES[task]
    point = params_of(entry)
    again = entry_of(point, entry)
    for key, value in entry.items():
        if key == "policy_kwargs":  # said whole, where the entry may leave something to the defaults
            whole, shipped = (eval(text, {"nn": nn}) for text in (again[key], value))
            assert whole | shipped == whole
        elif key != "warn_on_risky":
            assert again[key] == value, key
    assert params_of(again) == point
    # What the entry leaves to the defaults is now said, and is the default
    said = {key: value for key, value in again.items() if key not in entry and key not in ("policy_kwargs", "normalize")}
    assert said == {key: DEFAULTS[key] for key in said}
    assert params_of(again) == point
    assert again.get("warn_on_risky") == (None if entry["target_kl"] <= 0.1 else False)


@pytest.mark.parametrize("task", ENTRIES)
def test_every_study_has_its_starting_points_in_its_space(task: str) -> None:
    space = widened(TUNING_SPACE, params_of(ENTRIES[task]))
    for name, params in starting_points(task, ENTRIES[task]).items():
        assert set(params) == set(space)
        for key, value in params.items():
            choices = getattr(space[key], "choices", None)
            if choices is not None:
                assert value in choices, (name, key)


def test_published_points_are_in_the_space_as_they_are() -> None:
    points = starting_points("Hopper-v5", ENTRIES["Hopper-v5"])
    for name in ("Spinning Up", "Tianshou"):
        assert widened(TUNING_SPACE, points[name]) == TUNING_SPACE
    assert entry_of(points["Tianshou"], ENTRIES["Hopper-v5"])["n_steps"] == 64
    assert entry_of(points["Spinning Up"], ENTRIES["Hopper-v5"])["n_steps"] == 4096


def test_each_point_is_tried_once_and_the_zoos_own_settings_stay_one_of_them() -> None:
    untuned = starting_points("Hopper-v5", ENTRIES["Hopper-v5"])
    assert "RL Zoo" not in untuned  # they are the current entry
    assert "current, normalised" not in untuned
    tuned = starting_points("Hopper-v5", {**ENTRIES["Hopper-v5"], "gamma": 0.995})
    assert tuned["RL Zoo"] == untuned[CURRENT]
    cart = starting_points("CartPole-v1", ENTRIES["CartPole-v1"])
    assert cart["current, normalised"]["norm_obs"] is not cart[CURRENT]["norm_obs"]
    assert starting_points("Pusher-v5", ENTRIES["Pusher-v5"])
    for points in (untuned, tuned, cart):
        assert len({str(point) for point in points.values()}) == len(points)


def test_only_what_is_searched_is_replaced() -> None:
    entry = {**ENTRIES["MountainCarContinuous-v0"], "env_wrapper": "some.Wrapper"}
    changed = entry_of(params_of(ENTRIES["Hopper-v5"]), entry)
    kept = {key: value for key, value in entry.items() if key not in SEARCHED}
    assert {key: changed[key] for key in kept} == kept
    assert changed["use_sde"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_reduction": "mean"}, "must be joint"),
        ({"n_steps": 1_000}, "n_envs \\* n_steps=2000 is no power of 2"),
        ({"batch_size": 100}, "batch_size=100"),
        ({"n_envs": 32}, "n_envs=32 is none of"),
    ],
)
def test_an_entry_that_can_not_be_searched_is_refused(tmp_path: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _ = make_tuning(tmp_path, **changes).space


def test_a_space_is_widened_for_what_is_known_to_be_good() -> None:
    point = params_of(our_entry("Pendulum-v1")[0])
    wide = widened(TUNING_SPACE, point)
    assert wide["one_minus_gamma"] == optuna.distributions.FloatDistribution(5e-5, 0.1, log=True)
    assert {name for name in wide if wide[name] != TUNING_SPACE[name]} == {"one_minus_gamma"}


def test_a_kl_that_shrinks_does_so_by_the_same_factor_in_every_trial(tmp_path: Path) -> None:
    constant, shrinking = (make_tuning(tmp_path, **changes) for changes in ({}, {"final_target_kl": 0.003}))
    point = params_of(shrinking.entry)
    assert entry_of(point, shrinking.entry)["final_target_kl"] == 0.003
    twice = entry_of({**point, "target_kl": 2 * point["target_kl"]}, shrinking.entry)
    assert twice["final_target_kl"] == pytest.approx(0.006)
    assert "final_target_kl" not in entry_of(point, constant.entry)
    # Trials of the one say nothing about the other
    assert not shrinking.name.startswith(f"{constant.comparable} space")
    assert shrinking.comparable.startswith(constant.comparable)


def test_a_large_kl_at_either_end_is_meant_and_a_small_one_needs_no_word() -> None:
    assert with_warning({"target_kl": 0.2}) == {"target_kl": 0.2, "warn_on_risky": False}
    assert with_warning({"target_kl": 0.05, "warn_on_risky": False}) == {"target_kl": 0.05}
    assert with_warning({"target_kl": 0.05, "final_target_kl": 0.2})["warn_on_risky"] is False
