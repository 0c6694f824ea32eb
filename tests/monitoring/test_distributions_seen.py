"""What histograms are made of: recomputed from what the update itself has reported."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring import distributions_seen as module
from sb3_trpo_ext.monitoring.distributions_seen import distributions_seen
from tests.monitoring.scenarios import Small

SPACES = [
    spaces.Box(-1.0, 1.0, (2,)),
    spaces.Box(-1.0, 1.0, (1,)),
    spaces.Discrete(3),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(2),
]


def reward(_: Any, action: np.ndarray) -> float:
    return float(np.sum(action))


def trained(action_space: spaces.Space, **settings: Any) -> TRPO:
    env = Small(reward, action_space=action_space)
    model = TRPO("MlpPolicy", env, n_steps=128, kl_reduction="joint", seed=0, device="cpu", **settings)
    model.subscribe(Diagnostic.ACTIVITY)
    return model.learn(256)


@pytest.mark.parametrize("action_space", SPACES, ids=str)
def test_ratios_and_advantages_give_the_objective_that_was_reported(action_space: spaces.Space) -> None:
    model = trained(action_space)
    seen = distributions_seen(model, model.last_update)
    advantages, ratios = seen["histograms/advantages"], seen["histograms/importance_ratios"]
    assert len(advantages) == len(ratios) == 128
    normalised = (advantages - advantages.mean()) / advantages.std(ddof=1)
    assert model.last_update is not None
    assert np.mean(normalised * ratios) == pytest.approx(model.last_update.policy_objective, abs=1e-5)
    assert model.last_update.policy_objective > 1e-3


def test_a_step_that_was_not_taken_has_no_ratios() -> None:
    model = trained(SPACES[0], min_explained_variance=0.99)
    assert set(distributions_seen(model, model.last_update)) == {
        "histograms/advantages",
        "histograms/inactive_units/actor",
        "histograms/inactive_units/critic",
    }


def test_no_more_than_so_many_samples_from_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(SPACES[2])
    monkeypatch.setattr(module, "SAMPLES", 5)
    few = distributions_seen(model, model.last_update)
    assert len(few["histograms/importance_ratios"]) == 5
    assert model.session.update_inputs is not None
    everything = model.session.update_inputs.batch.advantages.numpy()
    assert list(few["histograms/advantages"]) == [float(everything[row]) for row in (0, 32, 64, 95, 127)]


def test_before_the_first_update_there_is_nothing() -> None:
    assert distributions_seen(TRPO("MlpPolicy", "CartPole-v1", device="cpu"), None) == {}
