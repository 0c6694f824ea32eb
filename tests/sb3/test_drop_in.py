"""A drop-in for sb3_contrib.TRPO: the same constructor, start, first rollout and (up to float32) first direction."""

import inspect
from typing import Any

import pytest
import sb3_contrib
import torch
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext import TRPO
from tests.sb3.spaces import Nothing, Witness, collect, make_env, make_model, same, state_of


def test_every_argument_arrives_by_position() -> None:
    values = ["MlpPolicy", make_env(), 2e-3, 16, 8, 0.9, 7, 0.2, 0.5, 4, 3, 0.8, True, 2, None, {}, False, 0.02, 2, 50, None]
    values += [{"net_arch": [4]}, 0, 5, "cpu", True]
    assert len(values) == 26
    with pytest.warns(UserWarning, match="averaged over the 3 action dimensions"):
        model = TRPO(*values)
    names = list(inspect.signature(sb3_contrib.TRPO.__init__).parameters)[1:]
    kept_elsewhere = {"policy", "env", "device", "_init_setup_model", "stats_window_size", "policy_kwargs"}
    kept_elsewhere |= {"rollout_buffer_class"}
    for name, value in zip(names, values, strict=True):
        if name in (
            "policy",
            "env",
            "device",
            "_init_setup_model",
            "stats_window_size",
            "policy_kwargs",
            "rollout_buffer_class",
        ):
            continue
        assert getattr(model, name) == value, name
    assert model._stats_window_size == 50
    assert model.policy_kwargs["net_arch"] == [4]
    assert isinstance(model, sb3_contrib.TRPO)


# ---------------------------------------------------------------- the same seed


class Remember(BaseCallback):
    """Copies of the rollouts, and of the parameters around the first update."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[dict[str, Any]] = []
        self.parameters: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.parameters.append(state_of(self.model)["policy"])

    def _on_rollout_end(self) -> None:
        fields = ("observations", "actions", "rewards", "values", "log_probs", "advantages", "returns")
        buffer = self.model.rollout_buffer
        self.rollouts.append({name: torch.as_tensor(getattr(buffer, name).copy()) for name in fields})


def two_updates(cls: type, env: str, **kwargs: Any) -> Remember:
    memory = Remember()
    settings = {"n_steps": 256, "batch_size": 64, "seed": 3, "device": "cpu", "n_critic_updates": 10, **kwargs}
    cls("MlpPolicy", env, **settings).learn(512, callback=memory)
    return memory


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("use_sde", [False, True])
def test_same_start_same_rollout_same_direction(env: str, use_sde: bool) -> None:
    if use_sde and env == "CartPole-v1":
        kwargs: dict[str, Any] = {"normalize_advantage": False}
    else:
        kwargs = {"use_sde": use_sde}
    theirs = two_updates(sb3_contrib.TRPO, env, **kwargs)
    ours = two_updates(TRPO, env, adaptive_damping=False, max_critic_updates=10, cg_rtol=0.0, warn_on_risky=False, **kwargs)
    assert same(ours.parameters[0], theirs.parameters[0])
    assert same(ours.rollouts[0], theirs.rollouts[0])

    def step(memory: Remember) -> torch.Tensor:
        names = [name for name in memory.parameters[0] if "value" not in name]
        return torch.cat([(memory.parameters[1][n] - memory.parameters[0][n]).flatten() for n in names]).double()

    a, b = step(ours), step(theirs)
    assert float(a.norm()) > 1e-3
    assert float(a.dot(b) / (a.norm() * b.norm())) > 0.999
    # A full step on both sides, so also of the same length.
    assert abs(float(a.norm() / b.norm()) - 1.0) < 1e-2
    # The critic's minibatches are drawn in the same order: the same ten epochs, up to rounding.
    values = [name for name in ours.parameters[1] if "value" in name]
    assert values
    for name in values:
        gap = (ours.parameters[1][name] - theirs.parameters[1][name]).abs().max()
        assert float(gap) < 1e-4, name


def test_another_seed_is_another_start() -> None:
    first, second = (two_updates(TRPO, "Pendulum-v1", seed=seed, warn_on_risky=False) for seed in (3, 4))
    assert not same(first.parameters[0], second.parameters[0])
    assert not same(first.rollouts[0], second.rollouts[0])


def test_same_seed_same_training_bit_for_bit() -> None:
    first, second = (two_updates(TRPO, "Pendulum-v1", warn_on_risky=False) for _ in range(2))
    assert same(first.rollouts, second.rollouts)


# ---------------------------------------------------------------- units


def update_in(kl_reduction: str, action: str, target_kl: float, damping: float, **kwargs: Any) -> Any:
    model = make_model(action, kl_reduction=kl_reduction, target_kl=target_kl, cg_damping=damping, **kwargs)
    collect(model)
    model.witness = Witness(model)
    model.train()
    return model


@pytest.mark.parametrize(("action", "dims"), [("box", 3), ("sde_squashed", 3), ("multibinary", 3), ("discrete", 1)])
def test_joint_units_are_the_mean_ones_times_the_dimensions(action: str, dims: int) -> None:
    mean = update_in("mean", action, 0.01, 0.1)
    joint = update_in("joint", action, dims * 0.01, dims * 0.1)
    assert mean.last_update.accepted
    assert joint.last_update.accepted
    for name, parameter in mean.policy.state_dict().items():
        torch.testing.assert_close(joint.policy.state_dict()[name], parameter, rtol=1e-6, atol=1e-10)
    a, b = mean.last_update, joint.last_update
    assert a.kl_joint == pytest.approx(dims * a.kl, rel=1e-12)
    assert b.kl_joint == pytest.approx(b.kl, rel=1e-12)
    assert a.kl_joint == pytest.approx(b.kl_joint, rel=1e-5)
    assert a.kl_max >= a.kl
    assert (a.kl_reduction, b.kl_reduction) == ("mean", "joint")
    # SB3's divergence is averaged over Box dimensions by .mean(), the report's unit.
    assert mean.witness.broken_promises_of_acceptance() == []


@pytest.mark.parametrize("action", ["discrete", "multidiscrete"])
def test_categoricals_have_one_unit(action: str) -> None:
    first, second = (update_in(unit, action, 0.01, 0.1) for unit in ("mean", "joint"))
    assert same(first.policy.state_dict(), second.policy.state_dict())
    assert first.last_update.kl == first.last_update.kl_joint


def test_other_units_are_another_step() -> None:
    first, second = (update_in(unit, "box", 0.01, 0.1) for unit in ("mean", "joint"))
    assert first.last_update.kl_joint > 2 * second.last_update.kl_joint


# ---------------------------------------------------------------- other settings change what they should


@pytest.mark.parametrize("precision", ["float64", "mixed", "float32"])
def test_every_precision_keeps_the_promises(precision: str) -> None:
    model = update_in("mean", "box", 0.01, 0.1, cg_precision=precision)
    assert model.last_update.cg_precision == precision
    assert model.witness.broken_promises_of_acceptance() == []


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_chunks_change_only_rounding(action: str) -> None:
    whole, cut = (update_in("mean", action, 0.01, 0.1, fisher_chunk_size=size) for size in (None, 7))
    assert whole.last_update.fisher_rung.endswith("retained")
    assert cut.last_update.fisher_rung.endswith("recomputed")
    for name, parameter in whole.policy.state_dict().items():
        torch.testing.assert_close(cut.policy.state_dict()[name], parameter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_sub_sampling_thins_only_the_products(observation: str) -> None:
    # (sb3-contrib can't sub-sample a dict, and judges the step on the sub-sample.)
    settings = {"n_steps": 64, "sub_sampling_factor": 4}
    model = collect(make_model("box", observation, **settings))
    witness = Witness(model)
    model.train()
    assert witness.broken_promises_of_acceptance() == []
    evaluated = model.session.update_inputs.evaluated
    assert float(evaluated.problem.fisher_mean.total) == 32
    assert float(evaluated.problem.surrogate.mean.total) == 128
    again = collect(make_model("box", observation, **settings))
    Witness(again)  # takes from numpy's stream
    again.train()
    assert same(again.policy.state_dict(), model.policy.state_dict())


class HalfWay(Nothing):
    def _on_step(self) -> bool:
        return self.num_timesteps < 40


def test_a_callback_may_stop_in_the_middle_of_a_rollout() -> None:
    model = make_model()
    before = state_of(model)
    model.learn(640, callback=HalfWay())
    assert model.num_timesteps == 40
    assert same(state_of(model), before)
    assert model.last_update is None
