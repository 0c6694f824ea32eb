"""A file acts as ``predict`` does on normalised observations, or there is no file."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage
from torch import nn

from sb3_trpo_ext.export import ExportError, export_policy, policy
from tests.export.models import assert_acts_as, large, normalized, observations, read
from tests.sb3.spaces import ACTIONS, IMAGE, OBSERVATIONS, VECTOR, RandomEnv, make_env, make_model, same

# What torch says about TorchScript: in docs/export.md.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SPACES = [("box", observation) for observation in OBSERVATIONS] + [(action, "vector") for action in ACTIONS if action != "box"]
SPACES += [("discrete", "dict"), ("multidiscrete", "image")]

# ---------------------------------------------------------------- the same actions


@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_torchscript_acts_as_predict(action: str, observation: str) -> None:
    model = large(make_model(action, observation))
    exported = export_policy(model, "policy.pt")
    assert_acts_as(model, exported.path, observations(model))
    assert exported.difference < 1e-5
    assert [path.name for path in Path().iterdir()] == ["policy.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_the_other_formats_act_as_predict(action: str, observation: str, suffix: str) -> None:
    model = large(make_model(action, observation))
    assert_acts_as(model, export_policy(model, f"policy{suffix}").path, observations(model))


def test_onnx_normalises_and_is_a_file_of_its_own() -> None:
    env = normalized()
    model = large(make_model(env=env))
    exported = export_policy(model, "policy.onnx")
    raw = (env.obs_rms.mean + 0.3 * np.random.default_rng(1).standard_normal((50, 6))).astype(np.float32)
    assert_acts_as(model, exported.path, raw, env.normalize_obs(raw))
    assert exported.inputs == {"observation": ((6,), "float32")}
    # A robot can act only as far as it can: some actions are at a bound, and the space is the action's.
    actions = read(exported.path)(raw)
    assert 0.05 < np.mean(np.abs(actions) == 2.0) < 0.95
    assert all(model.action_space.contains(action) for action in actions)
    # An infinite sensor is clipped as VecNormalize clips it; of NaN predict makes an error, which a file can't.
    broken = np.array([[np.nan, 0, 0, 0, 0, 0], [np.inf, 0, 0, 0, 0, 0]], np.float32)
    nothing, clipped = read(exported.path)(broken)
    assert np.isnan(nothing).all()
    np.testing.assert_allclose(clipped, model.predict(env.normalize_obs(broken[1]), deterministic=True)[0], rtol=1e-5)

    import onnx

    card = json.loads(onnx.load(exported.path).metadata_props[0].value)
    assert card["inputs"] == [
        {"name": "observation", "shape": ["batch", 6], "dtype": "float32", "space": str(model.observation_space)}
    ]
    assert [path.name for path in Path().iterdir()] == ["policy.onnx"]


def test_dict_keys_are_normalised_as_asked() -> None:
    env = normalized("dict", norm_obs_keys=["body"])
    model = large(make_model("box", "dict", env=env))
    export_policy(model, "policy.pt")
    raw = observations(model)
    raw["body"] = (env.obs_rms["body"].mean + 0.3 * raw["body"]).astype(np.float32)
    assert_acts_as(model, Path("policy.pt"), raw, env.normalize_obs(raw))


def test_the_last_action_may_be_an_observation() -> None:
    seen = spaces.Dict({"action": VECTOR, "body": VECTOR})
    env = make_vec_env(RandomEnv, env_kwargs={"observation_space": seen, "action_space": spaces.Box(-1, 1, (2,))})
    model = large(make_model("box", "dict", env=env))
    export_policy(model, "policy.onnx")
    assert_acts_as(model, Path("policy.onnx"), observations(model))


def test_no_normalisation_of_observations_is_none() -> None:
    env = normalized(norm_obs=False)
    model = large(make_model(env=env))
    export_policy(model, "policy.pt")
    assert_acts_as(model, Path("policy.pt"), observations(model))


def test_images_as_a_camera_gives_them() -> None:
    model = large(make_model("box", "image"))
    exported = export_policy(model, "policy.pt", channels_last=True)
    assert exported.inputs == {"observation": ((36, 36, 1), "uint8")}
    frames = np.moveaxis(observations(model), 1, -1)
    assert_acts_as(model, exported.path, frames, tolerance=1e-3)  # convolutions of frames that lie otherwise in memory


def test_bounds_in_float64_are_kept_although_actions_are_float32() -> None:
    space, seen = spaces.Box(-0.1, 0.1, (2,), np.float64), spaces.Box(-1.0, 1.0, (6,), np.float64)
    model = large(make_model(env=make_vec_env(RandomEnv, env_kwargs={"observation_space": seen, "action_space": space})))
    assert export_policy(model, "policy.pt").inputs == {"observation": ((6,), "float32")}
    # In float64 are the bounds that predict clips by, and so its actions; as numbers they are float32's.
    assert model.predict(observations(model))[0].dtype == np.float64
    actions = read(Path("policy.pt"))(observations(model).astype(np.float32)).astype(np.float64)
    assert float(np.float32(0.1)) > 0.1  # rounding the bound to the nearest would leave the space
    assert np.abs(actions).max() <= 0.1 < np.abs(actions).max() + 1e-8


def test_a_model_is_as_it_was_after_its_export() -> None:
    model = make_model("sde").learn(64)
    before = copy.deepcopy(model.policy.state_dict())
    noise, stream, checks = (
        model.policy.action_dist.exploration_mat,
        torch.get_rng_state(),
        torch.distributions.Normal._validate_args,
    )
    export_policy(model, "policy.pt")
    assert same(before, model.policy.state_dict())
    assert model.policy.action_dist.exploration_mat is noise
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.distributions.Normal._validate_args is checks
    assert all(parameter.requires_grad for parameter in model.policy.parameters())
    model.learn(64)


@pytest.mark.parametrize("algorithm", [A2C, PPO])
def test_other_actor_critics_of_sb3_can_be_exported(algorithm: type[OnPolicyAlgorithm]) -> None:
    model = large(algorithm("MlpPolicy", make_env(), n_steps=32))
    export_policy(model, "policy.pt")
    assert_acts_as(model, Path("policy.pt"), observations(model))


# ---------------------------------------------------------------- or no file


class Moody(FlattenExtractor):
    """Chooses in Python by what it sees: a trace keeps only what it chose then."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(-observations if bool(observations.sum() > 0) else observations)


class Noisy(FlattenExtractor):
    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations + torch.randn_like(observations))


class Wanting(FlattenExtractor):
    """Chooses by the size of the batch, which no trace warns about."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations * (1.0 if len(observations) == 1 else 2.0))


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
@pytest.mark.parametrize("extractor", [Moody, Noisy, Wanting])
def test_a_policy_that_no_file_can_hold_leaves_none(extractor: type[nn.Module], suffix: str) -> None:
    model = large(make_model(policy_kwargs={"features_extractor_class": extractor}))
    with pytest.raises(ExportError, match=r"can't be written as|does not act as the policy") as caught:
        export_policy(model, f"policy{suffix}")
    assert "\n" not in str(caught.value)
    assert list(Path().iterdir()) == []


def test_a_wrong_file_is_found_out_and_the_right_one_before_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = large(make_model())
    before = export_policy(model, "policy.pt").path.read_bytes()
    monkeypatch.setattr(policy, "bounds_of", lambda _: nn.Identity())
    with pytest.raises(ExportError, match="does not act as the policy does"):
        export_policy(model, "policy.pt")
    assert Path("policy.pt").read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["policy.pt"]


@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_another_choice_is_found_out(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "bounds_of", lambda _: Another())
    with pytest.raises(ExportError, match="does not act as the policy does"):
        export_policy(large(make_model(action)), "policy.pt")


class Another(nn.Module):
    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        return torch.where(actions == 0, actions + 1, actions * 0)


def test_ties_are_decided_by_rounding_and_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("discrete")
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.zero_()
    monkeypatch.setattr(policy, "bounds_of", lambda _: Another())
    assert export_policy(model, "policy.pt").difference == 0.0


def test_statistics_are_not_forgotten() -> None:
    model = make_model(env=normalized()).learn(64)
    model.save("model.zip")
    alone = type(model).load("model.zip", device="cpu", warn_on_risky=False)
    with pytest.raises(ExportError, match=r"trained behind VecNormalize"):
        export_policy(alone, "policy.pt")
    export_policy(alone, "policy.pt", model.get_vec_normalize_env())


def test_what_can_not_be_exported_is_said_in_one_line() -> None:
    model = make_model()
    with pytest.raises(ExportError, match=r"the suffix names the format: \.onnx, \.pt, \.pt2"):
        export_policy(model, "policy.pth")
    with pytest.raises(ExportError, match="no images"):
        export_policy(model, "policy.pt", channels_last=True)
    with pytest.raises(ExportError, match="DQNPolicy is no ActorCriticPolicy"):
        export_policy(DQN("MlpPolicy", "CartPole-v1", buffer_size=10), "policy.pt")
    with pytest.raises(ExportError, match="keeps a state between steps"):
        export_policy(RecurrentPPO("MlpLstmPolicy", "CartPole-v1"), "policy.pt")
    stacked = make_vec_env(RandomEnv, env_kwargs={"observation_space": VECTOR, "action_space": spaces.Box(-1, 1, (1,))})
    frames = make_model(env=VecFrameStack(VecNormalize(stacked), 2))
    with pytest.raises(ExportError, match=r"observation has the shape \(12,\), but VecNormalize's statistics \(6,\)"):
        export_policy(frames, "policy.pt")
    seen = make_vec_env(RandomEnv, env_kwargs={"observation_space": IMAGE, "action_space": spaces.Discrete(2)})
    camera = make_model("discrete", "image", env=VecTransposeImage(VecNormalize(seen, norm_obs=False)))
    camera.get_vec_normalize_env().obs_rms = None
    export_policy(camera, "policy.pt", channels_last=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"ONNX needs onnxruntime: pip install 'sb3-trpo-ext\[export\]'"):
        export_policy(make_model(), "policy.onnx")
