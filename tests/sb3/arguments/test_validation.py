"""Impossible settings are refused by name, risky ones warned about: in the constructor, and on the values after load."""

import inspect
import warnings
from typing import Any

import numpy as np
import pytest

from sb3_trpo_ext import TRPO, UpdateReport
from sb3_trpo_ext.sb3.arguments.validation import SETTINGS
from tests.sb3.spaces import make_env, make_model

NAN, INF = float("nan"), float("inf")
NOT_SIZES = [0, -1, 1.5, NAN, INF, "8", None, True]
NOT_NUMBERS = [NAN, INF, -INF, "0.1", None, True, [0.1], 1j]
IMPOSSIBLE: dict[str, list[Any]] = {
    "n_steps": NOT_SIZES,
    "batch_size": NOT_SIZES,
    "gamma": [*NOT_NUMBERS, -0.1, 1.1],
    "gae_lambda": [*NOT_NUMBERS, -0.1, 1.1],
    "target_kl": [*NOT_NUMBERS, 0.0, -0.01],
    "final_target_kl": [NAN, INF, "0.01", True, 0.0, -0.01],
    "cg_max_steps": NOT_SIZES,
    "cg_damping": [*NOT_NUMBERS, -1e-9],
    "cg_rtol": [*NOT_NUMBERS, -1e-9, 1.0],
    "cg_precision": ["float16", None, 64, "Float64"],
    "cg_preconditioner": ["jacobi", None, True],
    "cg_damping_range": [
        (1.0, 0.1),
        (-1.0, 1.0),
        (0.1,),
        (0.1, NAN),
        (0.1, INF),
        0.1,
        "01",
        (None, 1.0),
        ("a", "b"),
        (0.2, 1.0),
    ],
    "line_search_shrinking_factor": [*NOT_NUMBERS, 0.0, 1.0, -0.5, 2],
    "line_search_max_iter": NOT_SIZES,
    "n_critic_updates": [-1, 1.5, NAN, INF, "8", None, True],
    "critic_tolerance": [NAN, INF, -0.1, "0.1", True],
    "min_explained_variance": [NAN, INF, 1.1, "0.1", True],
    "sub_sampling_factor": NOT_SIZES,
    "kl_reduction": ["sum", "Mean", 1, True, "none"],
    "on_stale_batch": ["ignore", None, False],
    "on_nonfinite": ["ignore", None, False],
    "fisher_chunk_size": [0, -1, 1.5, NAN, "8", True],
    "log_folder": [1, True, ["logs"]],
    "normalize_advantage": ["False", None],
    "adaptive_damping": ["False", None, 2],
    "warn_on_risky": ["False", None],
    "max_critic_updates": [1, 0, -1, 2.5, NAN, INF, "8", True],
    "learning_rate": [NAN, INF, -1e-3, "0.1", None, True],
}
CASES = [(name, value) for name, values in IMPOSSIBLE.items() for value in values]


def test_every_setting_has_impossible_values() -> None:
    assert set(IMPOSSIBLE) == set(SETTINGS)


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda case: str(case))
def test_impossible_values_are_refused_by_the_constructor(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"is impossible: it must be .+") as caught:
        make_model(**{name: value})
    assert f"{name}={value!r}" in str(caught.value)
    assert "TRPO" in str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("saved") / "model.zip")
    make_model().save(path)
    return path


@pytest.mark.parametrize(("name", "value"), [(name, values[0]) for name, values in IMPOSSIBLE.items()])
def test_impossible_values_are_refused_after_loading(name: str, value: Any, saved: str) -> None:
    with pytest.raises(ValueError, match=r"is impossible: it must be .+") as caught:
        TRPO.load(saved, **{name: value})
    assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_steps", np.int64(16)),
        ("target_kl", np.float32(0.01)),
        ("target_kl", 1),
        ("cg_damping", np.float32(0.1)),
        ("cg_damping_range", (np.float32(0.05), np.float32(0.5))),
        ("cg_max_steps", np.int64(3)),
        ("cg_rtol", np.float32(1e-6)),
        ("line_search_shrinking_factor", np.float32(0.5)),
        ("line_search_max_iter", np.int64(3)),
        ("n_critic_updates", np.int64(2)),
        ("max_critic_updates", np.int64(2)),
        ("critic_tolerance", np.float32(0.1)),
        ("fisher_chunk_size", np.int64(8)),
        ("sub_sampling_factor", np.int64(2)),
        ("cg_damping", 0.0),
        ("cg_damping_range", [0.0, 1.0]),
        ("cg_damping_range", (0.1, 0.1)),
        ("cg_rtol", 0),
        ("gamma", 1),
        ("gae_lambda", 0),
        ("n_critic_updates", 0),
        ("max_critic_updates", 2),
        ("critic_tolerance", 0.0),
        ("min_explained_variance", -5.0),
        ("learning_rate", lambda progress: 1e-3),
        ("learning_rate", 0.0),
        ("fisher_chunk_size", 1),
        ("kl_reduction", "joint"),
        ("line_search_max_iter", 1),
    ],
)
def test_the_edges_of_what_is_possible_train(name: str, value: Any) -> None:
    model = make_model(**{"n_steps": 16, name: value})
    model.learn(model.n_steps * 2)
    assert model.last_update.n_updates == 1
    # NumPy's numbers stay out of the report.
    assert UpdateReport.from_json(model.last_update.to_json()) == model.last_update


def test_the_message_is_a_whole_sentence() -> None:
    with pytest.raises(ValueError, match=r"^TRPO: target_kl=-0\.5 is impossible: it must be a finite number > 0$"):
        make_model(target_kl=-0.5)
    with pytest.raises(ValueError, match=r"max_critic_updates=3 .* None or an integer >= n_critic_updates=4$"):
        make_model(n_critic_updates=4, max_critic_updates=3)
    with pytest.raises(ValueError, match=r"one of \[None, 'mean', 'joint'\]"):
        make_model(kl_reduction="sum")


def test_sb3s_own_assertion_stays() -> None:
    with pytest.raises(AssertionError, match="n_steps \\* n_envs"):
        make_model(n_steps=1, n_envs=1)
    env = make_env(n_envs=1)
    with pytest.raises(AssertionError, match="n_steps \\* n_envs"):
        TRPO.load(_saved_with_one_sample(), env=env, normalize_advantage=True)


def _saved_with_one_sample() -> str:
    make_model(n_steps=1, n_envs=1, normalize_advantage=False).save("one.zip")
    return "one.zip"


def test_one_sample_without_normalisation_runs() -> None:
    model = make_model(n_steps=1, n_envs=1, batch_size=1, normalize_advantage=False)
    model.learn(2)
    assert model.last_update.n_samples == 1


def test_sizes_are_checked_before_anything_divides_by_them() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        TRPO("MlpPolicy", "CartPole-v1", batch_size=0)


# ---------------------------------------------------------------- warnings


def warned(**kwargs: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_model(**{"n_critic_updates": 10, "warn_on_risky": True, **kwargs})
    return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


RISKY = {
    "target_kl": (0.04, "target_kl=0.04 allows a joint KL of 0.12"),
    "cg_max_steps": (9, "cg_max_steps=9: fewer than 10"),
    "normalize_advantage": (False, "normalize_advantage=False"),
    "n_critic_updates": (9, "n_critic_updates=9: fewer than 10"),
}


@pytest.mark.parametrize("name", RISKY)
def test_each_risk_is_warned_about_once_and_can_be_silenced(name: str) -> None:
    value, text = RISKY[name]
    messages = warned(**{name: value})
    assert len(messages) == 1
    assert text in messages[0]
    assert "warn_on_risky=False" in messages[0]
    assert warned(**{name: value}, warn_on_risky=False) == []


def test_sound_settings_are_quiet() -> None:
    assert warned() == []
    assert warned(target_kl=0.033, cg_max_steps=10) == []
    assert warned(target_kl=0.1, kl_reduction="joint") == []
    assert warned(target_kl=0.1, action="discrete") == []


def test_the_risk_is_of_the_joint_kl() -> None:
    assert len(warned(target_kl=0.11, kl_reduction="joint")) == 1
    assert len(warned(target_kl=0.11, action="multidiscrete")) == 1
    assert len(warned(target_kl=0.034)) == 1


@pytest.mark.parametrize("action", ["box", "sde_squashed", "multibinary"])
def test_the_unit_is_said_once_where_it_differs(action: str) -> None:
    messages = warned(action=action, kl_reduction=None, target_kl=0.02)
    assert len(messages) == 1
    assert "averaged over the 3 action dimensions" in messages[0]
    assert "is 0.06." in messages[0]
    # It is a notice about meaning, not a risk.
    assert len(warned(action=action, kl_reduction=None, warn_on_risky=False)) == 1
    for unit in ("mean", "joint"):
        assert warned(action=action, kl_reduction=unit) == []


@pytest.mark.parametrize("action", ["discrete", "multidiscrete"])
def test_no_notice_where_both_units_are_one(action: str) -> None:
    assert warned(action=action, kl_reduction=None) == []


def test_no_notice_for_one_dimension() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TRPO("MlpPolicy", "Pendulum-v1", n_steps=128, device="cpu")
    assert model.kl_unit == "mean"


def test_training_warns_of_nothing() -> None:
    model = make_model(kl_reduction=None)
    with warnings.catch_warnings():
        # Ours are UserWarnings; torch deprecates things of its own the first time a process uses them.
        warnings.simplefilter("error", UserWarning)
        model.learn(128)
    assert model.last_update.accepted


# ---------------------------------------------------------------- overrides that would be ignored


class OwnProduct(TRPO):
    def hessian_vector_product(self, params: Any, grad_kl: Any, vector: Any, retain_graph: bool = True) -> Any:
        return vector


class OwnGradient(TRPO):
    def _compute_actor_grad(self, kl_div: Any, policy_objective: Any) -> Any:
        return super()._compute_actor_grad(kl_div, policy_objective)


class Harmless(TRPO):
    def something_else(self) -> None:
        pass


@pytest.mark.parametrize(("cls", "name"), [(OwnProduct, "hessian_vector_product"), (OwnGradient, "_compute_actor_grad")])
def test_an_override_that_would_be_ignored_is_refused(cls: type, name: str) -> None:
    with pytest.raises(TypeError, match=f"{cls.__name__} overrides {name}.*derive from sb3_contrib.TRPO"):
        cls("MlpPolicy", make_env(), n_steps=32, batch_size=32, device="cpu", kl_reduction="mean")


def test_a_subclass_that_overrides_nothing_of_it_is_welcome() -> None:
    model = Harmless("MlpPolicy", make_env(), n_steps=32, batch_size=32, device="cpu", kl_reduction="mean")
    model.learn(64)
    assert model.last_update is not None


def test_the_docstring_names_every_argument() -> None:
    text = TRPO.__doc__
    assert text is not None
    for name in list(inspect.signature(TRPO.__init__).parameters)[1:]:
        assert f":param {name}:" in text
