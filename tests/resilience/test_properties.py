"""
Random models, settings and faults, several at once: the invariants hold. ``test_planted_bugs`` shows what the checker finds;
the bugs below show that these properties reach far enough to find it.
"""

import dataclasses
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sb3_trpo_ext.core import critic, update
from sb3_trpo_ext.sb3 import hyperparameters, trpo
from sb3_trpo_ext.sb3.integrity import guard
from tests.resilience.faults import FAULTS, Fault, Outcome, run
from tests.resilience.networks import DEFAULT, OTHERS, Config
from tests.resilience.table import fault_names
from tests.resilience.training_faults import MovesEverything

TRAIN_THEMSELVES = (
    "trained_twice",
    "one_environment_of_eight_a_version_old",
    "whole_batch_a_version_old",
    "optimiser_stepped_by_the_user",
)
COMBINED = [
    name
    for name in fault_names()
    if FAULTS[name].stage == "between" and FAULTS[name].extractor is None and name not in TRAIN_THEMSELVES
]
HARMLESS_ALONE = [name for name in COMBINED if FAULTS[name].tells is None or "accepted" in (FAULTS[name].tells or "")]

HARD_ON_THE_CRITIC = ["critic_that_overflows", "return_of_1e19", "learning_rate_of_1e30"]


@dataclasses.dataclass
class Scenario:
    """A model, its settings, and what happens to it between collection and update; hypothesis can shrink it."""

    config: Config
    faults: list[str]
    settings: dict[str, Any]

    def happen(self) -> Outcome:
        def do(model: Any) -> None:
            for name in self.faults:
                FAULTS[name].do(model)

        kwargs = self.settings.pop("policy_kwargs", None)
        combined = Fault(do, "between", "", None, theirs=ZeroDivisionError)
        return run(combined, config=self.config, policy_kwargs=kwargs or {}, **self.settings)


def scenarios(names: list[str], most: int) -> st.SearchStrategy[Scenario]:
    return st.builds(
        Scenario,
        config=st.sampled_from([DEFAULT, *OTHERS]),
        faults=st.lists(st.sampled_from(names), max_size=most, unique=True),
        settings=st.fixed_dictionaries(
            {
                "seed": st.integers(0, 1000),
                "n_envs": st.sampled_from([2, 5]),
                "n_steps": st.sampled_from([16, 33]),
                "target_kl": st.sampled_from([1e-4, 0.01, 1.0]),
                "cg_damping": st.sampled_from([1e-6, 0.1]),
                "cg_max_steps": st.sampled_from([1, 5, 25]),
                "line_search_max_iter": st.sampled_from([1, 10]),
                "normalize_advantage": st.booleans(),
                "sub_sampling_factor": st.sampled_from([1, 4]),
                "learning_rate": st.sampled_from([0.0, 1e-3, 1.0]),
                "n_critic_updates": st.sampled_from([0, 2]),
                "batch_size": st.sampled_from([8, 64]),
                "kl_reduction": st.sampled_from(["mean", "joint"]),
                "cg_precision": st.sampled_from(["mixed", "float64", "float32"]),
                "cg_preconditioner": st.sampled_from(["none", "kfac"]),
                "on_stale_batch": st.sampled_from(["raise", "skip"]),
                "fisher_chunk_size": st.sampled_from([None, 7]),
            }
        ),
    )


def held(outcome: Outcome) -> None:
    assert outcome.broken == [], outcome.said


def search(names: list[str], most: int, examples: int) -> list[Outcome]:
    seen: list[Outcome] = []

    @settings(max_examples=examples)
    @given(scenario=scenarios(names, most))
    def property_test(scenario: Scenario) -> None:
        seen.append(scenario.happen())
        held(seen[-1])

    property_test()
    return seen


def test_sound_updates_of_any_kind_keep_the_invariants() -> None:
    seen = search(HARMLESS_ALONE, 2, 15)
    # Or it would be true of nothing.
    assert sum(outcome.error is None and outcome.model.last_update.accepted for outcome in seen) > 4


def test_faults_together_keep_the_invariants() -> None:
    seen = search(COMBINED, 3, 20)
    assert sum(outcome.error is not None for outcome in seen) > 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sound_updates_of_any_kind_keep_the_invariants_at_length() -> None:
    seen = search(HARMLESS_ALONE, 3, 500)
    assert sum(outcome.error is None and outcome.model.last_update.accepted for outcome in seen) > 125


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_faults_together_keep_the_invariants_at_length() -> None:
    seen = search(COMBINED, 4, 500)
    assert sum(outcome.error is not None for outcome in seen) > 50


# ---------------------------------------------------------------- planted bugs


def _subsample_only(patch: pytest.MonkeyPatch) -> None:
    honest = update.search_along
    patch.setattr(
        update,
        "search_along",
        lambda direction, surrogate, problem, how: honest(
            direction, dataclasses.replace(surrogate, mean=problem.fisher_mean), problem, how
        ),
    )


def _bound_of_twice_the_size(patch: pytest.MonkeyPatch) -> None:
    honest = update.backtrack
    patch.setattr(
        update,
        "backtrack",
        lambda start, step, deploy, evaluate, limits: honest(
            start, 2.0 * step, deploy, evaluate, dataclasses.replace(limits, max_kl=2.0 * limits.max_kl)
        ),
    )


def _critic_not_guarded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(critic, "_finite_state", lambda _: True)
    patch.setattr(critic.Snapshot, "restore", lambda self: None)


def _nothing_restored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard.Held, "restore", lambda self, policy: None)


def _nothing_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hyperparameters, "refuse_impossible", lambda _: None)
    patch.setattr(trpo, "refuse_impossible_update", lambda *_: None)
    patch.setattr(trpo, "refuse_non_finite_rollout", lambda *_: None)


@pytest.mark.parametrize(
    ("bug", "names"),
    [
        (_subsample_only, HARMLESS_ALONE),
        (_bound_of_twice_the_size, HARMLESS_ALONE),
        (_critic_not_guarded, HARD_ON_THE_CRITIC),
        (_nothing_restored, COMBINED),
        (_nothing_refused, COMBINED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_properties_find_a_planted_bug(bug: Any, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)

    @settings(max_examples=60, phases=[Phase.generate], report_multiple_bugs=False)
    @given(scenario=scenarios(names, 3))
    def property_test(scenario: Scenario) -> None:
        held(scenario.happen())

    with pytest.raises(AssertionError):
        property_test()


def test_an_optimiser_that_moves_everything_moves_no_actor() -> None:
    kwargs = {"optimizer_class": MovesEverything}
    for config in (Config("discrete", "vector", "odd names"), Config("sde", "vector", "shared trunk")):
        held(Scenario(config, [], {"policy_kwargs": kwargs}).happen())
