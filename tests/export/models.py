"""What the tests of the export share: policies that are hard to export, and files that act."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize

from tests.sb3.spaces import make_env


def large(model: Any) -> Any:
    """Weights of a size that actions reach their bounds, and choices are not ties."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return model


def normalized(observation: str = "vector", **kwargs: Any) -> VecNormalize:
    """Statistics of sensors whose mean is far from zero."""
    env = VecNormalize(make_env(observation=observation), **kwargs)
    env.reset()
    env.training = False
    if not env.norm_obs:
        return env
    every = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
    for statistics in every.values():
        statistics.mean, statistics.var = statistics.mean + 1234.5678, 0.01 * statistics.var
    return env


def observations(model: Any, size: int = 64) -> Any:
    """Other ones than the export's own check has seen."""
    space = copy.deepcopy(model.observation_space)
    space.seed(11)
    drawn = [space.sample() for _ in range(size)]
    return (
        {key: np.stack([each[key] for each in drawn]) for key in space.spaces}
        if isinstance(drawn[0], dict)
        else np.stack(drawn)
    )


def read(path: Path) -> Any:
    """Act by what a file holds."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda *raw: session.run(None, dict(zip(names, raw, strict=True)))[0]
    module = torch.jit.load(path) if path.suffix == ".pt" else torch.export.load(path).module()
    return lambda *raw: module(*map(torch.as_tensor, raw)).numpy()


def assert_acts_as(model: Any, path: Path, raw: Any, seen: Any = None, tolerance: float = 1e-5) -> None:
    expected, _ = model.predict(raw if seen is None else seen, deterministic=True)
    actions = read(path)(*(raw.values() if isinstance(raw, dict) else [raw]))
    assert actions.shape == expected.shape
    np.testing.assert_allclose(actions, expected, rtol=tolerance, atol=tolerance)
    assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) > 1
