"""Which rollouts are left to SB3's own loop, why, and that the report says so."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor

from sb3_trpo_ext.sb3.collect.acting import POLICY_METHODS
from sb3_trpo_ext.sb3.collect.rollout import BUFFER_METHODS
from sb3_trpo_ext.sb3.trpo import ACTOR_ALONE
from tests.sb3.spaces import Nothing, collect, make_env, make_model


def sb3_loop(_: dict[str, Any], __: dict[str, Any]) -> bool:
    """A callback of the old kind gets all local variables: SB3's loop must run."""
    return True


def overriding(base: type, name: str) -> type:
    """A subclass with a method of its own, which does what the inherited one does."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(subclass, self), name)(*args, **kwargs)

    subclass = type("Own", (base,), {name: method})
    return subclass


class OwnExtractor(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        class Mine(MlpExtractor):
            pass

        self.mlp_extractor = Mine(self.features_dim, self.net_arch, self.activation_fn, self.device)


class ReadsGet(RolloutBuffer):
    def get(self, batch_size: int | None = None) -> Any:
        return super().get(batch_size)


def with_policy(policy: type) -> Any:
    return type(make_model())(policy, make_env(), n_steps=32, kl_reduction="mean", warn_on_risky=False, seed=0)


def reason(model: Any, callback: Any = None) -> str:
    return collect(model, callback).session.recorder.collection


@pytest.mark.parametrize("name", POLICY_METHODS)
def test_a_policy_with_a_method_of_its_own_is_left_to_sb3(name: str) -> None:
    assert f"its own {name}" in reason(with_policy(overriding(ActorCriticPolicy, name)))
    model = make_model()
    if name != "__call__":
        setattr(model.policy, name, getattr(model.policy, name))
        assert f"its own {name}" in reason(model)


@pytest.mark.parametrize("name", BUFFER_METHODS)
def test_a_buffer_with_a_method_of_its_own_is_left_to_sb3(name: str) -> None:
    assert "Own, collects in its own way" in reason(make_model(rollout_buffer_class=overriding(RolloutBuffer, name)))
    model, calls = make_model(), []
    original = getattr(model.rollout_buffer, name)
    setattr(model.rollout_buffer, name, lambda *args, **kwargs: (calls.append(1), original(*args, **kwargs)))
    assert "collects in its own way" in reason(model)
    assert calls != []


def test_a_buffer_computes_its_own_advantages_and_gives_them_out_as_it_likes() -> None:
    assert reason(make_model(rollout_buffer_class=ReadsGet)) == ACTOR_ALONE
    model, calls = make_model(), []
    original = model.rollout_buffer.compute_returns_and_advantage
    model.rollout_buffer.compute_returns_and_advantage = lambda **kwargs: (calls.append(1), original(**kwargs))
    assert reason(model) == ACTOR_ALONE
    assert calls == [1]


class OwnGaussian(DiagGaussianDistribution):
    pass


def test_parts_of_ones_own_are_left_to_sb3() -> None:
    assert "its own mlp_extractor, Mine" in reason(with_policy(OwnExtractor))
    model = make_model()
    model.policy.action_dist = OwnGaussian(3)
    assert "its own distribution, OwnGaussian" in reason(model)
    model = make_model()
    model.policy.features_extractor = FlattenExtractor(model.observation_space)
    assert "features extractor was replaced" in reason(model)
    model = make_model()
    model.policy.mlp_extractor.forward_actor = model.policy.mlp_extractor.forward_actor
    assert "mlp_extractor has its own forward_actor" in reason(model)
    model = make_model()
    net = model.policy.mlp_extractor.policy_net
    model.policy.mlp_extractor.policy_net = type("Mine", (type(net),), {})(*net)
    assert "its own mlp_extractor" in reason(model)


def test_a_hook_or_a_compiled_module_is_left_to_sb3() -> None:
    model = make_model()
    seen: list[Any] = []
    model.policy.value_net.register_forward_hook(lambda *_: seen.append(1))
    assert "'value_net' has a hook" in reason(model)
    assert len(seen) > model.n_steps
    model = make_model()
    model.policy.action_net._compiled_call_impl = model.policy.action_net._call_impl
    assert "is compiled" in reason(model)


def test_a_rollout_that_does_not_fill_the_buffer_is_left_to_sb3() -> None:
    model = make_model(n_steps=32)
    _, callback = model._setup_learn(64, Nothing())
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)
    assert "does not fill the buffer" in model.session.recorder.collection


def test_a_subclass_with_a_collection_of_its_own_is_left_to_sb3() -> None:
    class Mine(type(make_model())):  # type: ignore[misc]
        def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
            return super().collect_rollouts(*args, **kwargs)

    assert "a subclass" in reason(make_model(cls=Mine, kl_reduction="mean", warn_on_risky=False))


def test_the_report_says_which_loop_ran() -> None:
    model = make_model(n_steps=32)
    model.learn(64)
    assert model.last_update.collection == ACTOR_ALONE
    model.learn(64, callback=sb3_loop)
    assert model.last_update.collection.startswith("SB3's loop: a function")
    assert type(model.last_update).from_json(model.last_update.to_json()) == model.last_update


def test_sb3s_evaluations_need_nothing_more() -> None:
    model = make_model(n_steps=32)
    callback = EvalCallback(make_env(n_envs=1), eval_freq=16, n_eval_episodes=1, verbose=0)
    model.learn(64, callback=callback)
    assert model.last_update.collection == ACTOR_ALONE
    assert callback.evaluations_timesteps == []
    assert callback.last_mean_reward > -np.inf
