"""The on-policy check catches what was not collected by this policy, and nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext import TRPO, StaleBatchError
from tests.sb3.spaces import (
    ACTIONS,
    EXTRACTORS,
    AlwaysDropped,
    BatchStatistics,
    collect,
    make_env,
    make_model,
    n_hooks,
    same,
    state_of,
    with_extractor,
)

SPACES = [*((action, "vector") for action in ACTIONS), ("box", "dict"), ("discrete", "image"), ("box", "image_separate")]


def refused(model: TRPO) -> str:
    """The batch is refused, nothing is changed; gives the message."""
    before = state_of(model)
    with pytest.raises(StaleBatchError) as caught:
        model.train()
    assert same(state_of(model), before)
    assert n_hooks(model.policy) == 0
    return str(caught.value)


def nudge(policy: torch.nn.Module, model: Any) -> None:
    """A step of about one trust region along the actor's own gradient noise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "value" not in name:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


# ---------------------------------------------------------------- fresh batches pass


@pytest.mark.parametrize(("action", "observation"), SPACES)
@pytest.mark.parametrize("n_envs", [1, 2, 8])
def test_fresh_batches_pass(action: str, observation: str, n_envs: int) -> None:
    model = make_model(action, observation, n_envs=n_envs)
    for _ in range(2):
        collect(model).train()
        assert model.last_update.status != "stale_batch"
        assert model.last_update.behaviour_kl_worst < 1e-3 * model.last_update.behaviour_kl_threshold + 1e-9


@pytest.mark.parametrize("action", ["box", "sde_squashed", "sde_thin_expln"])
@pytest.mark.parametrize("n_envs", [1, 8])
def test_fresh_batches_pass_at_a_tiny_std(action: str, n_envs: int) -> None:
    log_std_init = math.log(1e-5) if action == "box" else math.log(1e-3)
    model = make_model(action, n_envs=n_envs, policy_kwargs={"log_std_init": log_std_init})
    collect(model).train()
    assert model.last_update.status != "stale_batch"


def test_clipped_actions_do_not_look_stale() -> None:
    # Actions far outside the box are clipped for the environment, not in the buffer.
    model = make_model(policy_kwargs={"log_std_init": 3.0})
    collect(model).train()
    assert model.last_update.accepted


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_fresh_batches_of_any_extractor_pass_twice(extractor: type) -> None:
    model = with_extractor(extractor, n_envs=8)
    for _ in range(2):
        collect(model).train()
        assert model.last_update.status != "stale_batch"


# ---------------------------------------------------------------- stale ones don't


@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_training_twice_on_one_rollout_is_refused(action: str, observation: str) -> None:
    model = make_model(action, observation)
    for _ in range(4):
        collect(model).train()
        if model.last_update.accepted:
            break
    message = refused(model)
    assert "train() called twice" in message


@pytest.mark.parametrize("action", ["box", "sde", "sde_squashed", "discrete", "multidiscrete", "multibinary"])
def test_the_previous_policys_batch_is_refused_without_recorded_phi_too(action: str) -> None:
    model = collect(make_model(action, n_steps=128))
    model.train()
    assert model.last_update.accepted
    model.session.recorder._steps = {}
    assert "was not collected by the policy" in refused(model)


ROWS = ("observations", "actions", "log_probs")


def stitch(model: Any, older: dict[str, np.ndarray], environment: int) -> None:
    """Replace one environment's rows by an older policy's; the recorder of another process would know nothing of it."""
    for name in ROWS:
        getattr(model.rollout_buffer, name)[:, environment] = older[name][:, environment]


@pytest.mark.parametrize("action", ["box", "sde_squashed", "discrete", "multibinary"])
@pytest.mark.parametrize("recorded", [True, False])
def test_one_stale_environment_of_eight_is_refused_by_name(action: str, recorded: bool) -> None:
    model = collect(make_model(action, n_envs=8, n_steps=64))
    older = {name: getattr(model.rollout_buffer, name).copy() for name in ROWS}
    model.train()
    assert model.last_update.accepted
    collect(model)
    if not recorded:
        model.session.recorder._steps = {}
    stitch(model, older, 5)
    message = refused(model)
    assert "in environment 5, steps" in message


def test_one_stale_environment_hides_in_the_overall_mean_but_not_in_its_cell() -> None:
    model = collect(make_model(n_envs=8, n_steps=64, on_stale_batch="skip"))
    older = {name: getattr(model.rollout_buffer, name).copy() for name in ROWS}
    with torch.no_grad():
        model.policy.action_net.bias.add_(0.006)
    stitch(collect(model), older, 2)
    with pytest.warns(UserWarning, match="environment 2"):
        model.train()
    report = model.last_update
    # Overall it would have passed.
    assert report.behaviour_kl < 1e-3 * model.target_kl < report.behaviour_kl_worst


class ChangesThePolicy(BaseCallback):
    """As a callback that loads weights, or averages them, in the middle of a rollout."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.locals["n_steps"] == self.at:
            nudge(self.model.policy, self.model)
        return True


@pytest.mark.parametrize("action", ["box", "discrete", "sde_squashed"])
@pytest.mark.parametrize("at", [1, 32, 62])
def test_a_policy_that_changes_during_collection_is_refused(action: str, at: int) -> None:
    model = collect(make_model(action, n_steps=64, n_envs=1), ChangesThePolicy(at))
    message = refused(model)
    assert "environment 0, steps" in message


def test_the_message_names_the_steps_before_the_change() -> None:
    model = collect(make_model(n_steps=64, n_envs=1), ChangesThePolicy(7))
    # Steps 0 to 7 are the old policy's: the first of eight blocks.
    assert "environment 0, steps 0 to 7" in refused(model)


def test_a_policy_changed_after_collection_is_refused() -> None:
    model = collect(make_model())
    nudge(model.policy, model)
    assert "was not collected by the policy" in refused(model)


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_another_models_buffer_is_refused(action: str) -> None:
    model = collect(make_model(action))
    other = make_model(action, seed=7)
    other.learn(64)
    collect(other)
    model.rollout_buffer = other.rollout_buffer
    assert "was not collected by the policy" in refused(model)


def test_dropout_that_stays_active_is_refused() -> None:
    assert "dropout" in refused(collect(with_extractor(AlwaysDropped)))


@pytest.mark.parametrize("n_envs", [2, 8])
def test_batch_norm_on_batch_statistics_is_refused(n_envs: int) -> None:
    # SB3 itself evaluates truncated episodes' last observations one by one, which batch statistics refuse.
    env = make_env(n_envs=n_envs, horizon=10**9)
    assert "batch norm" in refused(collect(with_extractor(BatchStatistics, n_envs=n_envs, env=env)))


def test_a_policy_too_deterministic_for_float32_is_told_so() -> None:
    model = make_model(policy_kwargs={"log_std_init": math.log(1e-8)})
    with torch.no_grad():
        model.policy.action_net.bias.fill_(0.7)
    message = refused(collect(model))
    assert "too deterministic for float32" in message
    assert "not collected" not in message


# ---------------------------------------------------------------- on_stale_batch="skip"


def test_skipping_trains_the_critic_counts_and_leaves_the_policy() -> None:
    model = make_model(on_stale_batch="skip")
    collect(model).train()
    assert (model.last_update.status, model.last_update.updates_skipped) == ("accepted", 0)
    damping = model._adapted_damping
    for skipped in (1, 2):
        before = state_of(model)["policy"]
        with pytest.warns(UserWarning, match="policy step skipped: this batch was not collected by the policy"):
            model.train()
        report, after = model.last_update, state_of(model)["policy"]
        assert (report.status, report.updates_skipped, report.kl, report.cg_status) == ("stale_batch", skipped, 0.0, None)
        moved = {name for name in after if not same(after[name], before[name])}
        assert moved == {name for name in after if "value_net" in name}
        assert report.value_loss_after < report.value_loss_before
        assert model._adapted_damping == damping
    collect(model).train()
    assert (model.last_update.status, model.last_update.updates_skipped) == ("accepted", 2)


def test_the_environment_helper_is_reproducible() -> None:
    # The stitched batches above mean something only if equal seeds give equal environments.
    first, second = make_env(), make_env()
    assert np.array_equal(first.reset(), second.reset())
