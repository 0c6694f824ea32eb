"""What a callback evaluates in is watched like the environments that are learnt in: one NaN there ends no training."""

from typing import Any

import numpy as np
import pytest
import sb3_contrib
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import NonFiniteError
from sb3_trpo_ext.sb3.integrity.env_watch import EPISODES
from tests.sb3.integrity.faulty import FAULTS, OwnBuffer, faulty_vec, guarded_model

pytestmark = pytest.mark.filterwarnings("ignore:TRPO. non-finite")
LOOPS: dict[str, dict[str, Any]] = {"ours": {}, "sb3's": {"rollout_buffer_class": OwnBuffer}}


def evaluating(*faults: dict[int, str], freq: int = 8, **kwargs: Any) -> EvalCallback:
    return EvalCallback(faulty_vec(*faults), n_eval_episodes=6, eval_freq=freq, verbose=0, **kwargs)


def own_methods(callback: EvalCallback) -> list[str]:
    return [name for name in ("step", "step_wait", "reset") if name in vars(callback.eval_env.unwrapped)]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_episode_of_an_evaluation_does_not_count(fault: str, loop: str) -> None:
    callback = evaluating({3: fault, 25: fault}, {14: fault})
    model = guarded_model(faulty_vec({}, {}), **LOOPS[loop])
    with pytest.warns(UserWarning, match="from environment 0 of the evaluation: its episode was ended"):
        model.learn(64, callback=callback)
    assert np.isfinite(callback.last_mean_reward)
    assert model.last_update is not None
    assert model.last_update.samples_dropped == 0
    assert own_methods(callback) == []


@pytest.mark.parametrize("loop", LOOPS)
def test_raise_names_the_evaluation(loop: str) -> None:
    callback = evaluating({3: "observation"})
    model = guarded_model(faulty_vec({}, {}), on_nonfinite="raise", **LOOPS[loop])
    with pytest.raises(NonFiniteError, match=r"non-finite observations\[1\] = nan from environment 0 of the evaluation \(1 "):
        model.learn(64, callback=callback)
    assert own_methods(callback) == []
    model.learn(64)


def test_an_evaluation_that_would_never_end_is_an_error() -> None:
    callback = evaluating(dict.fromkeys(range(10_000), "reward"))
    with pytest.raises(NonFiniteError, match=f"environment 0 of the evaluation is broken: {EPISODES} episodes in a row"):
        guarded_model(faulty_vec({})).learn(64, callback=callback)


def test_training_goes_on_where_every_episode_breaks() -> None:
    at_times = {life: "reward" for life in range(10_000) if life % 4 == 3}
    model = guarded_model(faulty_vec(at_times), n_steps=256)
    model.learn(8 * EPISODES)
    assert model.last_update is not None
    assert model.last_update.samples_dropped == 64


def test_wherever_the_callback_stands_and_whatever_it_evaluates_in() -> None:
    inner = evaluating({3: "observation"}, freq=1)
    inner.eval_env = VecNormalize(inner.eval_env, training=False)
    tree = CallbackList([EveryNTimesteps(24, inner)])
    model = guarded_model(VecNormalize(faulty_vec({}, {})))
    model.learn(64, callback=tree)
    assert np.isfinite(inner.last_mean_reward)


def test_an_environment_that_serves_both_is_watched_once_as_the_models() -> None:
    env = faulty_vec({5: "observation"})
    callback = EvalCallback(env, n_eval_episodes=1, eval_freq=10_000, verbose=0)
    model = guarded_model(env)
    model.learn(16, callback=callback)
    assert model.last_update is not None
    assert model.last_update.samples_dropped == 1


class NoVecEnv(BaseCallback):
    eval_env = "somebody else's"

    def _on_step(self) -> bool:
        return True


def test_something_else_of_that_name_is_left_alone() -> None:
    model = guarded_model(faulty_vec({}))
    model.learn(16, callback=NoVecEnv())
    assert model.num_timesteps >= 16
    assert model.last_update is not None


def test_sb3_contrib_dies_of_it_without_the_cause() -> None:
    model = sb3_contrib.TRPO("MlpPolicy", faulty_vec({}), n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(ValueError, match="Expected parameter loc"):
        model.learn(64, callback=evaluating({3: "observation"}))
