"""Small problems for the numerics: every family of distributions, all kinds of modules, dense references, one whole update."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor, nn
from torch.func import functional_call

from sb3_trpo_ext.core.cg import CGSettings
from sb3_trpo_ext.core.distributions import ActionDistribution, DiagonalGaussian, MultiBernoulli, MultiCategorical
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import Parameters, flatten, unflatten
from sb3_trpo_ext.core.objective import Actor, Surrogate, likelihood_divergence
from sb3_trpo_ext.core.reduce import Rows, WeightedMean, chunked
from sb3_trpo_ext.core.update import PolicyProblem, PolicySettings

FAMILIES: dict[str, ActionDistribution] = {
    "gaussian": DiagonalGaussian(3),
    "squashed": DiagonalGaussian(2, squashed=True),
    "categorical": MultiCategorical((4,)),
    "multi_categorical": MultiCategorical((3, 2, 4)),
    "bernoulli": MultiBernoulli(3),
}


def n_phi(distribution: ActionDistribution) -> int:
    if isinstance(distribution, DiagonalGaussian):
        return 2 * distribution.dims
    if isinstance(distribution, MultiCategorical):
        return sum(distribution.sizes)
    assert isinstance(distribution, MultiBernoulli)
    return distribution.dims


def random_phi(distribution: ActionDistribution, n: int) -> Tensor:
    return torch.randn(n, n_phi(distribution), dtype=torch.float64)


def as_torch(distribution: ActionDistribution, phi: Tensor) -> list[Any]:
    """The same distribution by torch.distributions: independent parts, each of event shape ()."""
    if isinstance(distribution, DiagonalGaussian):
        mean, log_std = phi.chunk(2, dim=-1)
        return [td.Normal(m, s.exp()) for m, s in zip(mean.unbind(-1), log_std.unbind(-1), strict=True)]
    if isinstance(distribution, MultiCategorical):
        return [td.Categorical(logits=logits) for logits in phi.split(list(distribution.sizes), dim=-1)]
    return [td.Bernoulli(logits=logit) for logit in phi.unbind(-1)]


def reference_kl(distribution: ActionDistribution, new: Tensor, old: Tensor) -> Tensor:
    pairs = zip(as_torch(distribution, new), as_torch(distribution, old), strict=True)
    return torch.stack([td.kl_divergence(p, q) for p, q in pairs]).sum(dim=0)


def reference_log_prob(distribution: ActionDistribution, phi: Tensor, actions: Tensor) -> Tensor:
    parts = zip(as_torch(distribution, phi), actions.unbind(-1), strict=True)
    return torch.stack([part.log_prob(action) for part, action in parts]).sum(dim=0)


def sample_actions(distribution: ActionDistribution, phi: Tensor) -> Tensor:
    return torch.stack([part.sample() for part in as_torch(distribution, phi)], dim=-1)


def dense_metric(distribution: ActionDistribution, phi: Tensor) -> Tensor:
    """M of one sample, by autograd from torch.distributions: Hessian of KL(new || phi) at new = phi."""

    def kl(new: Tensor) -> Tensor:
        return reference_kl(distribution, new.unsqueeze(0), phi.unsqueeze(0)).sum()

    return torch.autograd.functional.hessian(kl, phi)


# ---------------------------------------------------------------- actors


class Mlp(nn.Module):
    """Everything state dependent: also a Gaussian's std."""

    def __init__(self, n_out: int, n_in: int = 3, hidden: int = 4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh(), nn.Linear(hidden, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.net(x)


class InPlaceRelu(Mlp):
    def __init__(self, n_out: int):
        super().__init__(n_out)
        self.net[1] = nn.ReLU(inplace=True)


class SharedLayers(nn.Module):
    """One layer used twice, and its weight once more in the output."""

    def __init__(self, n_out: int):
        super().__init__()
        self.shared, self.out = nn.Linear(3, 3), nn.Linear(3, n_out)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        return self.out(hidden) + 0.1 * self.shared.weight.sum()


class Recurrent(nn.Module):
    """A sequence of three steps of one number each."""

    def __init__(self, n_out: int, kind: type[nn.RNNBase]):
        super().__init__()
        self.rnn, self.out = kind(1, 3, batch_first=True), nn.Linear(3, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.unsqueeze(-1))[0][:, -1])


class Attention(nn.Module):
    def __init__(self, n_out: int):
        super().__init__()
        self.embed, self.out = nn.Linear(1, 6), nn.Linear(2, n_out)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.embed(x.unsqueeze(-1)).chunk(3, dim=-1)
        return self.out(nn.functional.scaled_dot_product_attention(query, key, value).mean(dim=-2))


class Experts(nn.Module):
    """Two experts; some chunks of rows reach only one of them."""

    def __init__(self, n_out: int):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(3, n_out), nn.Linear(3, n_out)])
        self.n_out = n_out

    def forward(self, x: Tensor) -> Tensor:
        phi = x.new_zeros(len(x), self.n_out)
        for expert, rows in zip(self.experts, (x[:, 0] > 0, x[:, 0] <= 0), strict=True):
            if rows.any():
                phi = phi.index_add(0, rows.nonzero().squeeze(-1), expert(x[rows]))
        return phi


class DetachedBranch(Mlp):
    """As gSDE: half of phi comes from a latent that is detached."""

    def __init__(self, n_out: int):
        super().__init__(n_out)
        self.noise = nn.Linear(4, n_out)

    def forward(self, x: Tensor) -> Tensor:
        latent = torch.tanh(self.net[0](x))
        return self.net[2](latent) + self.noise(latent.detach().square())


MODULES: dict[str, Callable[[int], nn.Module]] = {
    "mlp": Mlp,
    "in_place_relu": InPlaceRelu,
    "shared_layers": SharedLayers,
    "gru": lambda n_out: Recurrent(n_out, nn.GRU),
    "lstm": lambda n_out: Recurrent(n_out, nn.LSTM),
    "attention": Attention,
    "experts": Experts,
    "detached": DetachedBranch,
}


def actor_of(module: nn.Module, observations: Tensor) -> Actor:
    """A module as a function of its parameters, in their precision."""
    names = [name for name, _ in module.named_parameters()]

    def actor(theta: Parameters, rows: Rows) -> Tensor:
        inputs = observations[rows].to(theta[0].dtype)
        phi: Tensor = functional_call(module, dict(zip(names, theta, strict=True)), (inputs,))
        return phi

    return actor


def theta_of(module: nn.Module, dtype: torch.dtype = torch.float64) -> Parameters:
    return tuple(parameter.detach().to(dtype, copy=True) for parameter in module.parameters())


def dense_jacobian(actor: Actor, theta: Parameters, rows: Rows) -> Tensor:
    """d phi / d theta, shape (n, n_phi, n_parameters), row by row of plain reverse mode."""
    leaves = tuple(part.clone().requires_grad_() for part in theta)
    phi = actor(leaves, rows)
    grads = [
        flatten(torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True, materialize_grads=True))
        for entry in phi.reshape(-1)
    ]
    return torch.stack(grads).reshape(*phi.shape, -1)


def dense_kl_hessian(distribution: ActionDistribution, actor: Actor, theta: Parameters, weights: Tensor) -> Tensor:
    """Hessian of the mean KL of torch.distributions at theta, through autograd alone."""
    old = actor(theta, slice(None)).detach()

    def mean_kl(flat: Tensor) -> Tensor:
        kl = reference_kl(distribution, actor(unflatten(flat, theta), slice(None)), old)
        return (weights * kl).sum() / weights.sum()

    return torch.autograd.functional.hessian(mean_kl, flatten(theta))


# ---------------------------------------------------------------- one whole update


@dataclass
class Case:
    """A policy problem, and what is needed to judge its result without the code under test."""

    problem: PolicyProblem
    module: nn.Module
    observations: Tensor
    weights: Tensor

    def independent(self, parameters: Parameters) -> tuple[float, float]:
        """Mean KL (bounded unit) and rise of the surrogate of some parameters, by torch.distributions."""
        surrogate = self.problem.surrogate
        actor = actor_of(self.module, self.observations)
        new = actor(tuple(part.double() for part in parameters), slice(None))
        family, weights = surrogate.distribution, self.weights / self.weights.sum()
        kl = surrogate.kl_scale * (weights * reference_kl(family, new, surrogate.phi)).sum()
        ratio = (reference_log_prob(family, new, surrogate.actions) - surrogate.log_prob).exp()
        raw = surrogate.advantages
        centred = raw - (weights * raw).sum()
        return float(kl), float((weights * centred * (ratio - 1.0)).sum())


def make_case(
    distribution: ActionDistribution,
    n: int = 48,
    dtype: torch.dtype = torch.float32,
    chunk: int = 20,
    weights: Tensor | None = None,
    advantages: Tensor | None = None,
    observations: Tensor | None = None,
) -> Case:
    """A random policy, a batch from it, and random advantages; uses torch's global generator, which every test seeds."""
    module = Mlp(n_phi(distribution)).to(dtype)
    observations = torch.randn(n, 3, dtype=torch.float64) if observations is None else observations
    actor, theta = actor_of(module, observations), theta_of(module)
    phi = actor(theta, slice(None))
    actions = sample_actions(distribution, phi)
    log_prob = distribution.log_prob(phi, actions)
    weights = torch.ones(n, dtype=torch.float64) if weights is None else weights
    advantages = torch.randn(n, dtype=torch.float64) if advantages is None else advantages
    mean = WeightedMean(weights, chunked(n, chunk))
    scale = 1.0 / distribution.independent_dims
    surrogate = Surrogate(actor, distribution, actions, advantages, phi, log_prob, mean, scale)
    own_precision = actor(theta_of(module, dtype), slice(None)).double()
    noise = likelihood_divergence(distribution.log_prob(own_precision, actions), log_prob).unsqueeze(-1)
    live = tuple(parameter.detach() for parameter in module.parameters())
    linearised = FisherOperator(Curvature(actor, theta, distribution, scale, mean), RungChoice(Rung.DOUBLE_VJP, retained=True))
    problem = PolicyProblem(surrogate, live, linearised, None, noise.clone(), noise, None, 0.5)
    return Case(problem, module, observations, weights)


SETTINGS = PolicySettings(
    max_kl=0.01,
    normalize_advantage=True,
    min_explained_variance=None,
    cg=CGSettings(max_steps=15, rtol=1e-10, keep=60),
    cg_precision="float64",
    shrink=0.8,
    max_trials=10,
)


def with_surrogate(problem: PolicyProblem, **changes: Any) -> PolicyProblem:
    """The problem with another surrogate, and the Fisher matrix that goes with it."""
    surrogate = replace(problem.surrogate, **changes)
    curvature = Curvature(surrogate.actor, problem.theta, surrogate.distribution, surrogate.kl_scale, surrogate.mean)
    return replace(problem, surrogate=surrogate, linearised=FisherOperator(curvature, problem.linearised.choice))


def gradient_of(problem: PolicyProblem) -> Tensor:
    return problem.linearised.gradient(problem.surrogate.slopes)


def with_rung(problem: PolicyProblem, choice: RungChoice) -> PolicyProblem:
    return replace(problem, linearised=FisherOperator(problem.linearised.curvature, choice))


def reference_gradient(surrogate: Surrogate, theta: Parameters) -> Tensor:
    """Gradient of mean(A log pi) at theta, by autograd through torch.distributions."""
    leaves = tuple(part.detach().clone().requires_grad_() for part in theta)

    def weighted_sum(rows: Rows, weights: Tensor) -> Tensor:
        log_prob = reference_log_prob(surrogate.distribution, surrogate.actor(leaves, rows), surrogate.actions[rows])
        total = (weights * surrogate.advantages[rows] * log_prob).sum()
        return flatten(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))

    return surrogate.mean.of_sums(weighted_sum)
