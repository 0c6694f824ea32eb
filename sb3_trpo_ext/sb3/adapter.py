"""
An ActorCriticPolicy seen as a function (theta, samples) -> distribution parameters phi, in any precision.

The policy's own code runs, with other tensors in place of its parameters (``torch.func.functional_call``). For float64:

1. Observations still go through SB3's float32 preprocessing; the first module that holds parameters casts up. So the
   float64 actor sees exactly what the policy sees.
2. Distribution objects are not built: a stand-in for ``policy.action_dist`` keeps the parameters that it is given. A
   policy that builds its own distribution has them read off that.
3. Attention is evaluated by its plain formula: fused kernels can't be differentiated twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sb3_trpo_ext.core.distributions import ActionDistribution, DiagonalGaussian, MultiBernoulli, MultiCategorical
from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.reduce import Rows

REPEATS = 1e-5
"""Two evaluations of the same samples agree to this: some CUDA kernels add in another order each time."""


def action_distribution(policy: ActorCriticPolicy) -> ActionDistribution:
    """
    Find the family of a policy's action distribution.

    :param policy: the policy
    :return: its family
    :raises NotImplementedError: if it is none of SB3's
    """
    dist = policy.action_dist
    if isinstance(dist, StateDependentNoiseDistribution):
        return DiagonalGaussian(dist.action_dim, squashed=dist.bijector is not None)
    if isinstance(dist, DiagGaussianDistribution):
        return DiagonalGaussian(dist.action_dim, squashed=isinstance(dist, SquashedDiagGaussianDistribution))
    if isinstance(dist, CategoricalDistribution):
        return MultiCategorical((dist.action_dim,))
    if isinstance(dist, MultiCategoricalDistribution):
        return MultiCategorical(tuple(int(size) for size in dist.action_dims))
    if isinstance(dist, BernoulliDistribution):
        return MultiBernoulli(dist.action_dims)
    raise NotImplementedError(
        f"TRPO has no KL divergence for policies whose action_dist is a {type(dist).__name__}: it must be (a subclass of) "
        "SB3's Gaussian, gSDE, categorical, multi-categorical or Bernoulli distribution"
    )


def refuse_scripted_modules(policy: ActorCriticPolicy) -> None:
    """
    Raise if a policy holds TorchScript modules: other tensors can't be put in place of their parameters.

    :param policy: the policy
    :raises TypeError: naming the module
    """
    for name, module in policy.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"TRPO: the policy's module {name!r} is TorchScript, which has no float64 twin: use plain nn.Module"
            )


def distribution_parameters(distributions: Sequence[Any]) -> Tensor:
    """
    Read phi off torch distributions.

    :param distributions: what SB3's ``Distribution.distribution`` was after each of several forward passes
    :return: phi of all of them, one below the other, shape (n_samples, n_parameters)
    """
    first = distributions[0]
    if isinstance(first, list):
        return torch.cat([distribution_parameters(column) for column in zip(*distributions, strict=True)], dim=-1)
    if hasattr(first, "loc"):
        means = torch.cat([dist.loc for dist in distributions])
        return torch.cat([means, torch.cat([dist.scale.expand_as(dist.loc) for dist in distributions]).log()], dim=-1)
    return torch.cat([dist.logits for dist in distributions])


def base_actions(policy: ActorCriticPolicy, actions: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """
    Turn a buffer's actions and log-probabilities into those of the family's base distribution.

    Squashed actions are inverted by SB3's own float32-clamped arctanh, once, and the squashing's log-determinant, which
    depends on no parameter, is taken out of the log-probabilities.

    :param policy: the policy
    :param actions: as stored, shape (n, ...), float32
    :param log_prob: as stored, shape (n,), float32
    :return: actions of shape (n, action_dims), int64 for categoricals, float64 (float32 where there is none) else; and
        log-probabilities of shape (n,)
    """
    dist = policy.action_dist
    actions = actions.reshape(len(actions), -1)
    if isinstance(dist, CategoricalDistribution | MultiCategoricalDistribution):
        return actions.long(), log_prob
    if isinstance(dist, SquashedDiagGaussianDistribution):
        correction = torch.log(1 - actions**2 + dist.epsilon).sum(dim=1)
        return TanhBijector.inverse(actions), log_prob + correction
    if isinstance(dist, StateDependentNoiseDistribution) and dist.bijector is not None:
        gaussian = dist.bijector.inverse(actions)
        return gaussian, log_prob + dist.bijector.log_prob_correction(gaussian).sum(dim=1)
    return actions, log_prob


def leaves_of(output: Tensor) -> set[int]:
    """
    Find the leaf tensors that an output is connected to in autograd's graph, whatever their gradients are.

    :param output: any tensor
    :return: ``id`` of each leaf that requires a gradient
    """
    found: set[int] = set()
    seen: set[Any] = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        pending.extend(parent for parent, _ in node.next_functions)
    return found


class PolicyFunction:
    """
    The actor of a policy as a function of its parameters.

    :param policy: the policy, in eval mode; it is never changed
    :param observations: the batch, on the policy's device, as SB3's buffer gives it
    :param device: where theta and the results live; the policy's own, unless that has no float64
    """

    def __init__(self, policy: ActorCriticPolicy, observations: PyTorchObs, device: torch.device):
        self.policy = policy
        self.observations = observations
        self.device = device
        self.parameters: tuple[nn.Parameter, ...] = ()
        self.modules: tuple[nn.Module, ...] = ()
        self._module = _DistributionParameters(policy)
        self._places = _places(self._module)
        self._others: dict[torch.dtype, dict[str, Tensor]] = {}
        self._moved_observations = map_tensors(lambda tensor: tensor.to(device), observations)

    def own(self, chunks: Sequence[slice]) -> Tensor:
        """
        Evaluate the batch as the policy itself would, and learn what the actor consists of.

        Actor parameters are those *connected* to phi: the KL's gradient is zero at theta_k, and names say nothing.

        :param chunks: samples that are evaluated together
        :return: phi in the policy's own dtype, shape (n_samples, n_parameters), on the computing device, detached
        """
        executed: list[nn.Module] = []
        connected: set[int] = set()
        parts = []
        with ExitStack() as stack, torch.enable_grad():
            for module in self.policy.modules():
                handle = module.register_forward_hook(lambda module, *_: executed.append(module))
                stack.callback(handle.remove)
            for rows in chunks:
                phi = self.own_forward(rows)
                connected |= leaves_of(phi)
                parts.append(phi.detach().to(self.device))
        self.parameters = tuple(p for p in self._module.parameters() if id(p) in connected)
        self.modules = tuple(dict.fromkeys(executed))
        return torch.cat(parts)

    def own_forward(self, rows: slice) -> Tensor:
        """
        Evaluate some samples as the policy itself would.

        :param rows: which samples
        :return: phi in the policy's own dtype, with its graph if gradients are on
        """
        phi: Tensor = self._module(map_tensors(lambda tensor: tensor[rows], self.observations))
        return phi

    def repeats(self, rows: slice) -> bool:
        """
        Find out whether the policy is a function of the observations at all: not with dropout that ignores eval mode.

        :param rows: samples to try
        :return: whether two evaluations agree up to rounding
        """
        with torch.no_grad():
            return torch.allclose(self.own_forward(rows), self.own_forward(rows), rtol=REPEATS, atol=REPEATS, equal_nan=True)

    def runs_in(self, dtype: torch.dtype) -> bool:
        """
        Find out whether the policy's modules can be evaluated in a precision, on two samples.

        :param dtype: precision
        :return: whether they can
        """
        try:
            with torch.no_grad():
                return self(self.theta(dtype), slice(0, 2)).dtype is dtype
        except (RuntimeError, TypeError, ValueError):
            return False

    def theta(self, dtype: torch.dtype) -> Parameters:
        """
        Copy the actor's parameters.

        :param dtype: precision
        :return: copies on the computing device
        """
        # Moved before it is cast: the policy's device may have no float64.
        return tuple(parameter.detach().to(self.device).to(dtype, copy=True) for parameter in self.parameters)

    def __call__(self, theta: Parameters, rows: Rows) -> Tensor:
        """
        Evaluate the actor.

        :param theta: its parameters, all of one dtype
        :param rows: which samples
        :return: phi, shape (n_rows, n_parameters), dtype of theta
        """
        dtype = theta[0].dtype
        replaced = {id(parameter): tensor for parameter, tensor in zip(self.parameters, theta, strict=True)}
        others = self._others_in(dtype)
        tensors = {place: replaced.get(id(tensor), others.get(place, tensor)) for place, tensor in self._places.items()}
        observations = map_tensors(lambda tensor: tensor[rows], self._moved_observations)
        with _casting_inputs(self.policy, dtype), sdpa_kernel(SDPBackend.MATH):
            phi: Tensor = torch.func.functional_call(self._module, tensors, (observations,), tie_weights=False)
        return phi

    def _others_in(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Everything that is not the actor's, in a precision: frozen parameters and buffers."""
        if dtype not in self._others:
            of_actor = {id(parameter) for parameter in self.parameters}
            self._others[dtype] = {
                place: tensor.detach().to(self.device).to(dtype if tensor.is_floating_point() else tensor.dtype)
                for place, tensor in self._places.items()
                if id(tensor) not in of_actor
            }
        return self._others[dtype]


def _places(root: nn.Module) -> dict[str, Tensor]:
    """
    Every place that holds a parameter or buffer, a module once: SB3's shared extractors are one module under three names.

    (``functional_call`` would swap such a module three times, and put its own tensors back as the originals.) A parameter
    that two modules share has two places.
    """
    places: dict[str, Tensor] = {}
    for path, module in root.named_modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    places[f"{path}.{name}" if path else name] = tensor
    return places


class _DistributionParameters(nn.Module):
    """Module around a policy whose forward pass gives phi."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, observations: PyTorchObs) -> Tensor:
        original = self.policy.action_dist
        self.policy.action_dist = _capturing(original)
        try:
            distribution = self.policy.get_distribution(observations)
        finally:
            self.policy.action_dist = original
        captured: Tensor | None = getattr(distribution, "captured", None)
        return distribution_parameters([distribution.distribution]) if captured is None else captured


def _capturing(original: Distribution) -> Distribution:
    """Copy of an SB3 distribution that keeps the parameters that it is given; others are left to build their own."""
    capture = _CAPTURES.get(type(original).proba_distribution)
    stand_in = copy.copy(original)
    if capture is not None:

        def proba_distribution(*args: Any, **kwargs: Any) -> Distribution:
            stand_in.captured = capture(stand_in, *args, **kwargs)  # type: ignore[attr-defined]
            return stand_in

        stand_in.proba_distribution = proba_distribution  # type: ignore[method-assign]
    return stand_in


def _gaussian(_: Distribution, mean_actions: Tensor, log_std: Tensor) -> Tensor:
    return torch.cat([mean_actions, log_std.expand_as(mean_actions)], dim=-1)


def _gsde(dist: StateDependentNoiseDistribution, mean_actions: Tensor, log_std: Tensor, latent_sde: Tensor) -> Tensor:
    """SB3's variance: of the latent, detached, through the noise matrix (gSDE paper, arXiv 2005.05719, eq. 6)."""
    latent = latent_sde if dist.learn_features else latent_sde.detach()
    variance = torch.mm(latent**2, dist.get_std(log_std) ** 2)
    return torch.cat([mean_actions, 0.5 * torch.log(variance + dist.epsilon)], dim=-1)


def _logits(_: Distribution, action_logits: Tensor) -> Tensor:
    return action_logits


_CAPTURES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    DiagGaussianDistribution.proba_distribution: _gaussian,
    SquashedDiagGaussianDistribution.proba_distribution: _gaussian,
    StateDependentNoiseDistribution.proba_distribution: _gsde,
    CategoricalDistribution.proba_distribution: _logits,
    MultiCategoricalDistribution.proba_distribution: _logits,
    BernoulliDistribution.proba_distribution: _logits,
}


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """
    Apply a function to every tensor in nested dicts, lists and tuples.

    :param function: tensor -> tensor
    :param tree: tensors in containers; anything else is passed through
    :return: the same containers around the results
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


@contextmanager
def _casting_inputs(policy: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While active, modules that hold parameters or buffers cast floating inputs to the dtype (hooks of this policy only)."""

    def cast(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, (args, kwargs))

    with ExitStack() as stack:
        for module in policy.modules():
            if module is not policy and (module._parameters or module._buffers):
                stack.callback(module.register_forward_pre_hook(cast, with_kwargs=True).remove)
        yield
