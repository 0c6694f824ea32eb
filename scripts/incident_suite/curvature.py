"""(c) A system that conjugate gradient can hardly solve, and (h) a policy that acts otherwise than it is trained."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from incident_suite.scenario import Incident, Kit


class BatchNormalised(BaseFeaturesExtractor):
    """
    One layer with batch normalisation, as many custom extractors have it.

    :param observation_space: its input
    :param features_dim: its output
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 64):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], features_dim), nn.BatchNorm1d(features_dim), nn.Tanh())

    def forward(self, observations: Tensor) -> Tensor:
        """
        Extract features.

        :param observations: a batch
        :return: a batch
        """
        features: Tensor = self.net(observations.to(torch.float32))
        return features


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
    updates=36,
    onset=1,
    trouble="a features extractor with BatchNorm1d",
    cure="",
    kit=Kit({"policy_kwargs": {"features_extractor_class": BatchNormalised, "net_arch": [64]}}),
)
