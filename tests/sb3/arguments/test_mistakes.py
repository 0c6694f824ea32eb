"""What people get wrong in the constructor: a line each, with the argument, its value, what is valid, the nearest name."""

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

import sb3_trpo_ext.sb3.trpo as module
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.arguments.naming import LONGEST, shown
from tests.leftovers import AT_HOME, Counted, nothing_left, register

register()
NAN, INF = float("nan"), float("inf")

# id: arguments, and what the line must hold
MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt": ({"target_k1": 0.03}, ["unknown argument target_k1=0.03", "did you mean target_kl?"]),
    "of another library": ({"max_kl": 0.03}, ["unknown argument max_kl=0.03", "did you mean target_kl?"]),
    "of PPO": ({"n_epochs": 7}, ["n_epochs=7", "did you mean n_critic_updates?"]),
    "unlike anything": ({"zzzzz": 7}, ["unknown argument zzzzz=7"]),
    "policy misspelt": ({"policy": "MlpPolcy"}, ["policy='MlpPolcy'", "one of ['MlpPolicy'", "did you mean MlpPolicy?"]),
    "policy no class": ({"policy": 3}, ["policy=3", "or a class"]),
    "env misspelt": ({"env": "CartPol-v1"}, ["env='CartPol-v1'", "registered id", "did you mean CartPole-v1?"]),
    "env of an old version": ({"env": "CartPole-v7"}, ["env='CartPole-v7'", "did you mean CartPole-v1?"]),
    "env no environment": ({"env": 3}, ["env=3", "a registered id, a gymnasium.Env or a VecEnv"]),
    "number as text": ({"target_kl": "1e-2"}, ["target_kl='1e-2'", "a finite number > 0", "is text", "write 0.01"]),
    "rate as text": ({"learning_rate": "1e-3"}, ["learning_rate='1e-3'", "write 0.001"]),
    "integer as text": ({"n_steps": "64"}, ["n_steps='64'", "an integer >= 1", "is text"]),
    "boolean for a number": ({"cg_damping": True}, ["cg_damping=True", "a finite number >= 0"]),
    "number for a boolean": ({"normalize_advantage": 0.5}, ["normalize_advantage=0.5", "[True, False]"]),
    "text for a boolean": ({"use_sde": "no"}, ["use_sde='no'", "[True, False]"]),
    "nan": ({"gamma": NAN}, ["gamma=nan", "a number in [0, 1]"]),
    "infinite": ({"target_kl": INF}, ["target_kl=inf"]),
    "an integer that is no float": ({"target_kl": 10**400}, ["target_kl=1000", "a finite number > 0"]),
    "negative": ({"cg_damping": -0.1}, ["cg_damping=-0.1"]),
    "zero": ({"n_steps": 0}, ["n_steps=0", "an integer >= 1"]),
    "fraction for a count": ({"n_critic_updates": 2.5}, ["n_critic_updates=2.5"]),
    "three bounds": ({"cg_damping_range": (0.1, 1, 2)}, ["cg_damping_range=(0.1, 1, 2)", "two finite numbers"]),
    "bounds in the wrong order": ({"cg_damping_range": (1, 0.1)}, ["cg_damping_range=(1, 0.1)", "low <= high"]),
    "bounds without cg_damping": ({"cg_damping_range": (0.2, 1)}, ["cg_damping_range=(0.2, 1)", "cg_damping=0.1"]),
    "a choice misspelt": ({"kl_reduction": "jiont"}, ["kl_reduction='jiont'", "did you mean joint?"]),
    "a choice in capitals": ({"cg_preconditioner": "KFAC"}, ["cg_preconditioner='KFAC'", "did you mean kfac?"]),
    "device unknown": ({"device": "gpu"}, ["device='gpu'", "a device of torch", "did you mean cuda?"]),
    "device no name": ({"device": [0]}, ["device=[0]"]),
    "seed negative": ({"seed": -1}, ["seed=-1", "in [0, 4294967295]"]),
    "seed too large": ({"seed": 2**32}, ["seed=4294967296"]),
    "verbose": ({"verbose": "yes"}, ["verbose='yes'", "an integer >= 0"]),
    "a partial policy": ({"policy": functools.partial(ActorCriticPolicy)}, ["policy=functools.partial", "or a class"]),
    "window": ({"stats_window_size": 0}, ["stats_window_size=0"]),
    "noise": ({"sde_sample_freq": -2}, ["sde_sample_freq=-2", "or -1"]),
    "buffer": ({"rollout_buffer_class": "RolloutBuffer"}, ["rollout_buffer_class='RolloutBuffer'", "a class"]),
    "log folder": ({"tensorboard_log": 3}, ["tensorboard_log=3", "a path"]),
    "policy_kwargs no dictionary": ({"policy_kwargs": [64]}, ["policy_kwargs=[64]", "a dictionary"]),
    "policy_kwargs misspelt": ({"policy_kwargs": {"net_arc": [8]}}, ["net_arc=[8]", "did you mean net_arch?"]),
    "policy_kwargs of the model": ({"policy_kwargs": {"use_sde": True}}, ["use_sde=True", "no entry of policy_kwargs"]),
    "net_arch": ({"policy_kwargs": {"net_arch": [64, "64"]}}, ["net_arch=[64, '64']", "a list of layer widths >= 1"]),
    "net_arch zero": ({"policy_kwargs": {"net_arch": [0]}}, ["net_arch=[0]"]),
    "net_arch a number": ({"policy_kwargs": {"net_arch": 64}}, ["net_arch=64"]),
    "net_arch qf": ({"policy_kwargs": {"net_arch": {"pi": [8], "qf": [8]}}}, ["'qf': [8]", "pi and vf"]),
    "activation as text": ({"policy_kwargs": {"activation_fn": "nn.Relu"}}, ["activation_fn='nn.Relu'", "nn.Tanh"]),
    "activation made": ({"policy_kwargs": {"activation_fn": nn.ReLU()}}, ["activation_fn=ReLU()", "not nn.Tanh()"]),
    "of policy_kwargs": ({"net_arch": [8]}, ["net_arch=[8]", "it belongs into policy_kwargs"]),
    "optimizer as text": ({"policy_kwargs": {"optimizer_class": "Adam"}}, ["optimizer_class='Adam'", "a class"]),
    "log_std": ({"policy_kwargs": {"log_std_init": "-2"}}, ["log_std_init='-2'", "a finite number"]),
    "one sample": ({"n_steps": 1}, ["n_steps * n_envs"]),
    "gSDE without Box": ({"use_sde": True}, ["use_sde=True", "Box"]),
}
# id: kind of observation space, of action space, policy, and what the line must hold
WRONG_SPACES: dict[str, tuple[Any, Any, str, list[str]]] = {
    "actions tuple": (
        None,
        "tuple",
        "MlpPolicy",
        ["action space Tuple(", "it must be Box, Discrete, MultiDiscrete or MultiBinary"],
    ),
    "actions dict": (None, "dict", "MlpPolicy", ["action space Dict("]),
    "actions infinite": (None, "infinite", "MlpPolicy", ["action space Box(-inf", "bounds must be finite"]),
    "actions half infinite": (None, "half", "MlpPolicy", ["bounds must be finite"]),
    "actions nan": (None, "nan", "MlpPolicy", ["bounds must be finite"]),
    "actions of no dimension": (None, "nothing", "MlpPolicy", ["no dimension"]),
    "actions grid": (None, "grid", "MlpPolicy", ["must have one axis"]),
    "actions bits": (None, "bits", "MlpPolicy", ["must have one axis"]),
    "actions integers": (None, "integers", "MlpPolicy", ["action space Box(0, 5", "must have a floating dtype"]),
    "actions from one": (None, "from one", "MlpPolicy", ["actions from 0 on", "start=0"]),
    "actions' parts from one": (None, "parts from one", "MlpPolicy", ["actions from 0 on", "start=0"]),
    "observations from one": ("from one", None, "MlpPolicy", ["begin with 0", "start=0"]),
    "observations of no axis": ("point", None, "MlpPolicy", ["no axis", "ReshapeObservation"]),
    "observations tuple": ("tuple", None, "MlpPolicy", ["observation space Tuple(", "or a Dict of these"]),
    "observations nested": ("nested", None, "MultiInputPolicy", ["observation space Dict(", "in a Dict"]),
    "observations text": ("text", None, "MlpPolicy", ["observation space Text("]),
    "observations nan": ("nan", None, "MlpPolicy", ["bounds are NaN"]),
    "observations empty": ("nothing", None, "MlpPolicy", ["it is empty"]),
    "Mlp with Dict": ("dict", None, "MlpPolicy", ["policy='MlpPolicy'", "'MultiInputPolicy'"]),
    "Cnn with Dict": ("dict", None, "CnnPolicy", ["policy='CnnPolicy'", "'MultiInputPolicy'"]),
    "MultiInput with Box": (None, None, "MultiInputPolicy", ["policy='MultiInputPolicy'", "'MlpPolicy'"]),
    "MultiInput with a point in a key": ("point in a key", None, "MultiInputPolicy", ["no layer 'arm.left'", "rename"]),
    "MultiInput with a key of torch's": ("key of torch's", None, "MultiInputPolicy", ["no layer 'keys'", "rename"]),
    "Cnn with a vector": (None, None, "CnnPolicy", ["policy='CnnPolicy'", "no image", "'MlpPolicy'"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(case: str) -> None:
    arguments, parts = MISTAKES[case]
    given = {"policy": "MlpPolicy", "env": AT_HOME, "device": "cpu", **arguments}
    with nothing_left():
        with pytest.raises((ValueError, TypeError, AssertionError)) as caught:
            TRPO(**given)
        _one_line(str(caught.value), parts)
        del caught


@pytest.mark.parametrize("case", WRONG_SPACES)
def test_wrong_spaces_are_one_line_and_leave_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    observation, action, policy, parts = WRONG_SPACES[case]
    monkeypatch.setattr(Counted.__init__, "__defaults__", (observation, action, None))
    with nothing_left():
        with pytest.raises(ValueError, match="TRPO: ") as caught:
            TRPO(policy, AT_HOME, device="cpu")
        # SB3 asserts: who catches that, still does.
        assert isinstance(caught.value, AssertionError)
        _one_line(str(caught.value), parts)
        del caught


def _one_line(text: str, parts: list[str]) -> None:
    assert "\n" not in text
    assert len(text) < 600
    for part in parts:
        assert part in text


def test_an_environment_of_ones_own_stays_open_and_one_made_here_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "notice_unit", lambda *_: 1 / 0)
    monkeypatch.setattr(module, "refuse_scripted_modules", lambda *_: 1 / 0)
    env = Counted()
    for given, left in ((env, 1), (AT_HOME, 1)):
        with pytest.raises(ZeroDivisionError):
            TRPO("MlpPolicy", given, device="cpu")
        assert Counted.open == left
    env.close()


def test_a_vec_env_of_no_environments() -> None:
    env = make_vec_env(AT_HOME)
    env.num_envs = 0
    with pytest.raises(ValueError, match="env has 0 environments: it must have at least 1"):
        TRPO("MlpPolicy", env, device="cpu")
    env.close()


def _policy(*args: Any, **kwargs: Any) -> ActorCriticPolicy:
    return ActorCriticPolicy(*args, **{**kwargs, "net_arch": [8]})


class _Rate:
    def __call__(self, remaining: float) -> float:
        return 1e-3 * remaining


POSSIBLE: dict[str, dict[str, Any]] = {
    "integers of NumPy": dict.fromkeys(("n_steps", "batch_size", "seed", "stats_window_size", "verbose"), np.int64(64)),
    "numbers of NumPy": {"learning_rate": np.float32(1e-3), "gamma": np.array(0.99), "use_sde": np.bool_(False)},
    "a number of torch": {"target_kl": torch.tensor(0.01)},
    "texts of NumPy": {"kl_reduction": np.str_("joint")},
    "a schedule's class": {"learning_rate": _Rate()},
    "a schedule in parts": {"learning_rate": functools.partial(lambda a, remaining: a * remaining, 1e-3)},
    "more words": {"verbose": 3},
    "a policy's function": {"policy": _policy},
    "a device": {"device": torch.device("cpu")},
    "an id with its module": {"env": f"gymnasium.envs:{AT_HOME}"},
    "an id without a version": {"env": "CartPole"},
    "actor only": {"policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": {"pi": [8]}}},
    "no layer": {"policy_kwargs": {"net_arch": []}},
    "layers in a tuple": {"policy_kwargs": {"net_arch": (8, 8)}},
    "layers in an array": {"policy_kwargs": {"net_arch": np.array([8, 8])}},
    "activation's function": {"policy_kwargs": {"activation_fn": lambda: nn.ELU(0.3)}},
    "optimizer in parts": {"policy_kwargs": {"optimizer_class": functools.partial(torch.optim.SGD, momentum=0.9)}},
    "extractor's function": {"policy_kwargs": {"features_extractor_class": lambda space: FlattenExtractor(space)}},
    "no arguments": {"policy_kwargs": {"optimizer_kwargs": None}},
}


@pytest.mark.parametrize("case", POSSIBLE)
@pytest.mark.filterwarnings("ignore")
def test_what_is_possible_stays_possible(case: str) -> None:
    given = {"policy": "MlpPolicy", "env": AT_HOME, "device": "cpu", "n_steps": 64, **POSSIBLE[case]}
    model = TRPO(**given)
    model.learn(64)
    model.env.close()
    assert model.last_update is not None
    assert model.last_update.num_timesteps == 64


def test_a_policy_of_ones_own_takes_what_it_takes() -> None:
    class Own(TRPO.policy_aliases["MlpPolicy"]):
        def __init__(self, *args: Any, net_arch: Any = None, colour: str, **kwargs: Any) -> None:
            super().__init__(*args, net_arch=[8], **kwargs)

    model = TRPO(Own, AT_HOME, device="cpu", policy_kwargs={"net_arch": "small", "colour": "red"})
    model.env.close()
    assert type(model.policy) is Own
    assert model.policy.net_arch == [8]


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = TRPO("MlpPolicy", AT_HOME, device="cuda")
    model.env.close()
    assert model.device.type == "cpu"
    said = [warning for warning in caught if "device='cuda' is not there: it runs on the CPU" in str(warning.message)]
    assert [warning.filename for warning in said] == [__file__]


def test_a_value_is_shown_in_one_short_line() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown("a\nb") == "'a\\nb'"
    assert shown(spaces.Discrete(3)) == "Discrete(3)"
    assert len(shown(list(range(10_000)))) == LONGEST
    assert shown(Loud()) == "<Loud>"
    assert shown(10**5000) == "<int>"
