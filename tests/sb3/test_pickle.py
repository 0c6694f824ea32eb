"""``pickle``, joblib's cloudpickle, ``copy.deepcopy`` and worker processes take a model along, also after ``learn``."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import set_random_seed

from sb3_trpo_ext import Checkpoints
from sb3_trpo_ext.monitoring import FlightRecorder, TrustRegionMonitor
from sb3_trpo_ext.sb3.session import SURVIVING
from tests.sb3.spaces import ACTIONS, make_model, same, state_of

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "deepcopy": copy.deepcopy,
}
KINDS = [
    (action, observation, way)
    for action, observation in [*((action, "vector") for action in ACTIONS), ("box", "dict")]
    for way in WAYS
    # The kinds differ in what they hold, the ways in nothing that depends on it. (torch can't copy gSDE's noise, which SB3
    # draws with a graph: sb3-contrib's model can't be copied then, either.)
    if way == "pickle" or action == "box"
]


def trains_on(model: Any) -> Any:
    set_random_seed(3)
    model.learn(64, reset_num_timesteps=False)
    return state_of(model)


@pytest.mark.parametrize(("action", "observation", "way"), KINDS)
def test_a_copy_is_the_same_model_and_trains_on_alike(action: str, observation: str, way: str) -> None:
    model = make_model(action, observation)
    model.learn(128)
    other = WAYS[way](model)
    assert other.last_update == model.last_update
    assert same(state_of(other), state_of(model))
    assert (other.num_timesteps, other._n_updates) == (128, 2)
    assert same(trains_on(other), trains_on(model))
    assert other.last_update.n_updates == 3
    assert other.last_update.accepted == model.last_update.accepted


@pytest.mark.parametrize("observation", ["image", "image_separate"])
def test_a_copy_without_its_environment(observation: str) -> None:
    """SB3's VecTransposeImage can't be pickled, so a model of images goes without its environment, as in SB3."""
    model = make_model("box", observation)
    model.learn(64)
    env, model.env = model.env, None
    other = pickle.loads(pickle.dumps(model))
    model.set_env(env)
    other.set_env(env)
    assert same(state_of(other), state_of(model))
    trains_on(other)
    assert other.last_update.n_updates == 2


def test_a_model_that_has_never_learned_and_one_in_the_middle_of_its_callbacks() -> None:
    assert pickle.loads(pickle.dumps(make_model())).last_update is None
    model = make_model(log_folder="run")
    model.learn(128, callback=[TrustRegionMonitor(), FlightRecorder(), Checkpoints(every_updates=1)])
    other = pickle.loads(pickle.dumps(model))
    # What belongs to the other object and its run stays with it: a copy never writes into that run's folder.
    assert (other.run_folder, other.session.failure_observers, other.session.between_updates) == (None, [], [])
    assert model.run_folder is not None


@pytest.mark.parametrize("way", [*WAYS, "copy"])
def test_a_copy_has_a_session_of_its_own(way: str) -> None:
    model = make_model()
    marks = {name: f"mark of {name}" for name in vars(model.session)}
    vars(model.session).update(marks)
    other = copy.copy(model) if way == "copy" else WAYS[way](model)
    fresh = make_model().session
    assert other.session is not model.session
    for name, value in vars(other.session).items():
        if name in SURVIVING:
            assert value == marks[name], name
        else:
            assert type(value) is type(getattr(fresh, name)), name
    assert vars(model.session) == marks
    assert "session" in model._excluded_save_params()


def test_a_pickle_of_a_version_without_sessions() -> None:
    model = make_model()
    state = model.__getstate__()
    del state["session"]
    other = object.__new__(type(model))
    other.__setstate__(state)
    other.learn(64)
    assert other.last_update.n_updates == 1


@pytest.mark.parametrize("output", ["stdout", "csv", "tensorboard"])
def test_a_logger_that_writes_somewhere_stays_behind(output: str) -> None:
    from stable_baselines3.common.logger import configure

    model = make_model()
    model.set_logger(configure("logs", [output]))
    model.learn(64)
    other = pickle.loads(pickle.dumps(model))
    other.learn(64)
    assert other.last_update.n_updates == 2
    assert other.logger is not model.logger


def act(work: tuple[Any, np.ndarray]) -> np.ndarray:
    """In a worker."""
    torch.set_num_threads(1)
    model, observation = work
    return model.predict(observation, deterministic=True)[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_pool_get_the_model(method: str) -> None:
    model = make_model()
    model.learn(128)
    observations = [model.observation_space.sample() for _ in range(4)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(act, [(model, observation) for observation in observations])
    expected = [model.predict(observation, deterministic=True)[0] for observation in observations]
    assert np.array_equal(found, expected)
