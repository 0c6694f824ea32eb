"""What a checkpoint restores is there as soon as the model is in the user's hands, whatever is called next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.vec_env import FastVecNormalize
from tests.sb3.checkpoints.restorable import BATCH, Walk, numbers, trpo, walks
from tests.sb3.checkpoints.test_checkpoint import AT, TOTAL, broken_off, every_update, train
from tests.sb3.checkpoints.test_model_files import held, moments

Made = Callable[[], VecEnv]
WAYS = {"given to resume": TRPO.resume, "set later": lambda folder, env: with_env(TRPO.resume(folder), env)}


def with_env(model: TRPO, env: VecEnv) -> TRPO:
    model.set_env(env)
    return model


class Curriculum(VecEnvWrapper):
    """A wrapper of a user's own, with a state that whatever is called next reads."""

    level = 0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.level += 1
        return self.venv.step_wait()

    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.level = state["level"]


def in_workers() -> VecEnv:
    env = SubprocVecEnv([Walk, Walk], start_method="fork")
    env.seed(3)
    return VecNormalize(env)


STACKS: dict[str, tuple[Made, Made]] = {
    "VecNormalize": (lambda: walks(None, True), lambda: walks(None, True)),
    "rewards only": (lambda: VecNormalize(walks(None), norm_obs=False), lambda: VecNormalize(walks(None), norm_obs=False)),
    "below a frame stack": (lambda: VecFrameStack(walks(None, True), 2), lambda: VecFrameStack(walks(None, True), 2)),
    "a run of the Zoo, in a script": (lambda: FastVecNormalize(walks(None)), lambda: VecNormalize(walks(None))),
    "behind another wrapper": (lambda: walks(None, True), lambda: VecMonitor(walks(None, True))),
    "workers": (in_workers, in_workers),
}


@pytest.mark.parametrize(
    "way",
    [WAYS["given to resume"], pytest.param(WAYS["set later"], marks=pytest.mark.slow)],
    ids=WAYS,
)
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_statistics_are_there_at_once(tmp_path: Path, stack: tuple[Made, Made], way: Callable[..., TRPO]) -> None:
    first, again = stack
    whole = trpo(first(), tmp_path / "run").learn(2 * BATCH, [every_update()])
    there = moments(whole.get_vec_normalize_env())
    assert there[-1][-1] > 2 * BATCH
    model = way(tmp_path / "run", again())
    assert moments(model.get_vec_normalize_env()) == there
    # Nothing left to do, and what is saved then.
    model.learn(2 * BATCH, [every_update()])
    model.save(tmp_path / "again.zip")
    assert moments(model.get_vec_normalize_env()) == moments(held(tmp_path / "again.zip")) == there
    for each in (whole, model):
        each.env.close()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_wrappers_own_state_is_there_at_once(tmp_path: Path, way: Callable[..., TRPO]) -> None:
    trpo(Curriculum(walks(None)), tmp_path / "run").learn(2 * BATCH, [every_update()])
    assert way(tmp_path / "run", Curriculum(walks(None))).env.level == BATCH


@pytest.mark.parametrize(
    ("way", "kwargs"),
    [
        (WAYS["set later"], {}),
        pytest.param(WAYS["given to resume"], {}, marks=pytest.mark.slow),
        pytest.param(WAYS["set later"], {"use_sde": True}, marks=pytest.mark.slow),
        pytest.param(WAYS["given to resume"], {"use_sde": True}, marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_before_it_goes_on_changes_nothing(
    tmp_path: Path, way: Callable[..., TRPO], kwargs: dict[str, Any]
) -> None:
    whole = train(tmp_path / "run", walks(None, True), [], **kwargs)
    model = way(broken_off(tmp_path / "run"), walks(None, True))
    assert model.num_timesteps == AT * BATCH
    there = moments(model.get_vec_normalize_env())
    # In the training environment, whose statistics that moves, with random actions.
    evaluate_policy(model, model.env, n_eval_episodes=3, deterministic=False, warn=False)
    assert moments(model.get_vec_normalize_env()) != there
    model.learn(TOTAL, [every_update()])
    assert torch.equal(numbers(whole), numbers(model))
    assert moments(whole.get_vec_normalize_env()) == moments(model.get_vec_normalize_env())


@pytest.mark.parametrize("reset", [True, False], ids=["counts anew", "adds steps"])
def test_after_a_learn_with_nothing_left_the_next_one_is_that_of_the_whole_run(tmp_path: Path, reset: bool) -> None:
    whole = train(tmp_path / "run", walks(None, True), [])
    end = numbers(whole)
    whole.learn(2 * BATCH, reset_num_timesteps=reset)
    model = TRPO.resume(tmp_path / "run", walks(None, True)).learn(TOTAL, [every_update()])
    assert torch.equal(numbers(model), end)
    model.learn(2 * BATCH, reset_num_timesteps=reset)
    assert model.num_timesteps == whole.num_timesteps == 2 * BATCH + (0 if reset else TOTAL)
    assert torch.equal(numbers(model), numbers(whole))
