"""The closed form of a critic's epochs: taken exactly where it is what the policy does, and then with the same results."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core.critic import CriticResult, CriticSettings
from sb3_trpo_ext.core.value_regression import ValueRegression
from sb3_trpo_ext.sb3.problem import actor_stack as stacks
from sb3_trpo_ext.sb3.problem import critic, critic_stack
from sb3_trpo_ext.sb3.problem.batch import read_batch
from sb3_trpo_ext.sb3.problem.critic import Critic
from sb3_trpo_ext.sb3.problem.evaluation import evaluate_batch
from tests.sb3.spaces import InPlaceReLU, collect, make_env, make_model, same, state_of, with_extractor


def critic_of(model: Any) -> Critic:
    model.policy.set_training_mode(False)
    batch = read_batch(model.rollout_buffer, model.session.recorder)
    return Critic(model.policy, batch, model.rollout_buffer, model.batch_size, evaluate_batch(model.policy, batch, 1.0, None))


def regression_of(model: Any) -> ValueRegression | None:
    ours = critic_of(model)
    return critic_stack.value_regression(model.policy, ours.parameters, ours.batch, ours.batch_size)


def with_policy(**policy_kwargs: Any) -> Any:
    return make_model(policy_kwargs=policy_kwargs)


PLAIN: dict[str, Callable[[], Any]] = {
    "plain": make_model,
    "discrete": partial(make_model, "discrete"),
    "gSDE": partial(make_model, "sde"),
    "dict": partial(make_model, "discrete", "dict"),
    "two layers": partial(with_policy, net_arch=[8, 7]),
    "no hidden layer": partial(with_policy, net_arch={"pi": [8], "vf": []}),
    "other sizes than the actor": partial(with_policy, net_arch={"pi": [8], "vf": [5, 6, 7]}),
    "ReLU": partial(with_policy, activation_fn=nn.ReLU),
    "ELU": partial(with_policy, activation_fn=nn.ELU),
    "separate extractors without parameters": partial(with_policy, share_features_extractor=False),
    "AdamW": partial(with_policy, optimizer_class=torch.optim.AdamW),
    "SGD": partial(with_policy, optimizer_class=torch.optim.SGD),
    "a truncated minibatch": partial(make_model, batch_size=24),
    "one minibatch": partial(make_model, batch_size=64),
}


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_a_plain_critic_is_read(make: Callable[[], Any]) -> None:
    assert regression_of(collect(make())) is not None


# ---------------------------------------------------------------- what is not read


class DoubledValues(ActorCriticPolicy):
    def predict_values(self, obs: Any) -> torch.Tensor:
        return 2.0 * super().predict_values(obs)


class OwnLatents(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        class Scaled(MlpExtractor):
            def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
                return 3.0 * super().forward_critic(features)

        self.mlp_extractor = Scaled(self.features_dim, self.net_arch, self.activation_fn, self.device)


class DroppedObservations(FlattenExtractor):
    """Without parameters, and yet another function in training mode."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(observations), 0.5, self.training)


class HouseAdam(torch.optim.Adam):
    pass


class HouseBuffer(RolloutBuffer):
    def get(self, batch_size: int | None = None) -> Any:
        return super().get(batch_size)


def changed(change: Callable[[ActorCriticPolicy], Any], **kwargs: Any) -> Callable[[], Any]:
    def make() -> Any:
        model = make_model(**kwargs)
        change(model.policy)
        return model

    return make


def with_class(policy_class: type[ActorCriticPolicy]) -> Any:
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "seed": 0, "device": "cpu"}
    return TRPO(policy_class, make_env(), **settings, kl_reduction="mean", warn_on_risky=False)


def tie(policy: ActorCriticPolicy) -> None:
    net = policy.mlp_extractor.value_net
    net[4].weight = net[2].weight


OTHERS: dict[str, Callable[[], Any]] = {
    "predict_values of a subclass": partial(with_class, DoubledValues),
    "latents of a subclass": partial(with_class, OwnLatents),
    "predict_values of the instance": changed(lambda p: setattr(p, "predict_values", p.predict_values)),
    "forward_critic of the instance": changed(
        lambda p: setattr(p.mlp_extractor, "forward_critic", p.mlp_extractor.forward_critic)
    ),
    "hook on the head": changed(lambda p: p.value_net.register_forward_hook(lambda *a: None)),
    "hook on a layer": changed(lambda p: p.mlp_extractor.value_net[0].register_forward_pre_hook(lambda *a: None)),
    "hook on the net": changed(lambda p: p.mlp_extractor.value_net.register_full_backward_hook(lambda *a: None)),
    "hook on the extractor": changed(
        lambda p: next(p.vf_features_extractor.children()).register_forward_hook(lambda *a: None)
    ),
    "hook on a gradient": changed(lambda p: p.value_net.weight.register_hook(lambda g: g.clamp(-1.0, 1.0))),
    "hook after a gradient": changed(lambda p: p.value_net.bias.register_post_accumulate_grad_hook(lambda p: None)),
    "another module": changed(lambda p: setattr(p, "value_net", nn.Sequential(p.value_net))),
    "frozen layer": changed(lambda p: p.value_net.weight.requires_grad_(False)),
    "tied layers": changed(tie, policy_kwargs={"net_arch": [8, 8, 8]}),
    "an activation without closed form": partial(with_policy, activation_fn=nn.GELU),
    "CNN": partial(make_model, "discrete", "image"),
    "CNN of its own": partial(make_model, "discrete", "image_separate"),
    "shared trainable extractor": partial(with_extractor, InPlaceReLU),
    "separate trainable extractor": partial(with_extractor, InPlaceReLU, share=False),
    "dropout without parameters": partial(with_extractor, DroppedObservations, share=False),
    "an optimiser of a user's": partial(with_policy, optimizer_class=HouseAdam),
    "SB3's RMSprop": partial(with_policy, optimizer_class=RMSpropTFLike),
    "a buffer of a user's": partial(make_model, rollout_buffer_class=HouseBuffer),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_anything_else_keeps_autograd(make: Callable[[], Any]) -> None:
    model = collect(make())
    assert regression_of(model) is None
    assert critic_of(model).fit(CriticSettings(2, 4)).epochs >= 2


def test_a_hook_on_all_modules_is_seen_in_the_values() -> None:
    ours = critic_of(collect(make_model()))
    doubling = nn.modules.module.register_module_forward_hook(
        lambda module, _, output: 2.0 * output if type(module) is nn.Linear else None
    )
    with contextlib.ExitStack() as stack:
        stack.callback(doubling.remove)
        assert critic_stack.value_regression(ours.policy, ours.parameters, ours.batch, 32) is None
    assert critic_stack.value_regression(ours.policy, ours.parameters, ours.batch, 32) is not None


def test_another_precision_than_the_features_keeps_autograd() -> None:
    model = collect(make_model())
    ours = critic_of(model)
    for net in (model.policy.value_net, model.policy.mlp_extractor.value_net):
        net.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert critic_stack.value_regression(model.policy, ours.parameters, ours.batch, 32) is None


def test_features_that_are_too_large_are_made_by_the_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = collect(make_model())
    size = 64 * 6 * 4
    for limit, read in ((size, True), (size - 1, False)):
        monkeypatch.setattr(stacks, "FEATURES_LIMIT", limit)
        assert (regression_of(model) is not None) is read


# ---------------------------------------------------------------- the same results


def both(
    make: Callable[[], Any], settings: CriticSettings, patch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, CriticResult, Any]]:
    """The model after its critic has been fitted, the result, and numpy's stream: in closed form, then by autograd."""
    for closed in (True, False):
        model = collect(make())
        ours = critic_of(model)
        with patch.context() as context:
            if not closed:
                context.setattr(critic, "value_regression", lambda *_: None)
            np.random.seed(3)  # noqa: NPY002
            result = ours.fit(settings)
        assert ours.loss() == result.loss_after
        yield model, result, np.random.get_state()[1:3]  # noqa: NPY002


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_an_epoch_leads_to_the_same_parameters(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (one, ours, stream), (two, theirs, other_stream) = both(make, CriticSettings(1, 1), monkeypatch)
    moved, expected = (nn.utils.parameters_to_vector(model.policy.parameters()).detach() for model in (one, two))
    assert float((moved - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    for name in ("loss_before", "loss_after", "mean_minibatch_loss"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-5), name
    assert (ours.status, ours.epochs) == (theirs.status, theirs.epochs)
    assert all(np.array_equal(a, b) for a, b in zip(stream, other_stream, strict=True))


@pytest.mark.parametrize(
    ("settings", "learning_rate"),
    [(CriticSettings(3, 6), 30.0), (CriticSettings(2, 5, 0.0), 1e-3), (CriticSettings(2, 8, 0.9), 1e-3)],
    ids=["more epochs", "tolerance", "tolerance that stops"],
)
def test_as_many_epochs(settings: CriticSettings, learning_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    make = partial(make_model, learning_rate=learning_rate)
    (_, ours, _), (_, theirs, _) = both(make, settings, monkeypatch)
    assert (ours.status, ours.epochs) == (theirs.status, theirs.epochs)


def test_a_loss_that_becomes_non_finite_is_undone() -> None:
    model = collect(make_model(learning_rate=1e30))
    assert regression_of(model) is not None
    before = state_of(model)
    ours = critic_of(model)
    result = ours.fit(CriticSettings(3, 6))
    assert result.status == "non_finite"
    assert same(state_of(model)["policy"], before["policy"])
    assert same(state_of(model)["optimizer"]["state"], before["optimizer"]["state"])
    assert ours.loss() == result.loss_after == result.loss_before, "not what was predicted before it was undone"


def test_the_values_afterwards_are_predicted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = collect(make_model())
    ours = critic_of(model)
    calls = []
    honest = ActorCriticPolicy.predict_values

    def counted(self: ActorCriticPolicy, obs: Any) -> torch.Tensor:
        calls.append(len(obs))
        return honest(self, obs)

    monkeypatch.setattr(ActorCriticPolicy, "predict_values", counted)
    ours.fit(CriticSettings(3, 3))
    assert calls.count(64) == 2, "before and after"
    values = ours.values()
    assert calls.count(64) == 2
    monkeypatch.undo()
    with torch.no_grad():
        assert same(values, model.policy.predict_values(ours.batch.observations).flatten())


def test_hooks_of_the_optimiser_see_every_step_and_its_gradients() -> None:
    model = collect(make_model())
    seen = []
    model.policy.optimizer.register_step_pre_hook(lambda *_: seen.append(float(model.policy.value_net.bias.grad)))
    critic_of(model).fit(CriticSettings(3, 3))
    assert len(seen) == len(set(seen)) == 3 * 2


def test_sb3_contrib_reads_and_trains_what_was_trained_so() -> None:
    model = make_model()
    model.learn(128)
    model.save("ours.zip")
    theirs = sb3_contrib.TRPO.load("ours.zip", env=make_env(), device="cpu")
    assert same(state_of(theirs), state_of(model))
    theirs.learn(64)
