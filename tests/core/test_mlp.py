"""A stack of layers in closed form, against dense references and against the general rungs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sb3_trpo_ext.core import mlp
from sb3_trpo_ext.core.distributions import ActionDistribution, DiagonalGaussian
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import Parameters, flatten
from sb3_trpo_ext.core.ladder import choose_rung
from sb3_trpo_ext.core.layers import activation_of, read_layers
from sb3_trpo_ext.core.mlp import MLPActor
from sb3_trpo_ext.core.reduce import Rows, WeightedMean, chunked
from tests.core.problems import FAMILIES, dense_jacobian, dense_metric, n_phi

CLOSED = RungChoice(Rung.CLOSED_FORM, retained=True)
GENERAL = RungChoice(Rung.DOUBLE_BACKWARD, retained=False)
ACTIVATIONS: dict[str, nn.Module] = {
    "tanh": nn.Tanh(),
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "sigmoid": nn.Sigmoid(),
    "elu": nn.ELU(),
    "elu 0.3": nn.ELU(0.3),
    "leaky": nn.LeakyReLU(0.1),
}
N = 7

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
every_family = pytest.mark.parametrize("distribution", FAMILIES.values(), ids=FAMILIES.keys())


def places_of(modules: list[nn.Module]) -> dict[int, int]:
    return {id(parameter): place for place, parameter in enumerate(nn.Sequential(*modules).parameters())}


def curvature_of(
    modules: list[nn.Module], distribution: ActionDistribution, n: int = N, dtype: torch.dtype = torch.float64
) -> Curvature:
    """A stack whose Gaussians have a free log std as the last of its parameters."""
    net = nn.Sequential(*modules).to(dtype)
    theta = tuple(parameter.detach() for parameter in net.parameters())
    layers = read_layers(modules, places_of(modules))
    assert layers is not None
    gaussian = isinstance(distribution, DiagonalGaussian)
    if gaussian:
        theta = (*theta, torch.randn(distribution.independent_dims, dtype=dtype))
    observations = torch.randn(n, 3, dtype=torch.float64)

    def actor(theta: Parameters, rows: Rows) -> Tensor:
        weights = theta[:-1] if gaussian else theta
        names = [name for name, _ in net.named_parameters()]
        out = torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (observations[rows].to(theta[0]),))
        return torch.cat([out, theta[-1].expand(len(out), -1)], dim=-1) if gaussian else out

    stack = MLPActor(layers, len(theta) - 1 if gaussian else None, observations.__getitem__)
    mean = WeightedMean(torch.rand(n, dtype=torch.float64), chunked(n, n))
    return Curvature(actor, theta, distribution, 0.5, mean, stack)


def hidden(activation: nn.Module, n_out: int, bias: bool = True) -> list[nn.Module]:
    return [nn.Linear(3, 5, bias=bias), activation, nn.Linear(5, 4), activation, nn.Linear(4, n_out, bias=bias)]


def outputs(distribution: ActionDistribution) -> int:
    return distribution.dims if isinstance(distribution, DiagonalGaussian) else n_phi(distribution)


def dense_fisher(curvature: Curvature) -> Tensor:
    jacobian = dense_jacobian(curvature.actor, curvature.theta, slice(None))
    metric = torch.stack([dense_metric(curvature.distribution, row) for row in curvature.actor(curvature.theta, slice(None))])
    weights = curvature.mean.weights / curvature.mean.weights.sum()
    return curvature.scale * torch.einsum("s,sip,sij,sjq->pq", weights, jacobian, metric, jacobian)


def columns(operator: FisherOperator, n: int) -> Tensor:
    return torch.stack([operator.product(unit) for unit in torch.eye(n, dtype=torch.float64)], dim=-1)


@every_activation
@every_family
def test_products_are_those_of_the_dense_matrix(distribution: ActionDistribution, activation: nn.Module) -> None:
    curvature = curvature_of(hidden(activation, outputs(distribution)), distribution)
    dense = dense_fisher(curvature)
    torch.testing.assert_close(columns(FisherOperator(curvature, CLOSED), len(dense)), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("modules", ["linear", "no bias", "activation at the end", "identity"])
def test_every_stack_that_is_read(modules: str, retained: bool) -> None:
    family = FAMILIES["categorical"]
    stack = {
        "linear": [nn.Linear(3, 4)],
        "no bias": hidden(nn.Tanh(), 4, bias=False),
        "activation at the end": [nn.Linear(3, 4), nn.Sigmoid()],
        "identity": [nn.Identity(), nn.Linear(3, 2), nn.Identity(), nn.ReLU(), nn.Linear(2, 4)],
    }[modules]
    curvature = curvature_of(list(stack), family)
    dense = dense_fisher(curvature)
    operator = FisherOperator(curvature, RungChoice(Rung.CLOSED_FORM, retained))
    torch.testing.assert_close(columns(operator, len(dense)), dense, rtol=1e-10, atol=1e-12)


@every_activation
def test_phi_and_gradient_are_those_of_autograd(activation: nn.Module) -> None:
    curvature = curvature_of(hidden(activation, 3), FAMILIES["gaussian"])
    slopes = torch.randn(N, 6, dtype=torch.float64)
    closed, general = (FisherOperator(curvature, choice) for choice in (CLOSED, GENERAL))
    torch.testing.assert_close(closed.phi(), general.phi(), rtol=1e-14, atol=1e-15)
    one, two = (operator.gradient(slopes.__getitem__) for operator in (closed, general))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    kept = slopes.clone()
    closed.gradient(slopes.__getitem__)
    assert torch.equal(slopes, kept), "what is pulled back is not the caller's to lose"


@given(n=st.integers(1, 12), block=st.integers(0, 12), size=st.integers(1, 12), seed=st.integers(0, 1000))
def test_blocks_and_chunks_change_nothing(n: int, block: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    curvature = curvature_of(hidden(nn.Tanh(), 2), FAMILIES["squashed"], n)
    curvature = replace(curvature, mean=WeightedMean(curvature.mean.weights, chunked(n, size)))
    vector = torch.randn(sum(part.numel() for part in curvature.theta), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "BLOCK_BYTES", block * 5 * 8)
        operator = FisherOperator(curvature, CLOSED)
        products = [operator.product(vector) for _ in range(3)]
    reference = FisherOperator(curvature, GENERAL).product(vector)
    torch.testing.assert_close(products[0], reference, rtol=1e-10, atol=1e-13)
    assert torch.equal(products[0], products[2]), "a buffer that is written again holds nothing of before"


def test_float32_products_are_those_of_float64_to_its_rounding() -> None:
    curvature = curvature_of(hidden(nn.Tanh(), 3), FAMILIES["gaussian"], 200)
    vector = torch.randn(sum(part.numel() for part in curvature.theta), dtype=torch.float64)
    exact = FisherOperator(curvature, CLOSED).product(vector)
    rounded = FisherOperator(replace(curvature, theta=tuple(part.float() for part in curvature.theta)), CLOSED)
    assert rounded.dtype is torch.float32
    assert float((rounded.product(vector) - exact).norm() / exact.norm()) < 1e-6


def test_the_parameters_are_not_touched() -> None:
    curvature = curvature_of(hidden(nn.ReLU(inplace=True), 3), FAMILIES["gaussian"])
    before = flatten(curvature.theta).clone()
    operator = FisherOperator(curvature, CLOSED)
    operator.product(before)
    operator.gradient(lambda rows: torch.ones(N, 6, dtype=torch.float64))
    assert torch.equal(flatten(curvature.theta), before)


# ---------------------------------------------------------------- reading, and the ladder


def hooked() -> list[nn.Module]:
    modules = hidden(nn.Tanh(), 4)
    modules[0].register_forward_hook(lambda module, args, output: 2.0 * output)
    return modules


def overridden() -> list[nn.Module]:
    modules = hidden(nn.Tanh(), 4)
    honest = modules[0].forward
    modules[0].forward = lambda x: 2.0 * honest(x)  # type: ignore[method-assign]
    return modules


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


UNREADABLE = {
    "hook": hooked,
    "overridden forward": overridden,
    "subclass": lambda: [Doubled(3, 4)],
    "parametrised": lambda: [parametrizations.weight_norm(nn.Linear(3, 4))],
    "no closed form": lambda: hidden(nn.SiLU(), 4),
    "negative slope": lambda: hidden(nn.LeakyReLU(-0.1), 4),
    "layer norm": lambda: [nn.Linear(3, 4), nn.LayerNorm(4)],
    "dropout": lambda: [nn.Linear(3, 4), nn.Dropout()],
    "two activations": lambda: [nn.Linear(3, 4), nn.Tanh(), nn.ReLU()],
    "activation first": lambda: [nn.Tanh(), nn.Linear(3, 4)],
    "nothing": list,
}


@pytest.mark.parametrize("modules", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_anything_else_is_left_to_the_general_rungs(modules: object) -> None:
    made = modules()  # type: ignore[operator]
    assert read_layers(made, places_of(made)) is None


def test_a_parameter_without_a_place_is_not_read() -> None:
    modules = hidden(nn.Tanh(), 4)
    places = places_of(modules)
    del places[id(modules[2].bias)]
    assert read_layers(modules, places) is None


@every_activation
def test_slopes_follow_from_values(activation: nn.Module) -> None:
    closed = activation_of(activation)
    assert closed is not None
    z = torch.linspace(-3.0, 3.0, 61, dtype=torch.float64)[torch.arange(61) != 30].requires_grad_()
    value = activation(z.clone())
    (slope,) = torch.autograd.grad(value.sum(), z)
    own = closed.apply(z.detach().clone())
    torch.testing.assert_close(own, value.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(closed.slope(own), slope, rtol=1e-12, atol=1e-14)


def test_the_ladder_begins_with_the_closed_form_where_there_is_one() -> None:
    curvature = curvature_of(hidden(nn.Tanh(), 3), FAMILIES["gaussian"])
    generator = torch.Generator().manual_seed(0)
    assert choose_rung(curvature, True, generator) == CLOSED
    assert choose_rung(replace(curvature, mlp=None), True, generator) == RungChoice(Rung.DOUBLE_VJP, True)
    several = choose_rung(curvature, False, generator)
    assert (several.rung, several.retained) == (Rung.CLOSED_FORM, False)


def test_a_stack_that_is_not_the_actor_is_found_out() -> None:
    curvature = curvature_of(hidden(nn.Tanh(), 3), FAMILIES["gaussian"])
    actor = curvature.actor
    scaled = replace(curvature, actor=lambda theta, rows: 1.01 * actor(theta, rows))
    choice = choose_rung(scaled, True, torch.Generator().manual_seed(0))
    assert (choice.rung, choice.retained) == (Rung.DOUBLE_VJP, True)
    assert "closed_form/retained: its first and third product differs" in choice.rejected[0]


def test_a_curvature_without_a_stack_has_no_closed_form() -> None:
    curvature = replace(curvature_of(hidden(nn.Tanh(), 3), FAMILIES["gaussian"]), mlp=None)
    with pytest.raises(NotImplementedError, match="not a plain stack"):
        FisherOperator(curvature, CLOSED).phi()
