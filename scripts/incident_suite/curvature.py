"""(c) A system that conjugate gradient can hardly solve, and (h) a policy that acts otherwise than it is trained."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from incident_suite.scenario import Incident, Kit


class Normalised(BaseFeaturesExtractor):
    """
    One layer with a normalisation, as many custom extractors have it.

    :param observation_space: its input
    :param norm: makes the normalisation of so many features
    :param features_dim: its output
    """

    def __init__(self, observation_space: spaces.Box, norm: type[nn.Module], features_dim: int = 64):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], features_dim), norm(features_dim), nn.Tanh())

    def forward(self, observations: Tensor) -> Tensor:
        """
        Extract features.

        :param observations: a batch
        :return: a batch
        """
        features: Tensor = self.net(observations.to(torch.float32))
        return features


def normalised(norm: type[nn.Module]) -> Kit:
    """
    Equip the policy with a normalisation.

    :param norm: which
    :return: the kit
    """
    extractor = {"features_extractor_class": Normalised, "features_extractor_kwargs": {"norm": norm}}
    return Kit({"policy_kwargs": {**extractor, "net_arch": [64]}})


UNDAMPED = Incident(
    letter="c",
    name="an ill-conditioned system",
    updates=40,
    onset=1,
    trouble="cg_damping=0: the Fisher matrix of a network is singular",
    cure="cg_damping=0.1",
    alarms=("TR104",),
    kit=Kit({"cg_damping": 0.0}),
    cured=Kit(),
)

BATCH_NORM = Incident(
    letter="h",
    name="batch normalisation in the policy",
    updates=60,
    onset=1,
    trouble="a features extractor with BatchNorm1d",
    cure="LayerNorm in its place",
    kit=normalised(nn.BatchNorm1d),
    healthy=normalised(nn.LayerNorm),
    cured=normalised(nn.LayerNorm),
)
