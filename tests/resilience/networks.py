"""Networks of every kind, sound and unsound, as features extractors of six numbers; and the configurations that cover them."""

from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from sb3_trpo_ext import TRPO
from tests.sb3 import spaces
from tests.sb3.spaces import ACTIONS, make_model


class Plain(BaseFeaturesExtractor):
    """A layer and tanh; what others add stands in ``between``."""

    def __init__(self, observation_space: Any):
        super().__init__(observation_space, features_dim=8)
        self.first = nn.Linear(6, 8)
        self.build()

    def build(self) -> None: ...

    def between(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.between(self.first(x.to(self.first.weight.dtype))))


class LayerNormed(Plain):
    def build(self) -> None:
        self.norm = nn.LayerNorm(8)

    def between(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class SpectralNormed(Plain):
    def build(self) -> None:
        self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def between(self, hidden: Tensor) -> Tensor:
        return self.second(hidden)


class Normaliser(Plain):
    """Running statistics of a user's own, updated in training mode as batch norm's are."""

    def build(self) -> None:
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean += 0.1 * (hidden.mean(dim=0) - self.mean)
                self.seen += len(hidden)
        return hidden - self.mean


class Drifting(Plain):
    """Its running statistics are updated in every mode: whoever evaluates it changes it."""

    def build(self) -> None:
        self.register_buffer("mean", torch.zeros(8))

    def between(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean += 5e-5 * (hidden.detach().sum(dim=0).to(self.mean.dtype) + len(hidden))
        return hidden - self.mean


class Counting(Plain):
    """It counts its calls, which changes nothing that it gives."""

    def build(self) -> None:
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def between(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden


class Noisy(Plain):
    """Random in every mode."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden + 0.1 * torch.randn_like(hidden)


# ---------------------------------------------------------------- derivatives that are wrong


class _NaNBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.full_like(grad, torch.nan)


class _Backward(torch.autograd.Function):
    """An identity whose cotangent is changed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: Any) -> Tensor:
        ctx.how = how
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.how(grad), None


class _SecondBackward(torch.autograd.Function):
    """Sound once; what is differentiated a second time is changed."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, how: Any) -> Tensor:
        ctx.how = how
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.how(grad), None


class NaNBackward(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        return _NaNBackward.apply(hidden)


class InfiniteBackward(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        return _Backward.apply(hidden, lambda grad: grad * torch.inf)


class FlippedBackward(Plain):
    """The gradient points the wrong way in half of the network."""

    def between(self, hidden: Tensor) -> Tensor:
        return _Backward.apply(hidden, lambda grad: -3.0 * grad)


class _Curved(Plain):
    @staticmethod
    def spoil(grad: Tensor) -> Tensor:
        raise NotImplementedError

    def between(self, hidden: Tensor) -> Tensor:
        return _Backward.apply(hidden, lambda grad: _SecondBackward.apply(grad, self.spoil))


class NegativeCurvature(_Curved):
    @staticmethod
    def spoil(grad: Tensor) -> Tensor:
        return -10.0 * grad


class InfiniteCurvature(_Curved):
    @staticmethod
    def spoil(grad: Tensor) -> Tensor:
        return grad * torch.inf


class NaNCurvature(_Curved):
    @staticmethod
    def spoil(grad: Tensor) -> Tensor:
        return grad * torch.nan


class AsymmetricCurvature(_Curved):
    @staticmethod
    def spoil(grad: Tensor) -> Tensor:
        return 5.0 * grad.roll(1, dims=-1)


class RandomCurvature(_Curved):
    @staticmethod
    def spoil(grad: Tensor) -> Tensor:
        return grad + 3.0 * torch.randn_like(grad)


# ---------------------------------------------------------------- configurations

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "relu": {"activation_fn": nn.ReLU, "net_arch": [8, 8]},
    "two nets": {"net_arch": {"pi": [8], "vf": [6]}},
    "linear": {"net_arch": []},
    "shared trunk": {"features_extractor_class": Plain},
    "layer norm": {"features_extractor_class": LayerNormed},
    "batch norm": {"features_extractor_class": spaces.BatchNormed},
    "batch norm apart": {"features_extractor_class": spaces.BatchNormed, "share_features_extractor": False},
    "dropout": {"features_extractor_class": spaces.Dropped},
    "buffers": {"features_extractor_class": Normaliser},
    "counter": {"features_extractor_class": Counting},
    "tied": {"features_extractor_class": spaces.TiedWeights},
    "odd names": {"features_extractor_class": spaces.ValueNamed},
    "frozen": {"features_extractor_class": spaces.Frozen},
    "gru": {"features_extractor_class": spaces.Recurrent},
    "spectral norm": {"features_extractor_class": SpectralNormed},
}


@dataclass(frozen=True)
class Config:
    """
    A kind of model.

    :param action: of ``tests.sb3.spaces.ACTIONS``
    :param observation: of ``tests.sb3.spaces.OBSERVATIONS``
    :param network: of ``NETWORKS``
    """

    action: str = "box"
    observation: str = "vector"
    network: str = "mlp"

    def __str__(self) -> str:
        return f"{self.action}, {self.observation}, {self.network}"

    def model(self, cls: Any = TRPO, policy_kwargs: dict[str, Any] | None = None, **settings: Any) -> Any:
        kwargs = {**NETWORKS[self.network], **(policy_kwargs or {})}
        return make_model(self.action, self.observation, cls=cls, policy_kwargs=kwargs, **settings)


DEFAULT = Config()
OTHERS = [
    Config("sde", "vector", "layer norm"),
    Config("discrete", "image", "mlp"),
    Config("multidiscrete", "dict", "relu"),
    Config("multibinary", "vector", "batch norm"),
    Config("sde_squashed", "dict", "mlp"),
    Config("box", "image_separate", "mlp"),
    Config("discrete", "vector", "odd names"),
    Config("multidiscrete", "vector", "gru"),
    Config("box", "vector", "buffers"),
    Config("multibinary", "dict", "two nets"),
    Config("discrete", "vector", "dropout"),
    Config("box", "vector", "spectral norm"),
    Config("sde_squashed", "vector", "tied"),
    Config("box", "vector", "batch norm apart"),
    Config("discrete", "vector", "frozen"),
    Config("multidiscrete", "image", "mlp"),
    Config("sde_thin_expln", "vector", "shared trunk"),
    Config("multibinary", "vector", "linear"),
    Config("discrete", "vector", "counter"),
]
"""Every action space, observation and network at least once, most of them in two companies."""

assert {config.action for config in [DEFAULT, *OTHERS]} <= ACTIONS.keys()
