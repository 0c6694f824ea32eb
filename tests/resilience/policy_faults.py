"""Faults of the policy: networks, distributions, derivatives."""

from typing import Any

import torch
from torch import Tensor, nn

from sb3_trpo_ext import TRPO
from tests.resilience import networks
from tests.resilience.faults import before, between, group
from tests.sb3 import spaces

NAN = float("nan")


def head(model: Any) -> nn.Module:
    return model.policy.action_net


@torch.no_grad()
def set_log_std(model: Any, value: float) -> None:
    if isinstance(getattr(model.policy, "log_std", None), Tensor):
        model.policy.log_std.fill_(value)


group("Distributions at their limits")


@before("StaleBatchError: the policy is too deterministic for float32|accepted|line_search_failed")
def log_std_of_minus_20(model: Any) -> None:
    """A Gaussian's standard deviation is 2e-9."""
    set_log_std(model, -20.0)


@before("StaleBatchError: the policy is too deterministic for float32|NonFiniteError")
def log_std_of_minus_100(model: Any) -> None:
    """A Gaussian's standard deviation is 4e-44, a denormal."""
    set_log_std(model, -100.0)


@before()
def log_std_of_20(model: Any) -> None:
    """A Gaussian's standard deviation is 5e8."""
    set_log_std(model, 20.0)


@before("NonFiniteError: non-finite")
def log_std_of_100(model: Any) -> None:
    """A Gaussian's standard deviation is infinite in float32."""
    set_log_std(model, 100.0)


@before("StaleBatchError: the policy's distributions can't be compared")
def last_layer_of_1e30(model: Any) -> None:
    """The weights of the last layer are of the size of 1e30: means and logits likewise."""
    with torch.no_grad():
        head(model).weight.mul_(1e30)


class Masked(nn.Linear):
    """A layer whose first output is masked."""

    mask = -torch.inf

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.cat([torch.full_like(logits[:, :1], self.mask), logits[:, 1:]], dim=-1)


class MaskedFinite(Masked):
    mask = -1e30


def _mask(model: Any, kind: type[Masked]) -> None:
    old = head(model)
    if isinstance(old, nn.Linear):
        old.__class__ = kind


@before(action="discrete")
def logits_of_minus_infinity(model: Any) -> None:
    """One action is masked by a logit of minus infinity."""
    _mask(model, Masked)


@before(action="discrete")
def logits_of_minus_1e30(model: Any) -> None:
    """One action is masked by a logit of -1e30."""
    _mask(model, MaskedFinite)


@before(action="discrete")
def one_action_always(model: Any) -> None:
    """The policy is all but certain of one action: every sample has it."""
    with torch.no_grad():
        head(model).bias[0] = 60.0


@before("NonFiniteError: .*'action_net.weight'")
def nan_weight_of_the_actor(model: Any) -> None:
    """A weight of the actor is NaN before it acts."""
    with torch.no_grad():
        head(model).weight[0, 0] = NAN


@between("NonFiniteError: .*'action_net.weight'")
def nan_weight_after_collection(model: Any) -> None:
    """A weight of the actor becomes NaN between collection and update."""
    with torch.no_grad():
        head(model).weight[0, 0] = NAN


@torch.no_grad()
def enlarge(model: Any) -> None:
    """The last layer as a trained policy has it: SB3 begins with weights so small that whatever is before it hardly shows."""
    head(model).weight.mul_(30.0)


group("Networks that are not functions of the observation alone")


@between("StaleBatchError: .*dropout or noise that ignores eval mode", extractor=spaces.AlwaysDropped)
def dropout_in_every_mode(model: Any) -> None:
    """Dropout that ignores eval mode."""


@between("StaleBatchError: .*noise that ignores eval mode", extractor=networks.Noisy)
def random_features(model: Any) -> None:
    """A features extractor that adds noise."""


@between("batch norm|batch sizes", extractor=spaces.BatchStatistics)
def batch_norm_without_running_statistics(model: Any) -> None:
    """Batch norm that always takes the statistics of the batch at hand."""


@before(extractor=spaces.BatchNormed, n_critic_updates=10)
def batch_norm_shared(model: Any) -> None:
    """Batch norm in an extractor that actor and critic share: the critic's epochs run through it."""
    enlarge(model)


@before(extractor=spaces.Dropped)
def dropout_shared(model: Any) -> None:
    """Dropout in an extractor that actor and critic share."""
    enlarge(model)


@before(extractor=networks.Normaliser, n_critic_updates=10)
def normaliser_shared(model: Any) -> None:
    """Running statistics of a user's own, updated in training mode."""
    enlarge(model)


@before("changed while the policy collected", extractor=networks.Drifting, n_critic_updates=10)
def statistics_that_drift_in_every_mode(model: Any) -> None:
    """Running statistics that each evaluation moves a little, in eval mode too."""
    enlarge(model)


@between("zero_variance_advantages", extractor=networks.Drifting, n_critic_updates=10)
def statistics_that_drift_and_no_signal(model: Any) -> None:
    """The same, and every advantage is zero: not a bit may move."""
    model.rollout_buffer.advantages[:] = 0.0


@between(extractor=networks.Counting)
def module_that_counts_its_calls(model: Any) -> None:
    """A buffer that changes at every call, and nothing with it."""


@before(extractor=spaces.ValueNamed, learning_rate=0.03, n_critic_updates=10)
def actor_parameters_named_value(model: Any) -> None:
    """Parameters of the actor whose names sound like the critic's."""
    enlarge(model)


@between(extractor=spaces.TiedWeights)
def tied_parameters(model: Any) -> None:
    """One parameter in two modules."""


@between(extractor=spaces.OnlyFloat32)
def module_for_float32_only(model: Any) -> None:
    """A module that refuses float64."""


@between("TRPO: .*no trainable parameter")
def actor_frozen(model: Any) -> None:
    """Nothing of the actor is to be trained."""
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_("value" in name)


group("Derivatives")

UNUSABLE = "NoWorkingRungError: .*Likely causes: an autograd.Function"


@between(UNUSABLE, extractor=networks.NaNBackward)
def gradient_nan(model: Any) -> None:
    """A module whose backward pass gives NaN."""


@between(UNUSABLE, extractor=networks.InfiniteBackward)
def gradient_infinite(model: Any) -> None:
    """A module whose backward pass gives infinity."""


@between(extractor=networks.FlippedBackward)
def gradient_wrong(model: Any) -> None:
    """A module whose gradient has the wrong sign and size."""


@between(extractor=networks.NegativeCurvature)
def curvature_negative(model: Any) -> None:
    """A module whose double backward has the wrong sign."""


@between(UNUSABLE, extractor=networks.InfiniteCurvature)
def curvature_infinite(model: Any) -> None:
    """A module whose double backward is infinite."""


@between(UNUSABLE, extractor=networks.NaNCurvature)
def curvature_nan(model: Any) -> None:
    """A module whose double backward is NaN."""


@between(extractor=networks.AsymmetricCurvature)
def curvature_asymmetrical(model: Any) -> None:
    """A module whose double backward is no transpose of its backward."""


@between(UNUSABLE, extractor=networks.RandomCurvature)
def curvature_random(model: Any) -> None:
    """A module whose double backward differs each time."""


@between(cg_damping=0.0)
def curvature_singular(model: Any) -> None:
    """Equal observations and no damping: a singular Fisher matrix."""
    observations = model.rollout_buffer.observations
    for array in observations.values() if isinstance(observations, dict) else [observations]:
        array[:] = array[:1, :1]
    for name in ("actions", "log_probs", "values"):
        array = getattr(model.rollout_buffer, name)
        array[:] = array[:1, :1]
    if isinstance(model, TRPO):
        model.session.recorder._steps = {}
