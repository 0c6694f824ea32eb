"""Kronecker factors of real policies: against gradients of single samples, and everything that has none."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from sb3_trpo_ext.core.cg import CGResult, CGSettings, conjugate_gradient
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import flatten
from sb3_trpo_ext.core.preconditioner import LayerFactors
from sb3_trpo_ext.core.reduce import WeightedMean, chunked
from sb3_trpo_ext.core.status import CGStatus
from sb3_trpo_ext.sb3.problem import kfac as layers
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction
from sb3_trpo_ext.sb3.problem.kfac import known_curvature, layer_factors, policy_preconditioner
from tests.sb3.spaces import ACTIONS, Attention, BatchNormed, Frozen, InPlaceReLU, Recurrent, TiedWeights, n_hooks

N = 24
VECTOR = spaces.Box(-1.0, 1.0, (6,))
IMAGE = spaces.Box(0, 255, (1, 12, 10), np.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Steady:
    """In place of a distribution: each row's score is a function of its phi alone, so single samples can be compared."""

    def score_sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        return torch.cos(3.0 * phi) + torch.arange(phi.shape[1], device=phi.device)


class Convolved(BaseFeaturesExtractor):
    """Two convolutions with everything that a plain one may have."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, features_dim=6)
        self.first = nn.Conv2d(1, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.second = nn.Conv2d(3, 2, 2, bias=False)
        self.last = nn.LazyLinear(6)
        self(torch.zeros(1, *observation_space.shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))).flatten(1))


def policy_of(action: gym.Space = ACTIONS["box"][0], observation: gym.Space = VECTOR, **kwargs: Any) -> ActorCriticPolicy:
    policy = ActorCriticPolicy(observation, action, lambda _: 1e-3, **{"net_arch": [5, 4], **kwargs})
    policy.set_training_mode(False)
    return policy


def function_of(policy: ActorCriticPolicy, n: int = N) -> PolicyFunction:
    space = policy.observation_space
    if space.dtype == np.uint8:
        observations = torch.randint(0, 256, (n, *space.shape)).float()
    else:
        observations = torch.randn(n, *space.shape)
    function = PolicyFunction(policy, observations, torch.device("cpu"))
    function.own((slice(0, n),))
    return function


def mean_of(n: int = N, size: int = N, weights: Tensor | None = None) -> WeightedMean:
    return WeightedMean(torch.ones(n, dtype=torch.float64) if weights is None else weights, chunked(n, size))


def factors_of(
    function: PolicyFunction, mean: WeightedMean | None = None, distribution: Any = None
) -> dict[str, LayerFactors]:
    made = layer_factors(
        function, distribution or Steady(), mean_of() if mean is None else mean, torch.Generator().manual_seed(0)
    )
    return {layer.name: layer for layer in made}


def assert_same(found: dict[str, LayerFactors], expected: dict[str, LayerFactors]) -> None:
    assert found.keys() == expected.keys()
    for name, layer in found.items():
        torch.testing.assert_close(layer.inputs, expected[name].inputs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.outputs, expected[name].outputs, rtol=1e-4, atol=1e-5)


def gradient_of(function: PolicyFunction, row: int) -> Tensor:
    """Gradient of one sample's score · phi, flat, by plain autograd."""
    theta = tuple(part.requires_grad_() for part in function.theta(torch.float32))
    phi = function(theta, slice(row, row + 1))
    return flatten(torch.autograd.grad(phi, theta, Steady().score_sample(phi.detach(), torch.Generator()), allow_unused=False))


def of_layer(vector: Tensor, layer: LayerFactors) -> Tensor:
    """Entries of a layer in the order of G ⊗ A."""
    matrix = vector[layer.weight].view(len(layer.outputs), -1)
    return matrix.flatten() if layer.bias is None else torch.cat([matrix, vector[layer.bias].unsqueeze(-1)], dim=-1).flatten()


# ---------------------------------------------------------------- what the factors are


@pytest.mark.parametrize("extractor", [None, InPlaceReLU, BatchNormed])
def test_of_one_sample_the_kronecker_product_is_its_squared_gradient(extractor: Any) -> None:
    kwargs = {} if extractor is None else {"features_extractor_class": extractor}
    function = function_of(policy_of(**kwargs))
    for row in range(3):
        weights = torch.zeros(N, dtype=torch.float64)
        weights[row] = 7.0
        found, gradient = factors_of(function, mean_of(weights=weights)), gradient_of(function, row)
        assert len(found) == {None: 3, InPlaceReLU: 5, BatchNormed: 4}[extractor]
        for layer in found.values():
            own = of_layer(gradient, layer)
            torch.testing.assert_close(torch.kron(layer.outputs, layer.inputs), torch.outer(own, own), rtol=1e-4, atol=1e-5)


def test_the_factors_of_a_batch_are_weighted_means_of_those_of_its_samples() -> None:
    function = function_of(policy_of())
    weights = torch.rand(N, dtype=torch.float64)
    weights[5] = 0.0
    found = factors_of(function, mean_of(weights=weights))
    single = [factors_of(function, WeightedMean(torch.ones(N, dtype=torch.float64), (slice(i, i + 1),))) for i in range(N)]
    share = (weights / weights.sum()).float()
    for name, layer in found.items():
        inputs = sum(w * one[name].inputs for w, one in zip(share, single, strict=True))
        outputs = sum(w * one[name].outputs for w, one in zip(share, single, strict=True))
        torch.testing.assert_close(layer.inputs, inputs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.outputs, outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 24])
@pytest.mark.parametrize("observation", [VECTOR, IMAGE])
def test_chunks_change_nothing(size: int, observation: gym.Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "VECTORS_PER_ROW", 1000)
    kwargs = {"features_extractor_class": Convolved} if observation is IMAGE else {}
    function = function_of(policy_of(observation=observation, **kwargs))
    assert_same(factors_of(function, mean_of(size=size)), factors_of(function))


def test_a_convolutions_factors_are_sums_and_means_over_locations(monkeypatch: pytest.MonkeyPatch) -> None:
    """By loops over patches, and gradients that autograd has kept at the layer's output."""
    monkeypatch.setattr(layers, "VECTORS_PER_ROW", 1000)
    policy = policy_of(observation=IMAGE, features_extractor_class=Convolved)
    function = function_of(policy)
    found = factors_of(function)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = {f"features_extractor.{part}": getattr(policy.features_extractor, part) for part in ("first", "second")}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen[name] = (args[0].detach(), output)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    phi = function.own_forward(slice(0, N))
    phi.backward(Steady().score_sample(phi.detach(), torch.Generator()))
    for handle in handles:
        handle.remove()
    for name, module in modules.items():
        x, output = seen[name]
        g = output.grad
        patches = patches_by_loops(module, x)
        assert patches.shape[:2] == (N, g[0, 0].numel())
        g = g.flatten(2).transpose(1, 2)
        if module.bias is not None:
            patches = torch.cat([patches, torch.ones(*patches.shape[:2], 1)], dim=-1)
        torch.testing.assert_close(found[name].inputs, torch.einsum("nta,ntb->ab", patches, patches) / N, rtol=1e-4, atol=1e-4)
        outputs = torch.einsum("nta,ntb->ab", g, g) / (N * g.shape[1])
        torch.testing.assert_close(found[name].outputs, outputs, rtol=1e-4, atol=1e-5)
    assert len(found) == 6


def patches_by_loops(module: nn.Conv2d, x: Tensor) -> Tensor:
    (top, left), (down, right), (rows, columns), (dy, dx) = module.padding, module.stride, module.kernel_size, module.dilation
    padded = torch.zeros(*x.shape[:2], x.shape[2] + 2 * top, x.shape[3] + 2 * left)
    padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    found = []
    for i in range(0, padded.shape[2] - dy * (rows - 1), down):
        for j in range(0, padded.shape[3] - dx * (columns - 1), right):
            found.append(padded[:, :, i : i + dy * (rows - 1) + 1 : dy, j : j + dx * (columns - 1) + 1 : dx].flatten(1))
    return torch.stack(found, dim=1)


def test_a_linear_layer_over_tokens_is_a_convolution_of_one() -> None:
    class Tokens(BaseFeaturesExtractor):
        def __init__(self, space: spaces.Box):
            super().__init__(space, features_dim=4)
            self.each = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = x.view(-1, 3, 2)
            return torch.tanh(self.each(self.seen)).mean(dim=1)

    policy = policy_of(features_extractor_class=Tokens)
    layer = factors_of(function_of(policy))["features_extractor.each"]
    tokens = torch.cat([policy.features_extractor.seen, torch.ones(N, 3, 1)], dim=-1)
    torch.testing.assert_close(layer.inputs, torch.einsum("nta,ntb->ab", tokens, tokens) / N, rtol=1e-4, atol=1e-5)


def test_of_large_factors_only_the_diagonal_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    function = function_of(policy_of(net_arch=[9, 4]))
    full = factors_of(function)
    monkeypatch.setattr(layers, "LARGEST_FACTOR", 6)
    thin = factors_of(function)
    diagonals = 0
    for name, layer in thin.items():
        for found, whole in ((layer.inputs, full[name].inputs), (layer.outputs, full[name].outputs)):
            diagonals += found.ndim == 1
            torch.testing.assert_close(found, whole.diagonal() if len(whole) > 6 else whole)
    assert diagonals == 3


@pytest.mark.parametrize("entries", [1, 2**23])
def test_a_convolution_with_many_patches_is_estimated_from_some(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other sample, in pieces of bounded memory: as if the others were not there."""
    function = function_of(policy_of(observation=IMAGE, features_extractor_class=Convolved))
    every = torch.zeros(N, dtype=torch.float64)
    every[::2] = 1.0
    monkeypatch.setattr(layers, "VECTORS_PER_ROW", 10**9)
    half = factors_of(function, mean_of(weights=every))
    monkeypatch.setattr(layers, "VECTORS_PER_ROW", 1)
    monkeypatch.setattr(layers, "PATCH_ENTRIES", entries)
    some = factors_of(function)
    name = "features_extractor.first"  # 7 rows of A, 3 of G: every 7 // 3 = second
    torch.testing.assert_close(some[name].inputs, half[name].inputs, rtol=1e-4, atol=1e-4)


def test_samples_that_do_not_count_are_not_among_those(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other sample dropped, and every other of the rest taken: 0 / 0 if the two were the same."""
    monkeypatch.setattr(layers, "VECTORS_PER_ROW", 1)
    function = function_of(policy_of(observation=IMAGE, features_extractor_class=Convolved))
    odd = torch.zeros(N, dtype=torch.float64)
    odd[1::2] = 1.0
    for chunks in (((slice(0, N),)), (slice(0, 1), slice(1, N))):
        found = factors_of(function, WeightedMean(odd, chunks))
        assert bool(torch.isfinite(found["features_extractor.first"].inputs).all())


# ---------------------------------------------------------------- as a preconditioner


def fisher_of(function: PolicyFunction, scale: float = 1.0) -> FisherOperator:
    distribution = action_distribution(function.policy)
    curvature = Curvature(function, function.theta(torch.float64), distribution, scale, mean_of())
    return FisherOperator(curvature, RungChoice(Rung.DOUBLE_VJP, retained=True))


class Balanced:
    """Scores of a Gaussian's mean whose covariance over the batch is the metric, and which know nothing of the inputs."""

    def score_sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        dims = phi.shape[1] // 2
        which = torch.arange(len(phi)) % dims
        unit = torch.nn.functional.one_hot(which, dims) * dims**0.5
        return torch.cat([unit * torch.exp(-phi[:, dims:]), torch.zeros_like(unit)], dim=-1)


def test_it_is_exact_for_a_linear_gaussian_policy() -> None:
    function = function_of(policy_of(net_arch=[], log_std_init=-1.0))
    fisher, g = fisher_of(function, 1 / 3), torch.randn(24, dtype=torch.float64)
    made = policy_preconditioner(function, Balanced(), mean_of(), 1 / 3, torch.Generator())  # type: ignore[arg-type]
    assert made.covered == 1.0
    for damping in (1e-2, 1.0):
        result = conjugate_gradient(
            lambda v, damping=damping: fisher.damped_product(v, damping),  # type: ignore[misc]
            g,
            CGSettings(3, 1e-5, 3),
            preconditioner=made.inverse(damping, g),
        )
        assert (result.status, result.iterations) == (CGStatus.CONVERGED, 1)


def gradient_of_random_advantages(function: PolicyFunction) -> Tensor:
    theta = tuple(part.requires_grad_() for part in function.theta(torch.float64))
    phi = function(theta, slice(None))
    scores = action_distribution(function.policy).score_sample(phi.detach(), torch.Generator().manual_seed(9))
    return flatten(torch.autograd.grad(phi, theta, scores * torch.randn(N, 1) / N))


@pytest.mark.parametrize("action", ["box", "discrete", "multidiscrete", "multibinary", "sde", "sde_squashed"])
def test_it_solves_the_same_system_and_gains_more_in_few_iterations(action: str) -> None:
    space, kwargs = ACTIONS[action]
    arguments = {"use_sde": kwargs.get("use_sde", False), **kwargs.get("policy_kwargs", {}), "net_arch": [16, 16]}
    function = function_of(policy_of(space, **arguments))
    fisher = fisher_of(function)
    g = gradient_of_random_advantages(function)
    made = policy_preconditioner(function, action_distribution(function.policy), mean_of(), 1.0, seeded(1))
    assert made.covered > 0.9
    apply = made.inverse(1e-3, g)

    def solve(how: Any, steps: int) -> CGResult:
        settings = CGSettings(steps, 1e-8, steps)
        return conjugate_gradient(lambda v: fisher.damped_product(v, 1e-3), g, settings, preconditioner=how)

    assert solve(apply, 4).model_history[-1] < 1.1 * solve(None, 4).model_history[-1], "the model falls below 0"
    plain, better = solve(None, 400), solve(apply, 400)
    assert plain.status is better.status is CGStatus.CONVERGED
    torch.testing.assert_close(better.solution, plain.solution, rtol=1e-4, atol=1e-5 * float(plain.solution.abs().max()))


@pytest.mark.parametrize(("action", "known"), [("box", True), ("sde", False), ("discrete", False)])
def test_only_a_plain_gaussians_log_std_has_known_curvature(action: str, known: bool) -> None:
    space, kwargs = ACTIONS[action]
    function = function_of(policy_of(space, use_sde=kwargs.get("use_sde", False)))
    found = known_curvature(function)
    assert len(found) == known
    if known:
        n = sum(part.numel() for part in function.parameters)
        v = torch.zeros(n, dtype=torch.float64)
        v[found[0].entries] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        torch.testing.assert_close(fisher_of(function).product(v), found[0].curvature * v, rtol=1e-12, atol=1e-12)


def test_a_frozen_log_std_is_nobodys() -> None:
    policy = policy_of()
    policy.log_std.requires_grad_(False)
    assert known_curvature(function_of(policy)) == ()


# ---------------------------------------------------------------- what has no factors


class Twice(InPlaceReLU):
    def forward(self, x: Tensor) -> Tensor:
        again = self.net[1]
        return torch.tanh(again(torch.tanh(again(torch.tanh(self.first(x))))))


class Grouped(BaseFeaturesExtractor):
    def __init__(self, space: spaces.Box):
        super().__init__(space, features_dim=4)
        self.odd = nn.ModuleList(
            [
                nn.Conv2d(1, 2, 3, padding="same"),
                nn.Conv2d(2, 2, 3, groups=2),
                nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
            ]
        )
        self.last = nn.LazyLinear(4)
        self(torch.zeros(1, *space.shape))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.odd:
            x = torch.tanh(layer(x))
        return self.last(x.flatten(1))


class Named(InPlaceReLU):
    """A layer that is given its input by name, and one that is given some of the rows."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(input=x)
        some = self.net(hidden[: len(x) // 2])
        return torch.cat([some, torch.relu(hidden[len(x) // 2 :])])


class Subclassed(InPlaceReLU):
    def build(self) -> None:
        super().build()
        self.net[1] = _Own(8, 8)


class _Own(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


@pytest.mark.parametrize(
    ("extractor", "left_out"),
    [
        (Twice, {"net.1"}),
        (TiedWeights, {"second", "third"}),
        (Recurrent, {"gru"}),
        (Attention, {"attention.out_proj"}),
        (Frozen, {"first"}),
        (Named, {"first", "net.1"}),
        (Subclassed, {"net.1"}),
        (Grouped, {"odd.0", "odd.1", "odd.2"}),
    ],
)
def test_layers_where_the_picture_does_not_hold_are_left_out(extractor: Any, left_out: set[str]) -> None:
    observation = IMAGE if extractor is Grouped else VECTOR
    policy = policy_of(observation=observation, features_extractor_class=extractor)
    function = function_of(policy)
    linear = {name for name, module in policy.features_extractor.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    expected = {f"features_extractor.{name}" for name in linear - left_out}
    actor = {"mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"}
    assert factors_of(function).keys() == expected | actor
    made = policy_preconditioner(function, action_distribution(policy), mean_of(), 1.0, seeded(1))
    assert 0.0 < made.covered < 1.0
    g = torch.randn(made.n_parameters, dtype=torch.float64)
    assert float(g @ made.inverse(0.1, g)(g)) > 0.0


def test_a_bias_that_is_not_trained_is_left_out() -> None:
    policy = policy_of()
    policy.action_net.bias.requires_grad_(False)
    layer = factors_of(function_of(policy))["action_net"]
    assert layer.bias is None
    assert layer.inputs.shape == (4, 4)


def test_a_policy_without_a_plain_layer_has_no_factors() -> None:
    class Odd(ActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.action_net = _Own(self.mlp_extractor.latent_dim_pi, 3)

    policy = Odd(VECTOR, ACTIONS["box"][0], lambda _: 1e-3, net_arch=[])
    policy.set_training_mode(False)
    function = function_of(policy)
    assert factors_of(function) == {}
    assert policy_preconditioner(function, Steady(), mean_of(), 1.0, seeded(1)).covered == 3 / 24  # type: ignore[arg-type]


def test_a_layer_that_only_some_chunks_reach_counts_where_it_was() -> None:
    class Gate(InPlaceReLU):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.net(hidden) if bool(x[:, 0].sum() > 0.0) else torch.relu(hidden)

    function = function_of(policy_of(features_extractor_class=Gate))
    function.observations[:12, 0], function.observations[12:, 0] = 1.0, -1.0
    half = factors_of(function, WeightedMean(torch.ones(N, dtype=torch.float64), (slice(0, 12),)))
    both = factors_of(function, mean_of(size=12))
    name = "features_extractor.net.1"
    torch.testing.assert_close(both[name].inputs, 0.5 * half[name].inputs)
    torch.testing.assert_close(both[name].outputs, 0.5 * half[name].outputs)


# ---------------------------------------------------------------- side effects


def test_the_policy_is_left_as_it_was_and_the_same_scores_are_drawn_again() -> None:
    policy = policy_of()
    function = function_of(policy)
    before, hooks = copy.deepcopy(policy.state_dict()), n_hooks(policy)

    def drawn(seed: int) -> Tensor:
        made = layer_factors(function, action_distribution(policy), mean_of(), seeded(seed))
        return made[0].outputs

    with torch.no_grad():
        first = drawn(3)
    assert torch.equal(first, drawn(3))
    assert not torch.equal(first, drawn(4))
    assert n_hooks(policy) == hooks
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_hooks_are_removed_after_an_exception() -> None:
    class Fails(InPlaceReLU):
        fail = False

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise FloatingPointError
            return super().forward(x)

    policy = policy_of(features_extractor_class=Fails)
    function, hooks = function_of(policy), n_hooks(policy)
    policy.features_extractor.fail = True  # type: ignore[assignment]
    with pytest.raises(FloatingPointError):
        factors_of(function)
    assert n_hooks(policy) == hooks
