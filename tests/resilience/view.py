"""
The actor on a batch, as SB3 sees it, and nothing of the package: its distributions are torch's, in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution, TanhBijector
from torch import Tensor, nn
from torch import distributions as td

from tests.sb3.spaces import same


def tensors_of(policy: nn.Module) -> dict[str, Tensor]:
    return dict([*policy.named_parameters(), *policy.named_buffers()])


@contextmanager
def looking_only(policy: nn.Module) -> Iterator[None]:
    """Evaluate in the mode in which the policy acts; modules that keep state are set back."""
    tensors = tensors_of(policy)
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    modes = [(module, module.training) for module in policy.modules()]
    policy.train(False)
    try:
        # Noise of a module's own is the same each time.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for name, tensor in tensors.items():
                if not same(tensor.detach(), kept[name]):
                    tensor.copy_(kept[name])


class View:
    """The actor on a batch: its distributions as torch's, in float64, and the log-probabilities of the batch's actions."""

    def __init__(self, model: Any, observations: Any, actions: Tensor):
        with looking_only(model.policy):
            distribution = model.policy.get_distribution(observations)
            parts = distribution.distribution
            self.parts = [self._in_float64(part) for part in (parts if isinstance(parts, list) else [parts])]
            self.raw = [parameter.detach().clone() for part in self.parts for parameter in self._parameters(part)]
            self.actor = self._connected(model.policy, self.parts)
        squashed = isinstance(distribution, SquashedDiagGaussianDistribution) or getattr(distribution, "bijector", None)
        actions = TanhBijector.inverse(actions) if squashed else actions
        self.log_prob = self._log_prob(actions.double()).detach()
        self.dims = 1 if isinstance(self.parts[0], td.Categorical) else self.parts[0].batch_shape[-1]

    @staticmethod
    def _in_float64(part: Any) -> Any:
        if isinstance(part, td.Normal):
            return td.Normal(part.loc.double(), part.scale.double(), validate_args=False)
        return type(part)(logits=part.logits.double(), validate_args=False)

    @staticmethod
    def _parameters(part: Any) -> list[Tensor]:
        return [part.loc, part.scale] if isinstance(part, td.Normal) else [part.logits]

    @staticmethod
    def _connected(policy: nn.Module, parts: list[Any]) -> set[str]:
        """Names of the parameters that the distributions depend on."""
        named = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
        total = sum(tensor.sum() for part in parts for tensor in View._parameters(part))
        if not named or not total.requires_grad:
            return set()
        try:
            grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        except RuntimeError:  # a module whose backward pass is what is broken
            return set()
        return {name for name, grad in zip(named, grads, strict=True) if grad is not None}

    def _log_prob(self, actions: Tensor) -> Tensor:
        if not isinstance(self.parts[0], td.Categorical):
            return self.parts[0].log_prob(actions.view(len(actions), -1)).sum(dim=-1)
        columns = actions.view(len(actions), -1).unbind(-1)
        return torch.stack([part.log_prob(a) for part, a in zip(self.parts, columns, strict=True)]).sum(dim=0)

    def joint_kl(self, old: "View") -> float:
        """Mean KL(self || old), summed over action dimensions."""
        divergences = [td.kl_divergence(new, before) for new, before in zip(self.parts, old.parts, strict=True)]
        return float(sum(kl.detach().sum(dim=-1) if kl.ndim == 2 else kl.detach() for kl in divergences).mean())
