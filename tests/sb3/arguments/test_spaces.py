"""One update in every space: accepted => verified by SB3's own distributions; rejected => bit-identical. And planted bugs."""

from dataclasses import replace

import pytest
import torch

from sb3_trpo_ext.core import line_search, update
from sb3_trpo_ext.core.line_search import LineSearchStatus
from sb3_trpo_ext.core.objective import Surrogate
from sb3_trpo_ext.core.reduce import WeightedMean
from sb3_trpo_ext.core.status import TrialStatus
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, Witness, collect, make_model, n_hooks

SPACES = [(action, observation) for action in ACTIONS for observation in OBSERVATIONS if not observation.startswith("image")]
SPACES += [
    (action, observation)
    for action in ("box", "sde", "sde_squashed", "discrete", "multidiscrete", "multibinary")
    for observation in ("image", "image_separate")
]


def scale_steps(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    honest = update.step_scale

    def scaled(*args, **kwargs):
        found = honest(*args, **kwargs)
        return None if found is None else replace(found, scale=factor * found.scale)

    monkeypatch.setattr(update, "step_scale", scaled)


@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_an_accepted_step_keeps_its_promises(action: str, observation: str) -> None:
    model = make_model(action, observation)
    # With gSDE on a network that it shares with the mean, SB3's detached latent makes some gradients no ascent at all.
    for _ in range(4 if action.startswith("sde") else 1):
        witness = Witness(collect(model))
        model.train()
        if model.last_update.accepted:
            break
    assert witness.broken_promises_of_acceptance() == []
    assert model.last_update.kl > 0.1 * model.target_kl
    assert n_hooks(model.policy) == 0


@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_a_rejected_step_leaves_every_bit(action: str, observation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_steps(monkeypatch, 1e6)
    model = collect(make_model(action, observation, line_search_max_iter=2, n_critic_updates=0))
    witness = Witness(model)
    model.train()
    assert model.last_update.status == "line_search_failed"
    assert len(model.last_update.trial_statuses) == model.last_update.line_search_backtracks == 2
    assert witness.broken_promises_of_rejection() == []


@pytest.mark.parametrize("action", ["box", "sde_squashed", "discrete", "multibinary"])
def test_a_step_that_is_too_long_is_shortened(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_steps(monkeypatch, 3.0)
    model = collect(make_model(action))
    witness = Witness(model)
    model.train()
    assert model.last_update.line_search_backtracks > 0
    assert witness.broken_promises_of_acceptance() == []


# ---------------------------------------------------------------- the checkers catch planted bugs


def _accept_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_steps(monkeypatch, 3.0)
    monkeypatch.setattr(line_search, "judge", lambda *_: TrialStatus.ACCEPTED)


def _accept_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_steps(monkeypatch, -0.5)
    monkeypatch.setattr(line_search, "judge", lambda *_: TrialStatus.ACCEPTED)


def _noisy_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = update.assign
    monkeypatch.setattr(
        update, "assign", lambda live, values: honest(live, [value + 3e-3 * torch.randn_like(value) for value in values])
    )


def _half_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Surrogate.evaluate

    def evaluate(self, theta):
        half = WeightedMean(self.mean.weights, (slice(0, len(self.mean.weights) // 2),))
        return honest(replace(self, mean=half), theta)

    monkeypatch.setattr(Surrogate, "evaluate", evaluate)


@pytest.mark.parametrize("bug", [_accept_everything, _accept_descent, _noisy_assignment, _half_the_batch])
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_the_checker_of_accepted_steps_catches(bug, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    model = collect(make_model(action))
    witness = Witness(model)
    model.train()
    assert witness.broken_promises_of_acceptance() != []


def test_the_checker_of_rejected_steps_catches_a_candidate_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_steps(monkeypatch, 1e6)
    model = collect(make_model(line_search_max_iter=2, n_critic_updates=0))

    def forgetful(start, step, deploy, evaluate, settings):
        result = line_search.backtrack(start, step, deploy, evaluate, settings)
        assert result.status is LineSearchStatus.REJECTED
        # One unit in the last place of one weight is enough to be noticed.
        weight = model.policy.action_net.weight.data
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(2.0))
        return result

    monkeypatch.setattr(update, "backtrack", forgetful)
    witness = Witness(model)
    model.train()
    assert witness.broken_promises_of_rejection() == ["action_net.weight moved"]
