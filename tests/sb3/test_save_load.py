"""Saving, loading, and the rest of ordinary SB3 life."""

import copy
import warnings
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3 import trpo
from sb3_trpo_ext.sb3.problem import reading
from sb3_trpo_ext.sb3.problem.statistics import computing_device
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, RandomEnv, Witness, collect, make_env, make_model, same, state_of

SPACES = [("box", "vector"), ("sde_squashed", "vector"), ("discrete", "vector"), ("multibinary", "dict"), ("box", "image")]


def observations_of(observation: str) -> Any:
    env = make_env(observation=observation, n_envs=4)
    return env.reset()


def predicts_as(model: Any, other: Any, observation: str) -> bool:
    seen = observations_of(observation)
    return np.array_equal(*(m.predict(seen, deterministic=True)[0] for m in (model, other)))


# ---------------------------------------------------------------- sb3-contrib's zips and ours


@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_a_zip_of_sb3_contrib_trains_on_in_its_unit(action: str, observation: str) -> None:
    theirs = make_model(action, observation, cls=sb3_contrib.TRPO)
    theirs.learn(64)
    theirs.save("theirs.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = TRPO.load("theirs.zip", env=make_env(action, observation), device="cpu")
    assert same(ours.policy.state_dict(), theirs.policy.state_dict())
    assert same(ours.policy.optimizer.state_dict(), theirs.policy.optimizer.state_dict())
    assert predicts_as(ours, theirs, observation)
    ours.learn(128, reset_num_timesteps=False)
    assert (ours.num_timesteps, ours.last_update.n_updates) == (192, 3)
    assert ours.last_update.kl_reduction == "mean"
    assert ours.last_update.kl <= ours.target_kl


def test_a_loaded_box_policy_is_told_its_unit() -> None:
    make_model(cls=sb3_contrib.TRPO).save("theirs.zip")
    with pytest.warns(UserWarning, match="averaged over the 3 action dimensions"):
        TRPO.load("theirs.zip", device="cpu")


@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_sb3_contrib_loads_ours(action: str, observation: str) -> None:
    ours = make_model(action, observation, cg_damping_range=(0.05, 1.0), critic_tolerance=0.1)
    ours.learn(64)
    ours.save("ours.zip")
    theirs = sb3_contrib.TRPO.load("ours.zip", env=make_env(action, observation), device="cpu")
    assert predicts_as(ours, theirs, observation)
    theirs.learn(64, reset_num_timesteps=False)
    assert theirs.num_timesteps == 128


def test_there_and_back_again_keeps_training() -> None:
    ours = make_model()
    ours.learn(64)
    ours.save("ours.zip")
    theirs = sb3_contrib.TRPO.load("ours.zip", env=make_env(), device="cpu")
    theirs.save("theirs.zip")
    back = TRPO.load("theirs.zip", env=make_env(), device="cpu")
    assert (back.kl_reduction, back._adapted_damping) == ("mean", ours._adapted_damping)


# ---------------------------------------------------------------- the next update is the same, bit for bit


def next_update(model: Any, rollout: Any, recorder: Any) -> dict[str, Any]:
    model.rollout_buffer = copy.deepcopy(rollout)
    model.session.recorder = recorder
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    model.train()
    return {**state_of(model), "damping": model._adapted_damping, "n_updates": model._n_updates}


@pytest.mark.parametrize(
    ("action", "kwargs"),
    [
        ("box", {}),
        ("sde", {}),
        ("discrete", {}),
        ("box", {"sub_sampling_factor": 2}),
        ("box", {"seed": None, "sub_sampling_factor": 2}),
        ("box", {"cg_damping_range": (0.01, 5.0)}),
        ("box", {"cg_precision": "mixed", "kl_reduction": "joint", "target_kl": 0.03}),
        ("box", {"learning_rate": lambda progress: 1e-3 * progress}),
    ],
)
def test_the_next_update_after_loading_is_the_same_bits(action: str, kwargs: dict[str, Any]) -> None:
    model = make_model(action, **kwargs)
    model.learn(64)
    model._adapted_damping, model._adapted_damping_unit = 0.37, model.kl_unit  # as if it had adapted
    model._updates_skipped = 4
    model.save("model.zip")
    loaded = TRPO.load("model.zip", env=make_env(action), device="cpu")
    assert loaded.last_update is None
    assert loaded.session.update_inputs is None
    assert (loaded._adapted_damping, loaded._updates_skipped) == (0.37, 4)
    loaded._logger = model.logger
    collect(model)
    loaded._current_progress_remaining = model._current_progress_remaining
    loaded.num_timesteps, loaded._last_obs = model.num_timesteps, model._last_obs
    recorder = model.session.recorder
    before, rollout = state_of(model), copy.deepcopy(model.rollout_buffer)
    assert same(state_of(loaded)["policy"], before["policy"])
    first, second = next_update(model, rollout, recorder), next_update(loaded, rollout, recorder)
    assert same(first, second)
    assert not same(first["policy"], before["policy"])
    assert model.last_update.cg_damping == loaded.last_update.cg_damping == 0.37
    assert model.last_update == loaded.last_update


@pytest.mark.parametrize("forgotten", ["_adapted_damping", "_n_updates", "optimizer"])
def test_the_comparison_notices_what_is_forgotten(forgotten: str) -> None:
    model = make_model(sub_sampling_factor=4)
    model.learn(64)
    model._adapted_damping, model._adapted_damping_unit = 0.37, model.kl_unit
    model.save("model.zip")
    loaded = TRPO.load("model.zip", env=make_env(), device="cpu")
    loaded._logger = model.logger
    if forgotten == "optimizer":
        loaded.policy.optimizer.state.clear()
    else:
        setattr(loaded, forgotten, {"_adapted_damping": None, "_n_updates": 0}[forgotten])
    collect(model)
    recorder, rollout = model.session.recorder, copy.deepcopy(model.rollout_buffer)
    first, second = next_update(model, rollout, recorder), next_update(loaded, rollout, recorder)
    assert not same(first["policy"], second["policy"])


# ---------------------------------------------------------------- what is in the zip


@pytest.mark.parametrize("observation", ["vector", "image"])
def test_the_zip_is_not_larger_than_sb3_contribs_by_a_tenth(observation: str) -> None:
    sizes = {}
    for cls in (TRPO, sb3_contrib.TRPO):
        model = make_model(observation=observation, cls=cls)
        model.learn(64)
        model.save(f"{cls.__module__}.zip")
        sizes[cls] = Path(f"{cls.__module__}.zip").stat().st_size
    assert sizes[TRPO] <= 1.10 * sizes[sb3_contrib.TRPO]


def test_what_is_saved_is_plain() -> None:
    model = make_model(cg_damping_range=(0.05, 1.0))
    model.learn(64)
    model.save("model.zip")
    with zipfile.ZipFile("model.zip") as archive:
        text = archive.read("data").decode()
    data, _, variables = load_from_zip_file("model.zip")
    for name in ("last_update", "session", "rollout_buffer", "policy", "env"):
        assert name not in data, name
    assert not variables
    assert isinstance(data["_adapted_damping"], float)
    assert (data["_n_updates"], data["_updates_skipped"]) == (1, 0)
    assert "sb3_trpo_ext" not in text


def test_loading_validates_and_warns_on_the_final_values() -> None:
    model = make_model(warn_on_risky=True, n_critic_updates=10)
    model.save("model.zip")
    with pytest.raises(ValueError, match=r"target_kl=-1 .* a finite number > 0"):
        TRPO.load("model.zip", target_kl=-1)
    with pytest.warns(UserWarning, match=r"target_kl=0\.5 allows a joint KL of 1\.5"):
        TRPO.load("model.zip", target_kl=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = TRPO.load("model.zip", cg_damping=0.5, env=make_env())
    loaded.learn(64)
    assert loaded.last_update.cg_damping == 0.5


def test_a_changed_damping_moves_an_adapted_one_into_its_range() -> None:
    model = make_model()
    model._adapted_damping = 0.2
    model.save("model.zip")
    loaded = TRPO.load("model.zip", cg_damping=0.5, env=make_env())
    loaded.learn(64)
    assert loaded.last_update.cg_damping == 0.5


# ---------------------------------------------------------------- ordinary life


def test_learn_twice_goes_on() -> None:
    model = make_model()
    model.learn(128)
    model.learn(128, reset_num_timesteps=False)
    assert (model.num_timesteps, model.last_update.n_updates, model.last_update.num_timesteps) == (256, 4, 256)
    model.learn(64)
    assert (model.num_timesteps, model.last_update.n_updates) == (64, 5)


def test_set_env_and_set_parameters() -> None:
    model = make_model()
    model.learn(64)
    model.set_env(make_env())
    model.learn(64)
    other = make_model(seed=9)
    other.set_parameters(model.get_parameters())
    assert same(other.policy.state_dict(), model.policy.state_dict())
    other.learn(64)
    assert other.last_update.status in ("accepted", "line_search_failed")


def test_parameters_set_between_collection_and_update_are_noticed() -> None:
    model, other = collect(make_model()), make_model(seed=9)
    model.set_parameters(other.get_parameters())
    with pytest.raises(ValueError, match="set_parameters"):
        model.train()


def test_processes_and_evaluation() -> None:
    spaces_of = {"observation_space": OBSERVATIONS["vector"][0], "action_space": ACTIONS["box"][0]}
    env = make_vec_env(RandomEnv, n_envs=2, seed=0, env_kwargs=spaces_of, vec_env_cls=SubprocVecEnv)
    try:
        model = make_model(env=env)
        model.learn(128)
        assert model.last_update.accepted
        before = state_of(model)
        mean, std = evaluate_policy(model, make_env(n_envs=1), n_eval_episodes=2)
        assert np.isfinite([mean, std]).all()
        assert same(state_of(model), before)
    finally:
        env.close()


def test_processes_whose_monitors_write_files(tmp_path: Path) -> None:
    # Regression: a Monitor's open file can't be sent from another process, which died of it.
    spaces_of = {"observation_space": OBSERVATIONS["vector"][0], "action_space": ACTIONS["box"][0]}
    env = make_vec_env(RandomEnv, n_envs=2, seed=0, env_kwargs=spaces_of, vec_env_cls=SubprocVecEnv, monitor_dir=str(tmp_path))
    try:
        assert make_model(env=env).learn(128).last_update.accepted
    finally:
        env.close()


# ---------------------------------------------------------------- rollout buffers of one's own


class Reversed(RolloutBuffer):
    """Another order and one batch size of its own."""

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        next(iter(super().get(1)))
        order = np.arange(self.buffer_size * self.n_envs)[::-1].copy()
        for rows in np.array_split(order, 3):
            yield self._get_samples(rows)


class Clipped(RolloutBuffer):
    """Other content."""

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> RolloutBufferSamples:
        data = super()._get_samples(batch_inds, env)
        return data._replace(advantages=data.advantages.clamp(-0.1, 0.1))


@pytest.mark.parametrize("buffer", [Reversed, Clipped])
def test_a_custom_buffer_decides_about_its_content(buffer: type[RolloutBuffer]) -> None:
    model = make_model(rollout_buffer_class=buffer)
    model.learn(192)
    report = model.last_update
    assert (report.n_updates, report.n_samples) == (3, 64)
    if buffer is Clipped:
        assert report.advantage_quantiles[0] == pytest.approx(-0.1)
        assert report.advantage_quantiles[-1] == pytest.approx(0.1)
    else:
        assert report.behaviour_worst_cell is None
    assert report.status in ("accepted", "line_search_failed")
    model.rollout_buffer.rewards[3, 1] = np.nan
    with pytest.raises(ValueError, match="non-finite rewards"):
        model.train()


@pytest.mark.parametrize("buffer", [Reversed, Clipped])
def test_a_stale_batch_of_a_custom_buffer_is_refused(buffer: type[RolloutBuffer]) -> None:
    model = collect(make_model(rollout_buffer_class=buffer))
    model.train()
    assert model.last_update.accepted
    with pytest.raises(ValueError, match="not collected by the policy"):
        model.train()


def test_keyword_arguments_of_a_buffer() -> None:
    class Named(RolloutBuffer):
        def __init__(self, *args: Any, name: str = "", **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.name = name

    model = make_model(rollout_buffer_class=Named, rollout_buffer_kwargs={"name": "mine"})
    model.learn(64)
    assert model.rollout_buffer.name == "mine"


# ---------------------------------------------------------------- a device without float64


def test_a_device_without_float64_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert computing_device(torch.device("mps")) == torch.device("cpu")
    assert computing_device(torch.device("mps", 0)) == torch.device("cpu")
    for kept in ("cpu", "cuda", "cuda:1"):
        assert computing_device(torch.device(kept)) == torch.device(kept)
    # An index makes another torch.device of the same processor.
    elsewhere = torch.device("cpu", 0)
    for module in (reading, trpo):
        monkeypatch.setattr(module, "computing_device", lambda _: elsewhere)
    with pytest.warns(UserWarning, match="has no float64: the policy step runs on the CPU"):
        model = make_model()
    witness = Witness(collect(model))
    model.train()
    assert witness.broken_promises_of_acceptance() == []


@pytest.mark.gpu
@pytest.mark.parametrize("action", ["box", "sde_squashed", "discrete"])
def test_a_policy_on_a_device_is_updated_on_the_cpu(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reading, trpo):
        monkeypatch.setattr(module, "computing_device", lambda _: torch.device("cpu"))
    model = make_model(action, device="cuda")
    witness = Witness(collect(model))
    model.train()
    assert witness.broken_promises_of_acceptance() == []
    assert model.session.update_inputs.evaluated.problem.theta[0].device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize(("action", "observation"), SPACES)
def test_an_update_on_the_device(action: str, observation: str) -> None:
    model = make_model(action, observation, device="cuda", sub_sampling_factor=2)
    witness = Witness(collect(model))
    model.train()
    assert witness.broken_promises_of_acceptance() == []


def test_damping_that_adapted_in_another_unit_is_forgotten() -> None:
    model = make_model(kl_reduction="mean")
    model.learn(64)
    model._adapted_damping = 0.37
    model.save("model.zip")
    assert TRPO.load("model.zip", device="cpu").hyperparameters().damping.value == 0.37
    joint = TRPO.load("model.zip", device="cpu", kl_reduction="joint", cg_damping=0.3, target_kl=0.03)
    assert joint.hyperparameters().damping.value == 0.3
