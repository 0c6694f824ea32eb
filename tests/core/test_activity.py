"""Activity by layer: planted dead and saturated units, counted again by brute force."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sb3_trpo_ext.core.activity import FUNCTIONS, SLOPE_FLOOR, LayerActivity, evenly, layer_activity


def measure(net: nn.Module, inputs: Tensor) -> tuple[LayerActivity, ...]:
    return layer_activity(net.eval().named_modules(), lambda: net(inputs))


def by_brute_force(function: Callable[[Tensor], Tensor], values: Tensor) -> float:
    """Share of the columns in which no entry has a slope, each by a difference quotient."""
    step = 1e-4
    values = values.double()
    slopes = (function(values + step) - function(values - step)) / (2.0 * step)
    n_inactive = 0
    for column in slopes.T:
        n_inactive += all(abs(float(slope.detach())) < SLOPE_FLOOR for slope in column)
    return n_inactive / values.shape[1]


def column(module: nn.Module, value: float) -> LayerActivity:
    """One unit that gets one value, however often."""
    net = nn.Sequential(nn.Linear(2, 1), module)
    nn.init.zeros_(net[0].weight)
    nn.init.constant_(net[0].bias, value)
    (found,) = measure(net, torch.randn(7, 2))
    return found


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(2.0 * x)


class Scaled(nn.Module):
    """As images are: a slope of less than the floor, and no activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 255.0


class SoftmaxOfOnesOwn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=-1)


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.relu(x)


class Clipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-1.0, 1.0)


ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(),
    nn.PReLU(),
    nn.ELU(),
    nn.CELU(),
    nn.SELU(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Softplus(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.Hardtanh(),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Softsign(),
    nn.LogSigmoid(),
    Swish(),
]


@pytest.mark.parametrize("module", ACTIVATIONS, ids=lambda module: repr(module))
def test_every_activation_as_counted_by_brute_force(module: nn.Module) -> None:
    # Units far to the left, far to the right and in the middle, and every mixture of them.
    net = nn.Sequential(nn.Linear(5, 40), module)
    with torch.no_grad():
        net[0].weight.mul_(torch.linspace(0.0, 4.0, 40).unsqueeze(1))
        net[0].bias.copy_(torch.linspace(-9.0, 9.0, 40)[torch.randperm(40)])
    inputs = torch.randn(60, 5)
    (found,) = measure(net, inputs)
    assert found.units == 40
    assert found.name == "1"
    twin = type(module)() if isinstance(module, Swish | nn.PReLU) else module
    # float32's and the quotient's rounding may move a unit that sits on the floor.
    assert found.inactive == pytest.approx(by_brute_force(twin.double(), net[0](inputs).detach()), abs=1 / 40)
    module.float()
    if isinstance(module, nn.ReLU | nn.Tanh | nn.Sigmoid | nn.GELU | nn.ELU):
        assert 0.0 < found.inactive < 1.0


@pytest.mark.parametrize(
    ("module", "value", "dead", "saturated"),
    [
        (nn.ReLU(), -0.1, 1.0, 0.0),
        (nn.ReLU(), 0.1, 0.0, 0.0),
        (nn.LeakyReLU(), -100.0, 0.0, 0.0),
        (nn.PReLU(), -100.0, 0.0, 0.0),
        (nn.ELU(), -1.0, 0.0, 0.0),
        (nn.ELU(), -10.0, 1.0, 0.0),
        (nn.GELU(), -1.0, 0.0, 0.0),
        (nn.GELU(), -10.0, 1.0, 0.0),
        (nn.SiLU(), -20.0, 1.0, 0.0),
        (nn.Softplus(), -20.0, 1.0, 0.0),
        (Swish(), -20.0, 1.0, 0.0),
        (nn.Tanh(), 1.0, 0.0, 0.0),
        (nn.Tanh(), 10.0, 0.0, 1.0),
        (nn.Tanh(), -10.0, 0.0, 1.0),
        (nn.Sigmoid(), -10.0, 0.0, 1.0),
        (nn.ReLU6(), 7.0, 0.0, 1.0),
        (nn.Hardtanh(), 2.0, 0.0, 1.0),
    ],
)
def test_dead_or_saturated(module: nn.Module, value: float, dead: float, saturated: float) -> None:
    found = column(module, value)
    assert (found.dead, found.saturated, found.units) == (dead, saturated, 1)


def test_one_sample_is_enough_to_be_alive() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[0].bias, -5.0)
    inputs = torch.zeros(1000, 1)
    assert measure(net, inputs)[0].dead == 1.0
    inputs[617] = 6.0
    assert measure(net, inputs)[0].dead == 0.0


def test_planted_units_are_counted_in_each_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2))
    with torch.no_grad():
        net[0].bias[:3] = 40.0
        net[2].bias[:5] = -40.0
        net[2].bias[5:] = 40.0
    first, second = measure(net, torch.randn(64, 4))
    assert (first.name, first.units, first.dead, first.saturated) == ("1", 20, 0.0, 3 / 20)
    assert (second.name, second.units, second.dead, second.saturated) == ("3", 10, 5 / 10, 0.0)


def test_units_of_a_convolution_are_its_channels() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 8), nn.ReLU())
    nn.init.zeros_(net[0].weight)
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-1.0, -1.0, -1.0, 1.0]))
        # Alive at one place of one sample.
        net[0].weight[2, 0, 1, 1] = 2.0
        net[3].bias.fill_(-100.0)
    images = torch.zeros(16, 1, 8, 8)
    images[9, 0, 4, 4] = 1.0
    first, second = measure(net, images)
    assert (first.units, first.dead) == (4, 2 / 4)
    assert (second.units, second.dead) == (8, 1.0)


@pytest.mark.parametrize("conv", [nn.Conv1d(2, 3, 1), nn.Linear(5, 3)], ids=["conv1d", "sequence"])
def test_where_the_units_of_three_dimensions_are(conv: nn.Module) -> None:
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([-1.0, 1.0, 1.0]))
    (found,) = measure(nn.Sequential(conv, nn.ReLU()), torch.randn(4, 2, 5))
    assert (found.units, found.dead) == (3, pytest.approx(1 / 3))


class Functional(nn.Module):
    """A user's own forward."""

    def __init__(self, function: Any, convolution: bool = False):
        super().__init__()
        self.first = nn.Conv2d(1, 5, 3) if convolution else nn.Linear(6, 5)
        self.second = nn.Linear(5 * 4 * 4 if convolution else 5, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.second(self.function(self.first(x)).flatten(1)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functional_activations_are_recognised(function: Any) -> None:
    net = Functional(function)
    with torch.no_grad():
        net.first.bias.copy_(torch.tensor([-60.0, 60.0, 0.0, 0.0, 0.0]))
    inputs = torch.randn(32, 6)
    # Behind the last layer nothing can be seen.
    (found,) = measure(net, inputs)
    assert (found.name, found.units) == ("first", 5)
    assert found.inactive == pytest.approx(by_brute_force(function, net.first(inputs).detach()))
    assert (found.inactive == 0.0) == (function is F.leaky_relu)


def test_a_functional_activation_behind_a_convolution() -> None:
    net = Functional(F.relu, convolution=True)
    with torch.no_grad():
        net.first.bias[:2] = -60.0
    (found,) = measure(net, torch.randn(8, 1, 6, 6))
    assert (found.name, found.units, found.dead) == ("first", 5, 2 / 5)


def test_in_place_functions_do_not_hide_what_they_got() -> None:
    net = Functional(F.relu_)
    with torch.no_grad():
        net.first.bias[0] = -60.0
    (found,) = measure(net, torch.randn(8, 6))
    assert found.dead == 1 / 5


@pytest.mark.parametrize(
    "function",
    [torch.sin, lambda x: F.relu(x) + 1.0, lambda x: x, lambda x: F.softmax(x, dim=-1)],
    ids=["sin", "shifted", "identity", "softmax"],
)
def test_what_can_not_be_told_is_left_out(function: Any) -> None:
    assert measure(Functional(function), torch.randn(32, 6)) == ()


def test_pooling_hides_an_activation() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 5, 3), nn.Linear(5 * 2 * 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.max_pool2d(F.relu(self.first(x)), 2).flatten(1))

    assert measure(Pooled(), torch.randn(8, 1, 6, 6)) == ()


@pytest.mark.parametrize(
    "module",
    [
        nn.Softmax(dim=-1),
        nn.LogSoftmax(dim=-1),
        SoftmaxOfOnesOwn(),
        Pairs(),
        nn.Dropout(0.5),
        nn.Identity(),
        nn.LayerNorm(5),
        nn.LayerNorm(5, elementwise_affine=False),
        nn.GLU(),
        nn.Flatten(),
        Scaled(),
    ],
)
def test_what_is_no_activation(module: nn.Module) -> None:
    assert measure(nn.Sequential(nn.Linear(4, 6 if isinstance(module, nn.GLU) else 5), module), torch.randn(8, 4)) == ()


def test_observations_are_no_units() -> None:
    net = nn.Sequential(Clipped(), nn.Linear(4, 3), Clipped())
    nn.init.zeros_(net[1].weight)
    (found,) = measure(net, torch.full((8, 4), 5.0))
    assert (found.name, found.units) == ("2", 3)


def test_an_activation_that_is_used_twice_is_two() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(4, 6), relu, nn.Linear(6, 3), relu)
    with torch.no_grad():
        net[2].bias.fill_(-100.0)
    first, second = measure(net, torch.randn(16, 4))
    assert (first.units, second.units) == (6, 3)
    assert (first.dead, second.dead) == (0.0, 1.0)


def test_it_leaves_nothing_behind() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    inputs = torch.randn(16, 4)
    before, copy = net(inputs).detach(), inputs.clone()
    measure(net, inputs)
    assert torch.equal(net(inputs), before)
    assert torch.equal(inputs, copy)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_network_without_layers_has_no_activity() -> None:
    assert measure(nn.Identity(), torch.randn(5, 3)) == ()
    assert measure(nn.Tanh(), torch.randn(5, 3)) == ()


def test_recurrent_and_attention_modules_are_passed_over() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.attention = nn.GRU(4, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Sequential(nn.Linear(8, 3), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            hidden, _ = self.gru(x)
            return self.head(self.attention(hidden, hidden, hidden)[0])

    assert [layer.name for layer in measure(Sequence(), torch.randn(5, 6, 4))] == ["head.1"]


@pytest.mark.parametrize(("n", "most"), [(1, 5), (5, 5), (7, 3), (2048, 512), (1000, 512)])
def test_samples_are_spread_evenly(n: int, most: int) -> None:
    rows = evenly(n, most)
    assert len(rows) == min(n, most) == len(rows.unique())
    assert 0 == int(rows[0])
    assert int(rows[-1]) < n
    gaps = rows.diff()
    assert len(gaps) == 0 or int(gaps.max()) - int(gaps.min()) <= 1
