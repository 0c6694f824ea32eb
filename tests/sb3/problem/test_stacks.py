"""Which policies are read as stacks of layers, and that reading them is safe."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_trpo_ext.core.fisher import FisherOperator
from sb3_trpo_ext.core.flat import flatten
from sb3_trpo_ext.core.ladder import LADDER
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, Attention, Witness, collect, make_model


class OwnDistribution(ActorCriticPolicy):
    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        return super()._get_action_dist_from_latent(0.5 * latent_pi)


class OwnExtraction(ActorCriticPolicy):
    """What SB3's ``get_distribution`` passes by."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return super().extract_features(2.0 * obs, features_extractor)


def updated(model: Any) -> Any:
    collect(model)
    model.train()
    return model


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_space_runs_on_the_rung_that_it_can_have(action: str, observation: str) -> None:
    rung = updated(make_model(action, observation)).last_update.fisher_rung
    plain = not action.startswith("sde") and not observation.startswith("image")
    assert rung == ("closed_form/retained" if plain else "double_vjp/retained")


@pytest.mark.parametrize(
    ("kwargs", "closed"),
    [
        ({"activation_fn": nn.ReLU}, True),
        ({"activation_fn": nn.SiLU}, False),
        ({"net_arch": []}, True),
        ({"net_arch": {"pi": [4, 3], "vf": [5]}}, True),
        ({"share_features_extractor": False}, True),
        ({"features_extractor_class": Attention}, False),
    ],
    ids=["relu", "silu", "linear", "pi and vf", "separate extractors", "trainable extractor"],
)
def test_networks(kwargs: dict[str, Any], closed: bool) -> None:
    model = updated(make_model(policy_kwargs=kwargs))
    assert model.last_update.fisher_rung.startswith("closed_form") is closed


@pytest.mark.parametrize(("policy", "closed"), [(OwnDistribution, False), (OwnExtraction, True)])
def test_a_policy_of_ones_own_keeps_what_it_computes(policy: type[ActorCriticPolicy], closed: bool) -> None:
    model = make_model()
    own = type(model)(policy, model.env, n_steps=32, batch_size=32, seed=0, kl_reduction="mean", warn_on_risky=False)
    updated(own)
    assert own.last_update.fisher_rung.startswith("closed_form") is closed
    assert own.last_update.status == "accepted"


@pytest.mark.parametrize("frozen", ["mlp_extractor.policy_net.0.bias", "log_std"])
def test_frozen_parameters_are_left_to_the_general_rungs(frozen: str) -> None:
    model = make_model()
    model.policy.get_parameter(frozen).requires_grad_(False)
    assert updated(model).last_update.fisher_rung == "double_vjp/retained"


def test_a_hook_that_comes_later_is_honoured() -> None:
    model = updated(make_model())
    assert model.last_update.fisher_rung == "closed_form/retained"
    handle = model.policy.mlp_extractor.policy_net[0].register_forward_hook(lambda module, args, output: 0.5 * output)
    assert updated(model).last_update.fisher_rung == "double_vjp/retained"
    assert model.last_update.status == "accepted"
    handle.remove()
    assert updated(model).last_update.fisher_rung == "closed_form/retained", "a monitor that came and went costs nothing"


def test_a_batch_that_is_cut_later_keeps_no_graphs() -> None:
    model = updated(make_model())
    model.fisher_chunk_size = 20
    assert updated(model).last_update.fisher_rung == "closed_form/recomputed"
    model.fisher_chunk_size = None
    assert updated(model).last_update.fisher_rung == "closed_form/retained"
    assert model.last_update.notes == ()


@pytest.mark.parametrize("action", ["box", "discrete", "multidiscrete", "multibinary"])
def test_closed_form_and_plain_autograd_agree_on_a_whole_batch(action: str) -> None:
    model = updated(make_model(action))
    linearised = model.session.update_inputs.evaluated.problem.linearised
    other = FisherOperator(linearised.curvature, LADDER[-1])
    vector = torch.randn(sum(part.numel() for part in linearised.curvature.theta), dtype=torch.float64)
    torch.testing.assert_close(linearised.product(vector), other.product(vector), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(linearised.phi(), other.phi(), rtol=1e-12, atol=1e-14)


def test_nothing_is_kept_for_the_products_after_the_update() -> None:
    """The next rollout is collected while ``last_update_inputs`` is alive: its graphs may be a GiB."""
    model = updated(make_model())
    assert not model.session.update_inputs.evaluated.problem.linearised._kept


# ---------------------------------------------------------------- the bound holds for the policy, not for what was read


class Scaled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * super().forward(x)


class Plain(nn.Module):
    """The same network, but no Sequential."""

    def __init__(self, net: nn.Sequential):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def scale_the_latent(model: Any) -> None:
    extractor = model.policy.mlp_extractor
    honest = extractor.forward_actor
    extractor.forward_actor = lambda features: 4.0 * honest(features)


def put_in(module: type[nn.Module]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        net = model.policy.mlp_extractor.policy_net
        model.policy.mlp_extractor.policy_net = Scaled(*net) if module is Scaled else Plain(net)

    return change


def share_the_std(*shape: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.policy.log_std = nn.Parameter(torch.full(shape, -0.3))

    return change


CHANGES: dict[str, Callable[[Any], None]] = {
    "forward_actor": scale_the_latent,
    "subclass": put_in(Scaled),
    "no Sequential": put_in(Plain),
    "std of shape (1,)": share_the_std(1),
    "std of shape ()": share_the_std(),
    "std of shape (1, 3)": share_the_std(1, 3),
}


@pytest.mark.parametrize("preconditioner", ["none", "kfac"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_reported_kl_is_the_policys_own(change: Callable[[Any], None], preconditioner: str) -> None:
    """With a last layer of zeros every network gives the same phi: values alone can't tell them apart."""
    model = make_model(cg_damping=1e-6, target_kl=0.2, cg_preconditioner=preconditioner, n_steps=128)
    nn.init.zeros_(model.policy.action_net.weight)
    change(model)
    witness = Witness(collect(model))
    model.train()
    assert (model.last_update.status, model.last_update.fisher_rung) == ("accepted", "double_vjp/retained")
    assert witness.broken_promises_of_acceptance() == []


def test_what_the_ladder_refutes_does_not_judge_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the reading itself be deceived, the derivative is not, and then nothing of the stack is used."""
    monkeypatch.setattr("sb3_trpo_ext.sb3.problem.actor_stack.ACTOR_METHODS", ())
    model = make_model(cg_damping=1e-6, target_kl=0.2, n_steps=128)
    nn.init.zeros_(model.policy.action_net.weight)
    scale_the_latent(model)
    monkeypatch.setattr("sb3_trpo_ext.sb3.problem.actor_stack.agree", lambda read, told: True)
    witness = Witness(collect(model))
    model.train()
    assert model.last_update.fisher_rung == "double_vjp/retained"
    assert "closed_form/retained: its first and third product differs" in model.last_update.notes[0]
    assert witness.broken_promises_of_acceptance() == []


@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_features_beyond_the_memory_bound_are_made_again_each_time(observation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = updated(make_model(observation=observation))
    monkeypatch.setattr("sb3_trpo_ext.sb3.problem.actor_stack.FEATURES_LIMIT", 4 * 64 * 6 - 1)
    made = updated(make_model(observation=observation))
    assert made.last_update.fisher_rung == "closed_form/retained"
    inputs = [model.session.update_inputs.evaluated.problem.linearised.curvature.mlp.inputs for model in (kept, made)]
    assert isinstance(getattr(inputs[0], "__self__", None), Tensor)
    assert getattr(inputs[1], "__self__", None) is None
    rows = torch.tensor([3, 63, 7])
    assert torch.equal(inputs[0](rows), inputs[1](rows))
    steps = [
        flatten(part.detach() for part in model.session.update_inputs.evaluated.problem.parameters) for model in (kept, made)
    ]
    assert torch.equal(*steps)
