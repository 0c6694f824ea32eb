"""The policy as a function of its parameters: the same numbers, the same Fisher matrix, and the policy left as it was."""

import copy
import warnings
from typing import Any

import pytest
import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_ext import StaleBatchError
from sb3_trpo_ext.core.distributions import DiagonalGaussian
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung
from sb3_trpo_ext.core.ladder import LADDER
from sb3_trpo_ext.core.reduce import WeightedMean
from sb3_trpo_ext.sb3.problem import action_distributions
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution, base_actions, distribution_parameters
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction
from sb3_trpo_ext.sb3.problem.actor_stack import actor_stack
from sb3_trpo_ext.sb3.problem.batch import read_batch
from tests.sb3.spaces import (
    ACTIONS,
    EXTRACTORS,
    AlwaysDropped,
    Attention,
    BatchNormed,
    Frozen,
    InPlaceReLU,
    OnlyFloat32,
    Recurrent,
    TiedWeights,
    ValueNamed,
    Witness,
    collect,
    make_model,
    n_hooks,
    same,
    state_of,
    with_extractor,
)

CPU = torch.device("cpu")
WHOLE = slice(None)


def function_of(model: Any) -> PolicyFunction:
    model.policy.set_training_mode(False)
    batch = read_batch(model.rollout_buffer, model.session.recorder)
    function = PolicyFunction(model.policy, batch.observations, CPU)
    function.own((slice(0, len(batch)),))
    return function


def float64_policy(model: Any) -> ActorCriticPolicy:
    """The real policy in float64, fed with SB3's own float32 preprocessing output."""
    policy = model.policy.double()
    policy.pi_features_extractor.register_forward_hook(lambda _, __, features: features.double())
    return policy


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_phi_in_float64_is_what_the_real_policy_computes_in_float64(action: str, observation: str) -> None:
    model = collect(make_model(action, observation))
    function = function_of(model)
    phi = function(function.theta(torch.float64), WHOLE)
    assert phi.dtype is torch.float64
    with torch.no_grad():
        real = distribution_parameters([model.policy.get_distribution(function.observations).distribution]).double()
        exact = distribution_parameters([float64_policy(model).get_distribution(function.observations).distribution])
    family = action_distribution(model.policy)
    assert float(family.kl(phi, real).abs().max()) < 1e-9
    # Categorical logits are known up to a constant.
    assert float(family.kl(phi, exact).abs().max()) < 1e-15
    assert float(family.kl(exact, phi).abs().max()) < 1e-15


@pytest.mark.parametrize("action", ACTIONS)
def test_log_probabilities_agree_with_the_buffers(action: str) -> None:
    model = collect(make_model(action))
    function = function_of(model)
    batch = read_batch(model.rollout_buffer, model.session.recorder)
    actions, log_prob = base_actions(model.policy, batch.actions, batch.log_prob)
    phi = function(function.theta(torch.float64), WHOLE)
    ours = action_distribution(model.policy).log_prob(phi, actions.double() if actions.is_floating_point() else actions)
    assert ours.shape == log_prob.shape
    assert torch.allclose(ours, log_prob.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("choice", LADDER, ids=lambda choice: choice.name)
def test_the_dense_fisher_is_the_hessian_of_sb3s_own_kl(action: str, choice: Any) -> None:
    model = collect(make_model(action, n_steps=8, n_envs=1, batch_size=8, policy_kwargs={"net_arch": [4]}))
    function = function_of(model)
    mean = WeightedMean(torch.ones(8, dtype=torch.float64), (slice(0, 8),))
    family = action_distribution(model.policy)
    scale = 1.0 / family.independent_dims
    theta = function.theta(torch.float64)
    curvature = Curvature(function, theta, family, scale, mean, actor_stack(function, function.own_phi((WHOLE,))))
    if choice.rung is Rung.CLOSED_FORM and curvature.mlp is None:
        assert action.startswith("sde"), "every other action space of SB3 has a stack"
        return
    operator = FisherOperator(curvature, choice)
    n = sum(part.numel() for part in theta)
    dense = torch.stack([operator.product(unit) for unit in torch.eye(n, dtype=torch.float64)])

    policy = float64_policy(model)
    with torch.no_grad():
        old = copy.copy(policy.get_distribution(function.observations))
    kl = kl_divergence(policy.get_distribution(function.observations), old).mean()
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(kl, function.parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, function.parameters, retain_graph=True, allow_unused=True) for entry in gradient]
    like = function.parameters
    hessian = torch.stack(
        [
            torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(r, like, strict=True)])
            for r in rows
        ]
    )
    assert float(hessian.norm()) > 1e-3
    assert float((dense - hessian).norm()) <= 1e-10 * float(hessian.norm())


def test_gsde_detaches_the_latent_that_makes_the_std() -> None:
    detached = collect(make_model("sde"))
    function = function_of(detached)
    names = {id(p): name for name, p in detached.policy.named_parameters()}

    def what_the_std_depends_on() -> list[str]:
        leaves = tuple(part.requires_grad_() for part in function.theta(torch.float64))
        log_std = function(leaves, WHOLE)[:, 3:]
        gradients = torch.autograd.grad(log_std.sum(), leaves)
        return [names[id(p)] for p, g in zip(function.parameters, gradients, strict=True) if bool((g != 0).any())]

    assert what_the_std_depends_on() == ["log_std"]
    detached.policy.action_dist.learn_features = True
    assert what_the_std_depends_on() == ["log_std", "mlp_extractor.policy_net.0.weight", "mlp_extractor.policy_net.0.bias"]


# ---------------------------------------------------------------- the actor's parameters are found by connection


def names_of_actor(model: Any) -> set[str]:
    wanted = {id(p) for p in function_of(model).parameters}
    return {name for name, p in model.policy.named_parameters() if id(p) in wanted}


def test_parameters_named_value_in_the_actor_are_the_actors() -> None:
    model = collect(with_extractor(ValueNamed))
    names = names_of_actor(model)
    assert "features_extractor.value_of_a_gate.weight" in names
    assert not {name for name in names if name.startswith(("value_net", "mlp_extractor.value_net"))}
    witness = Witness(model)
    model.train()
    assert witness.broken_promises_of_acceptance() == []
    moved = state_of(model)["policy"]["features_extractor.value_of_a_gate.weight"]
    assert not same(moved, witness.state["policy"]["features_extractor.value_of_a_gate.weight"])


def test_frozen_parameters_are_nobodys() -> None:
    model = collect(with_extractor(Frozen))
    assert "features_extractor.first.weight" not in names_of_actor(model)
    frozen = model.policy.features_extractor.first.weight.detach().clone()
    model.train()
    assert model.last_update.accepted
    assert same(model.policy.features_extractor.first.weight.detach(), frozen)


def test_a_tied_parameter_is_one_parameter_in_two_places() -> None:
    model = collect(with_extractor(TiedWeights))
    function = function_of(model)
    tied = model.policy.features_extractor.second.weight
    assert sum(p is tied for p in function.parameters) == 1
    witness = Witness(model)
    model.train()
    assert witness.broken_promises_of_acceptance() == []
    assert model.policy.features_extractor.third.weight is model.policy.features_extractor.second.weight is tied


def test_a_policy_without_a_trainable_actor_is_refused() -> None:
    model = make_model("discrete")
    for parameter in model.policy.parameters():
        parameter.requires_grad_(False)
    collect(model)
    with pytest.raises(ValueError, match="no trainable parameter"):
        model.train()


# ---------------------------------------------------------------- the policy is left as it was


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize("action", ["box", "sde_squashed", "discrete"])
def test_any_extractor_is_updated_and_left_whole(extractor: type, share: bool, action: str) -> None:
    model = collect(with_extractor(extractor, action, share))
    policy = model.policy
    objects = [id(p) for p in policy.parameters()], [id(m) for m in policy.modules()], id(policy.action_dist)
    dist = vars(policy.action_dist).keys()
    witness = Witness(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.train()
    assert witness.broken_promises_of_acceptance() == []
    assert ([id(p) for p in policy.parameters()], [id(m) for m in policy.modules()], id(policy.action_dist)) == objects
    assert vars(policy.action_dist).keys() == dist
    assert "proba_distribution" not in vars(policy.action_dist)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert n_hooks(policy) == 0
    assert model.last_update.cg_precision == "mixed"


@pytest.mark.parametrize("extractor", [Recurrent, BatchNormed, TiedWeights, Attention])
@pytest.mark.parametrize("share", [True, False])
def test_functional_calls_leave_no_foreign_tensor_behind(extractor: type, share: bool) -> None:
    # Regression: a shared extractor under three names was swapped three times, and kept float64 tensors.
    model = collect(with_extractor(extractor, share=share))
    before = state_of(model)
    function = function_of(model)
    with torch.no_grad():
        function(function.theta(torch.float64), WHOLE)
    assert same(state_of(model), before)
    copied = copy.deepcopy(model.policy)
    assert same(copied.state_dict(), before["policy"])
    with torch.no_grad():
        assert copied.get_distribution(function.observations).distribution.loc.dtype is torch.float32


@pytest.mark.parametrize("share", [True, False])
def test_a_recurrent_policy_can_be_copied_after_an_update(share: bool) -> None:
    # torch's recurrent modules keep a second list of their weights.
    model = collect(with_extractor(Recurrent, share=share))
    model.train()
    copied = copy.deepcopy(model.policy)
    assert same(copied.state_dict(), model.policy.state_dict())
    for module in model.policy.modules():
        if isinstance(module, nn.RNNBase):
            assert all(a is b for a, b in zip(module._flat_weights, module.parameters(), strict=True))


def test_batch_norm_acts_as_deployed_and_its_buffers_stay() -> None:
    model = collect(with_extractor(BatchNormed, n_critic_updates=0))
    with torch.no_grad():
        model.policy.features_extractor.norm.running_mean.add_(0.3)
        model.policy.features_extractor.norm.running_var.mul_(2.0)
    collect(model)
    buffers = {name: tensor.clone() for name, tensor in model.policy.named_buffers()}
    witness = Witness(model)
    model.train()
    assert witness.broken_promises_of_acceptance() == []
    assert same(dict(model.policy.named_buffers()), buffers)


class Elsewhere(RuntimeError):
    pass


@pytest.mark.parametrize("place", ["surrogate", "forward", "distribution"])
def test_hooks_and_action_dist_are_put_back_after_an_exception(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_, **__):
        raise Elsewhere

    model = collect(with_extractor(Recurrent))
    before, dist = state_of(model), model.policy.action_dist
    if place == "surrogate":
        monkeypatch.setattr("sb3_trpo_ext.core.objective.Surrogate.slopes", fail)
    elif place == "forward":
        monkeypatch.setattr(type(model.policy.mlp_extractor), "forward_actor", fail)
    else:
        monkeypatch.setattr(action_distributions, "distribution_parameters", fail)
        monkeypatch.setitem(action_distributions._CAPTURES, DiagGaussianDistribution.proba_distribution, fail)
    with pytest.raises(Elsewhere):
        model.train()
    assert n_hooks(model.policy) == 0
    assert model.policy.action_dist is dist
    assert same(state_of(model), before)


# ---------------------------------------------------------------- policies of one's own


class OwnDistribution(ActorCriticPolicy):
    """Builds a distribution that SB3 doesn't know about, with a mean of its own."""

    def get_distribution(self, obs: Any) -> Any:
        latent = self.mlp_extractor.forward_actor(self.extract_features(obs, self.pi_features_extractor))
        built = DiagGaussianDistribution(self.action_dist.action_dim)
        return built.proba_distribution(torch.tanh(self.action_net(latent)), self.log_std)

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        self.action_dist = self.action_dist.proba_distribution(torch.tanh(self.action_net(latent_pi)), self.log_std)
        return self.action_dist


def test_a_policy_that_builds_its_own_distribution() -> None:
    model = make_model()
    custom = type(model)(OwnDistribution, model.env, n_steps=32, batch_size=32, kl_reduction="mean", seed=0, device="cpu")
    collect(custom)
    assert action_distribution(custom.policy) == DiagonalGaussian(3)
    witness = Witness(custom)
    custom.train()
    assert witness.broken_promises_of_acceptance() == []


def test_a_module_for_float32_only_is_run_in_float32_with_a_warning() -> None:
    model = collect(with_extractor(OnlyFloat32))
    witness = Witness(model)
    with pytest.warns(UserWarning, match="float32"):
        model.train()
    assert model.last_update.cg_precision == "float32"
    assert witness.broken_promises_of_acceptance() == []
    collect(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()
    assert model.last_update.cg_precision == "float32"


def test_an_unknown_distribution_is_refused() -> None:
    model = make_model()
    model.policy.action_dist = object()
    with pytest.raises(NotImplementedError, match="KL divergence"):
        action_distribution(model.policy)


def test_an_actor_that_is_not_a_function_is_named_as_such() -> None:
    # Regression: no rung of the Fisher ladder agrees with another, and that error came first.
    model = collect(with_extractor(AlwaysDropped))
    before = state_of(model)
    with pytest.raises(StaleBatchError, match="dropout or noise that ignores eval mode"):
        model.train()
    assert same(state_of(model), before)
    model.on_stale_batch = "skip"
    with pytest.warns(UserWarning, match="dropout or noise that ignores eval mode"):
        model.train()
    assert (model.last_update.status, model.last_update.fisher_rung) == ("stale_batch", "")


class Scripted(InPlaceReLU):
    def build(self) -> None:
        self.net = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_scripted_modules_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"module '.*net' is TorchScript.*plain nn.Module"):
        with_extractor(Scripted)
