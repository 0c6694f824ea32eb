"""Nothing non-finite reaches the optimiser, and whatever raises leaves policy and optimiser bit for bit."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import TRPO, NonFiniteError, UpdateReport
from sb3_trpo_ext.sb3 import trpo
from sb3_trpo_ext.sb3.problem import critic
from sb3_trpo_ext.sb3.update.run_log import RunLog
from tests.sb3.spaces import (
    BOX,
    VECTOR,
    BatchNormed,
    RandomEnv,
    collect,
    make_env,
    make_model,
    n_hooks,
    same,
    state_of,
    with_extractor,
)

BAD = [float("nan"), float("inf"), float("-inf")]


def experienced(**kwargs: Any) -> Any:
    """A model whose Adam has a history, with a fresh rollout."""
    model = collect(make_model(n_steps=16, **kwargs))
    model.train()
    assert model.policy.optimizer.state_dict()["state"]
    return collect(model)


def unchanged(model: Any, error: type[BaseException], match: str | None, run: Callable[[], Any] | None = None) -> None:
    before = state_of(model)
    grads = [parameter.requires_grad for parameter in model.policy.parameters()]
    with pytest.raises(error, match=match):
        (run or model.train)()
    assert same(state_of(model), before)
    assert [parameter.requires_grad for parameter in model.policy.parameters()] == grads
    assert all(parameter.grad is None for parameter in model.policy.parameters())
    assert n_hooks(model.policy) == 0


# ---------------------------------------------------------------- at collection


class BreaksAt(RandomEnv):
    """One environment of several gives something bad at one step."""

    def __init__(self, rank: int, bad: float, at: int, what: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.rank, self.bad, self.at, self.what = rank, bad, at, what

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        if self.rank == 1 and self.step_count == self.at:
            if self.what == "reward":
                reward = self.bad
            elif isinstance(observation, dict):
                observation["body"][2] = self.bad
            else:
                observation[2] = self.bad
        return observation, reward, False, False, info


def breaking_env(bad: float, at: int, what: str, observation_space: spaces.Space = VECTOR) -> Any:
    shared = {"bad": bad, "at": at, "what": what, "observation_space": observation_space, "action_space": BOX}
    return DummyVecEnv([lambda rank=rank: BreaksAt(rank, **shared) for rank in range(3)])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [1, 7])
def test_a_bad_observation_is_stopped_before_it_reaches_the_network(bad: float, at: int) -> None:
    model = make_model(n_steps=16, batch_size=48, env=breaking_env(bad, at, "observation"))
    seen = []
    model.policy.features_extractor.register_forward_hook(lambda _, args, __: seen.append(bool(torch.isfinite(args[0]).all())))
    before = state_of(model)
    with pytest.raises(NonFiniteError, match=rf"non-finite observations.* environment 1, step {at - 1} \(1 affected\)"):
        model.learn(48)
    assert all(seen)
    assert same(state_of(model), before)
    assert sum(len(m._forward_pre_hooks) for m in model.policy.modules()) == 0


def test_a_bad_observation_in_a_dict_is_named_by_its_key() -> None:
    space = spaces.Dict({"body": VECTOR, "mode": spaces.Discrete(3)})
    model = make_model("box", "dict", n_steps=16, batch_size=48, env=breaking_env(float("nan"), 3, "observation", space))
    with pytest.raises(NonFiniteError, match=re.escape("observations['body'][2]") + ".*environment 1, step 2"):
        model.learn(48)


@pytest.mark.parametrize("bad", BAD)
def test_the_last_observation_is_checked_too(bad: float) -> None:
    model = make_model(n_steps=16, batch_size=48, env=breaking_env(bad, 16, "observation"))
    unchanged(model, NonFiniteError, "non-finite observations.* environment 1, step 15", lambda: collect(model))


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_reward_is_named_not_what_it_poisons(bad: float) -> None:
    model = make_model(n_steps=16, batch_size=48, env=breaking_env(bad, 5, "reward"))
    # The reward after action 4.
    unchanged(model, NonFiniteError, r"non-finite rewards .* environment 1, step 4 \(1 affected\)", lambda: collect(model))


def test_a_float64_observation_beyond_float32_is_refused() -> None:
    space = spaces.Box(-np.inf, np.inf, (6,), np.float64)
    model = make_model(n_steps=16, batch_size=48, env=breaking_env(1e300, 3, "observation", space))
    before = state_of(model)
    with pytest.raises(NonFiniteError, match=r"observations.* environment 1, step 2"):
        model.learn(48)
    assert same(state_of(model), before)


# ---------------------------------------------------------------- in the buffer and in the parameters


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "values", "log_probs", "advantages", "returns"])
def test_anything_bad_in_the_buffer_is_named(field: str, bad: float) -> None:
    model = experienced(n_envs=2)
    array = getattr(model.rollout_buffer, field)
    array[9, 1] = bad
    name = {"log_probs": "log_prob"}.get(field, field)
    unchanged(model, NonFiniteError, rf"non-finite {name} .*environment 1, step 9 \(1 affected\)")


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["log_std", "value_net.weight", "mlp_extractor.policy_net.0.bias"])
def test_a_bad_parameter_is_named_before_the_update(name: str, bad: float) -> None:
    model = experienced()
    with torch.no_grad():
        dict(model.policy.named_parameters())[name].view(-1)[0] = bad
    unchanged(model, NonFiniteError, f"parameter '{name}'")


@pytest.mark.parametrize("action", ["box", "discrete", "sde", "multibinary"])
def test_a_bad_parameter_is_named_before_it_acts(action: str) -> None:
    model = make_model(action)
    with torch.no_grad():
        model.policy.action_net.weight[0, 0] = torch.nan
    unchanged(model, NonFiniteError, "parameter 'action_net.weight'", lambda: collect(model))


# ---------------------------------------------------------------- a critic that explodes


@pytest.mark.parametrize("experience", [False, True])
def test_an_exploding_critic_is_restored_and_the_policy_step_stays(experience: bool) -> None:
    model = experienced() if experience else collect(make_model())
    model.lr_schedule = lambda _: 1e30
    before = state_of(model)
    model.train()
    after, report = state_of(model), model.last_update
    assert report.critic_status == "non_finite"
    assert report.value_loss is None
    assert report.value_loss_after == report.value_loss_before
    assert report.accepted
    moved = {name for name in after["policy"] if not same(after["policy"][name], before["policy"][name])}
    assert moved
    assert not any("value" in name for name in moved)
    assert same(after["optimizer"]["state"], before["optimizer"]["state"])


def test_an_exploding_critics_batch_norm_is_restored_too() -> None:
    # Regression: its running statistics stayed NaN, and the next update refused the policy.
    model = collect(with_extractor(BatchNormed, share=False))
    model.lr_schedule = lambda _: 1e30
    before = {name: tensor.clone() for name, tensor in model.policy.named_buffers()}
    model.train()
    assert model.last_update.critic_status == "non_finite"
    assert same(dict(model.policy.named_buffers()), before)
    model.lr_schedule = lambda _: 1e-3
    collect(model).train()
    assert model.last_update.critic_status == "improved"


# ---------------------------------------------------------------- whatever raises, wherever


class Bug(Exception):
    pass


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def _in_fit_critic(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    patch.setattr(critic, "fit_critic", _raise(error))


def _in_a_later_optimizer_step(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    honest, calls = model.policy.optimizer.step, []

    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return _raise(error)() if len(calls) == 2 else honest(*args, **kwargs)

    patch.setattr(model.policy.optimizer, "step", step)


def _after_assigning(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    honest = trpo.update_policy

    def interrupted(*args: Any) -> Any:
        assert honest(*args).accepted
        raise error

    patch.setattr(trpo, "update_policy", interrupted)


def _while_assigning(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    from sb3_trpo_ext.core import update

    def half(parameters: Any, values: Any) -> Any:
        parameters[0].data.copy_(values[0])
        raise error

    patch.setattr(update, "assign", half)


def _in_the_last_prediction(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    patch.setattr(trpo, "explained_variance", _raise(error))


def _while_reporting(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    patch.setattr(trpo, "report_of", _raise(error))


def _while_writing(patch: pytest.MonkeyPatch, model: Any, error: BaseException) -> None:
    # Not a full disk, which is only warned about.
    patch.setattr(RunLog, "write", _raise(error))


@pytest.mark.parametrize(
    "where",
    [
        _while_reporting,
        _while_writing,
        _in_fit_critic,
        _in_a_later_optimizer_step,
        _after_assigning,
        _while_assigning,
        _in_the_last_prediction,
    ],
)
@pytest.mark.parametrize("error", [Bug(), KeyboardInterrupt(), RuntimeError("CUDA error: out of memory")], ids=repr)
@pytest.mark.parametrize("experience", [False, True])
def test_everything_is_restored(
    where: Callable[..., None], error: BaseException, experience: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = experienced() if experience else collect(make_model(n_steps=16))
    report, damping, n_updates = model.last_update, model._adapted_damping, model._n_updates
    with monkeypatch.context() as patch:
        where(patch, model, error)
        unchanged(model, type(error), None)
    assert (model.last_update, model._adapted_damping, model._n_updates) == (report, damping, n_updates)
    # And the very same batch can still be used.
    model.train()
    assert model.last_update.accepted


def test_batch_norm_statistics_and_training_mode_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = collect(with_extractor(BatchNormed, share=False))
    _in_a_later_optimizer_step(monkeypatch, model, Bug())
    unchanged(model, Bug, None)
    assert not any(module.training for module in model.policy.modules())


def test_a_divergence_beyond_float64_still_makes_a_report() -> None:
    model = make_model(on_stale_batch="skip", policy_kwargs={"log_std_init": -40.0})
    with torch.no_grad():
        model.policy.action_net.bias.fill_(0.7)
    with pytest.warns(UserWarning, match="too deterministic"):
        collect(model).train()
    assert UpdateReport.from_json(model.last_update.to_json()) == model.last_update


# ---------------------------------------------------------------- nothing to learn from


def test_equal_advantages_give_no_step_and_say_so() -> None:
    model = collect(make_model(n_critic_updates=0))
    model.rollout_buffer.advantages[:] = 0.25
    before = state_of(model)
    model.train()
    assert model.last_update.status == "zero_variance_advantages"
    assert same(state_of(model)["policy"], before["policy"])
    assert model.last_update.cg_status is None


@pytest.mark.parametrize("reward_scale", [1e-6, 1e6])
def test_the_scale_of_rewards_does_not_matter(reward_scale: float) -> None:
    model: TRPO = collect(make_model(env=make_env(reward_scale=reward_scale)))
    model.train()
    assert model.last_update.accepted


def test_a_zero_gradient_gives_no_step_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_trpo_ext.core.objective import Surrogate

    honest = Surrogate.slopes
    monkeypatch.setattr(Surrogate, "slopes", lambda *args: torch.zeros_like(honest(*args)))
    model = collect(make_model(n_critic_updates=0))
    before = state_of(model)
    model.train()
    assert (model.last_update.status, model.last_update.grad_norm) == ("zero_gradient", 0.0)
    assert same(state_of(model)["policy"], before["policy"])
