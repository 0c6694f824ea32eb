"""The critic: trained for long enough, in SB3's order, and without moving anything that the actor runs through."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sb3_trpo_ext.core.critic import CriticSettings
from sb3_trpo_ext.core.flat import Snapshot
from sb3_trpo_ext.sb3.problem.batch import read_batch
from sb3_trpo_ext.sb3.problem.critic import Critic
from sb3_trpo_ext.sb3.problem.evaluation import evaluate_batch
from tests.sb3.spaces import BatchNormed, Dropped, InPlaceReLU, ValueNamed, collect, make_model, same, state_of, with_extractor


def critic_of(model: Any) -> Critic:
    model.policy.set_training_mode(False)
    batch = read_batch(model.rollout_buffer, model.session.recorder)
    evaluated = evaluate_batch(model.policy, batch, model.hyperparameters().kl_scale, None)
    return Critic(model.policy, batch, model.rollout_buffer, model.batch_size, evaluated)


def moved_by_the_critic(model: Any) -> set[str]:
    critic, before = critic_of(model), state_of(model)["policy"]
    critic.fit(CriticSettings(4, 4))
    model.policy.set_training_mode(False)
    after = state_of(model)["policy"]
    return {name for name in after if not same(after[name], before[name])}


@pytest.mark.parametrize("extractor", [BatchNormed, Dropped, InPlaceReLU, ValueNamed])
def test_a_shared_extractor_is_not_moved(extractor: type) -> None:
    model = collect(with_extractor(extractor))
    moved = moved_by_the_critic(model)
    assert moved == {name for name in model.policy.state_dict() if name.startswith(("value_net", "mlp_extractor.value_net"))}


@pytest.mark.parametrize("action", ["box", "sde", "discrete"])
def test_the_actors_distributions_are_the_same_bits(action: str) -> None:
    model = collect(with_extractor(BatchNormed, action))
    observations = read_batch(model.rollout_buffer, model.session.recorder).observations

    def phi() -> Any:
        distribution = model.policy.get_distribution(observations).distribution
        return (
            [distribution.logits.detach()]
            if action == "discrete"
            else [distribution.loc.detach(), distribution.scale.detach()]
        )

    before = phi()
    critic_of(model).fit(CriticSettings(4, 4))
    model.policy.set_training_mode(False)
    assert same(phi(), before)


@pytest.mark.parametrize("extractor", [BatchNormed, ValueNamed])
def test_a_separate_extractor_is_trained(extractor: type) -> None:
    model = collect(with_extractor(extractor, share=False))
    moved = moved_by_the_critic(model)
    critics = ("value_net", "mlp_extractor.value_net", "vf_features_extractor")
    assert moved == {name for name in model.policy.state_dict() if name.startswith(critics)}
    if extractor is BatchNormed:
        assert "vf_features_extractor.norm.running_mean" in moved


def test_dropout_is_active_only_where_the_critic_is_alone() -> None:
    for share, active in ((True, False), (False, True)):
        model = collect(with_extractor(Dropped, share=share))
        critic = critic_of(model)
        losses = critic._minibatch_losses()
        next(losses)
        assert model.policy.vf_features_extractor.drop.training is active
        assert model.policy.pi_features_extractor.drop.training is False


def test_the_loss_leaves_no_gradient_on_the_actor() -> None:
    model = collect(with_extractor(InPlaceReLU))
    critic = critic_of(model)
    loss = next(iter(critic._minibatch_losses()))
    loss.backward(inputs=critic.parameters)
    assert {id(p) for p in model.policy.parameters() if p.grad is not None} == {id(p) for p in critic.parameters}


# ---------------------------------------------------------------- how long


def test_the_epochs_are_enforced() -> None:
    for epochs in (1, 3):
        model = collect(make_model(n_critic_updates=epochs))
        model.train()
        assert model.last_update.critic_epochs == epochs
        assert model.last_update.critic_status == "improved"
        assert model.last_update.value_loss_after < model.last_update.value_loss_before


@pytest.mark.parametrize(("most", "expected"), [(None, 6), (3, 3), (5, 5)])
def test_more_epochs_while_the_loss_is_not_below_where_it_began(most: int | None, expected: int) -> None:
    model = collect(make_model(n_critic_updates=3, max_critic_updates=most))
    model.lr_schedule = lambda _: 30.0
    model.train()
    report = model.last_update
    assert (report.critic_status, report.critic_epochs) == ("did_not_converge", expected)
    assert report.value_loss_after >= report.value_loss_before


@pytest.mark.parametrize(("tolerance", "expected"), [(None, 2), (0.0, 12), (0.99, 2)])
def test_the_tolerance_goes_on_while_an_epoch_pays(tolerance: float | None, expected: int) -> None:
    model = collect(make_model(n_critic_updates=2, max_critic_updates=12, critic_tolerance=tolerance, n_steps=64))
    model.train()
    assert model.last_update.critic_epochs == expected


def test_the_reported_losses_are_the_whole_batchs() -> None:
    model = collect(make_model(learning_rate=1e-2))
    batch = read_batch(model.rollout_buffer, model.session.recorder)

    def loss() -> float:
        with torch.no_grad():
            values = model.policy.predict_values(batch.observations).flatten()
        return float(torch.nn.functional.mse_loss(values, batch.returns))

    before = loss()
    model.train()
    assert math.isclose(model.last_update.value_loss_before, before, rel_tol=1e-5)
    assert math.isclose(model.last_update.value_loss_after, loss(), rel_tol=1e-5)
    assert model.last_update.value_loss_after < 0.999 * before


def test_no_critic_epochs() -> None:
    model = collect(make_model(n_critic_updates=0))
    optimizer = state_of(model)["optimizer"]
    model.train()
    report = model.last_update
    assert (report.critic_status, report.critic_epochs, report.value_loss) == ("not_run", 0, None)
    assert same(state_of(model)["optimizer"], optimizer)


def test_low_explained_variance_trains_only_the_critic() -> None:
    model = collect(make_model(min_explained_variance=0.999))
    before = state_of(model)["policy"]
    model.train()
    after, report = state_of(model)["policy"], model.last_update
    assert (report.status, report.updates_skipped, report.cg_status) == ("low_explained_variance", 1, None)
    assert {name for name in after if not same(after[name], before[name])} == {n for n in after if "value" in n}
    # contrib's own number
    from stable_baselines3.common.utils import explained_variance

    buffer = model.rollout_buffer
    theirs = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
    assert math.isclose(report.explained_variance, theirs, rel_tol=1e-5)


def test_an_explained_variance_that_is_enough_steps() -> None:
    model = collect(make_model(min_explained_variance=-1e6))
    model.train()
    assert model.last_update.accepted


# ---------------------------------------------------------------- SB3's order


@pytest.mark.parametrize("batch_size", [24, 32, 64])
@pytest.mark.parametrize(("action", "observation"), [("box", "vector"), ("discrete", "dict")])
def test_minibatches_come_in_sb3s_own_order(batch_size: int, action: str, observation: str) -> None:
    model = collect(make_model(action, observation, batch_size=batch_size))
    critic = critic_of(model)
    np.random.seed(3)  # noqa: NPY002
    ours = [(observations, returns) for _ in range(2) for observations, returns in critic._minibatches()]
    after_ours = np.random.get_state()[1:3]  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    theirs = [data for _ in range(2) for data in model.rollout_buffer.get(batch_size)]
    after_theirs = np.random.get_state()[1:3]  # noqa: NPY002
    assert len(ours) == len(theirs)
    for (observations, returns), data in zip(ours, theirs, strict=True):
        assert same(observations, data.observations)
        assert same(returns, data.returns)
    assert all(np.array_equal(a, b) for a, b in zip(after_ours, after_theirs, strict=True))


def test_a_plan_that_trained_the_actor_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # The planted bug: everything that the values depend on counts as the critic's.
    honest = Critic._own_parameters
    monkeypatch.setattr(Critic, "_own_parameters", lambda self, _: honest(self, set()))
    assert not any(name.startswith("features_extractor") for name in moved_by_the_critic(collect(with_extractor(InPlaceReLU))))
    # Seen without the last line of defence, which puts the actor back in any case.
    monkeypatch.setattr(Snapshot, "restore", lambda self: None)
    assert any(name.startswith("features_extractor") for name in moved_by_the_critic(collect(with_extractor(InPlaceReLU))))


class Shrinking(torch.optim.Adam):
    """Touches every parameter it holds, with or without a gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.99)


def test_an_optimizer_that_touches_everything_does_not_move_the_actor() -> None:
    model = collect(make_model(policy_kwargs={"optimizer_class": Shrinking, "net_arch": [8]}))
    moved = moved_by_the_critic(model)
    assert moved
    assert all("value" in name for name in moved)
