"""Faults of the rollout: what is in the buffer, and whose it is."""

from typing import Any

import numpy as np
import torch

from sb3_trpo_ext import TRPO
from tests.resilience.faults import between, during, group, poison
from tests.sb3.spaces import collect

NAN, INF = float("nan"), float("inf")

group("Numbers that are not finite")


@between("NonFiniteError: non-finite rewards .* environment 1, step 9")
def nan_reward(model: Any) -> None:
    """One reward is NaN."""
    poison(model, "rewards", NAN)


@between("NonFiniteError: non-finite rewards .* environment 1, step 9")
def infinite_reward(model: Any) -> None:
    """One reward is infinite."""
    poison(model, "rewards", INF)


@between("NonFiniteError: non-finite rewards")
def every_reward_nan(model: Any) -> None:
    """Every reward is NaN."""
    poison(model, "rewards", NAN, slice(None))


@between("NonFiniteError: non-finite observations")
def nan_observation(model: Any) -> None:
    """One observation holds a NaN."""
    observations = model.rollout_buffer.observations
    for array in observations.values() if isinstance(observations, dict) else [observations]:
        if array.dtype.kind == "f":
            array[9, 1] = NAN


@between("NonFiniteError: non-finite observations")
def infinite_observation(model: Any) -> None:
    """One observation is minus infinity."""
    observations = model.rollout_buffer.observations
    for array in observations.values() if isinstance(observations, dict) else [observations]:
        if array.dtype.kind == "f":
            array[9, 1] = -INF


@between("NonFiniteError: non-finite actions .* environment 1, step 9")
def nan_action(model: Any) -> None:
    """One action in the buffer is NaN."""
    poison(model, "actions", NAN)


@between("NonFiniteError: non-finite values .* environment 1, step 9")
def nan_value(model: Any) -> None:
    """One value in the buffer is NaN."""
    poison(model, "values", NAN)


@between("NonFiniteError: non-finite log_prob .* environment 1, step 9")
def nan_log_prob(model: Any) -> None:
    """One log-probability in the buffer is NaN."""
    poison(model, "log_probs", NAN)


@between("NonFiniteError: non-finite log_prob")
def impossible_action(model: Any) -> None:
    """One action has log-probability minus infinity."""
    poison(model, "log_probs", -INF)


@between("NonFiniteError: non-finite advantages .* environment 1, step 9")
def nan_advantage(model: Any) -> None:
    """One advantage is NaN."""
    poison(model, "advantages", NAN)


@between("NonFiniteError: non-finite returns .* environment 1, step 9")
def infinite_return(model: Any) -> None:
    """One return is infinite."""
    poison(model, "returns", INF)


@between("NonFiniteError: non-finite advantages")
def rewards_that_overflow_when_summed(model: Any) -> None:
    """Every reward is finite, 3e38, and their sum is not."""
    poison(model, "rewards", 3e38, slice(None))


group("Batches of another policy")


@between("StaleBatchError: this batch was not collected by the policy")
def trained_twice(model: Any) -> None:
    """``train`` is called twice on one rollout."""
    for _ in range(3):
        model.train()
        if getattr(model, "last_update", None) is None or model.last_update.accepted:
            return
        collect(model)


ROWS = ("observations", "actions", "log_probs")


def stitch(model: Any, environments: Any) -> None:
    """Rows of the policy before this one in place of some environments'."""
    older = [{key: value.copy() for key, value in arrays_of(model, name)} for name in ROWS]
    model.train()
    collect(model)
    for name, arrays in zip(ROWS, older, strict=True):
        for key, array in arrays_of(model, name):
            array[:, environments] = arrays[key][:, environments]
    if isinstance(model, TRPO):
        model.session.recorder._steps = {}


def arrays_of(model: Any, name: str) -> list[tuple[str, np.ndarray]]:
    found = getattr(model.rollout_buffer, name)
    return list(found.items()) if isinstance(found, dict) else [(name, found)]


@between("StaleBatchError: .* in environment 5", n_envs=8, n_steps=64)
def one_environment_of_eight_a_version_old(model: Any) -> None:
    """A worker lags: one environment of eight was collected by the policy before."""
    stitch(model, 5)


@between("StaleBatchError: ", n_steps=64)
def whole_batch_a_version_old(model: Any) -> None:
    """All of the batch was collected by the policy before."""
    stitch(model, slice(None))


def nudge(model: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))


@between("StaleBatchError: ")
def policy_changed_after_collection(model: Any) -> None:
    """A callback averages weights, say, between collection and update."""
    nudge(model)


@during("StaleBatchError: .* in environment")
def policy_changed_during_collection(model: Any) -> None:
    """A callback changes the weights in the middle of a rollout."""
    nudge(model)


@during("StaleBatchError: .* in environment")
def weights_loaded_during_collection(model: Any) -> None:
    """A callback loads other weights in the middle of a rollout."""
    state = {
        name: tensor + 0.05 if tensor.is_floating_point() else tensor for name, tensor in model.policy.state_dict().items()
    }
    model.policy.load_state_dict(state)


@between("StaleBatchError: ")
def optimiser_stepped_by_the_user(model: Any) -> None:
    """Somebody steps the optimiser with a loss of his own between collection and update."""
    model.policy.train(False)
    for _ in range(50):
        model.policy.optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in model.policy.parameters() if parameter.requires_grad).backward()
        model.policy.optimizer.step()


@between("StaleBatchError: ")
def buffer_of_another_model(model: Any) -> None:
    """The buffer was filled by another model."""
    generator = np.random.default_rng(0)
    for _, array in arrays_of(model, "actions"):
        array[:] = generator.permuted(array, axis=0)


@between("StaleBatchError: ")
def observations_shuffled(model: Any) -> None:
    """A callback sorts observations, and not what belongs to them."""
    for _, array in arrays_of(model, "observations"):
        array[:] = array[::-1].copy()


@between("StaleBatchError: ")
def log_probabilities_of_clipped_actions(model: Any) -> None:
    """A wrapper has corrected actions and not their log-probabilities."""
    model.rollout_buffer.log_probs += 0.3


@between("TRPO: the rollout buffer is not full")
def partial_rollout(model: Any) -> None:
    """The rollout was ended by a callback, and ``train`` is called all the same."""
    model.rollout_buffer.reset()
    model.rollout_buffer.pos = 5
