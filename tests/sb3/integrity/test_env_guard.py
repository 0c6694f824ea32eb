"""
Environments that give NaN or infinity: nothing is poisoned, whichever way they go wrong.

Planted bugs that these tests catch (each was planted):
 1. the guard above VecNormalize instead of below                    2. terminal observations not looked at
 3. observations of reset() not looked at                            4. rewards not looked at
 5. a dropped sample that stays in the batch                         6. no bootstrap: the dropped step's reward left at 0
 7. SB3's loop not settled after collection                          8. dropped steps settled before the time limits are
 9. the environment not reset after its episode was ended            10. `_last` kept by reference: in-place VecEnvs
11. hooks left on the VecEnv after an error                          12. `_last_obs` kept after an error
13. the Monitor's NaN return kept among the last episodes            14. float32 squares that overflow in VecNormalize
15. a batch with no sample left goes on to the update                16. drops of the last rollout kept for the next
17. diagnostics that take a dropped step's residual for a zero one   18. a dump that forgets which samples were dropped
"""

import copy
import math
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_trpo_ext import TRPO, NonFiniteError
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring.advantage_monitor import AdvantageMonitor
from sb3_trpo_ext.monitoring.describe import describe_update
from sb3_trpo_ext.records.dump import read_dump, write_dump
from sb3_trpo_ext.replay.rebuild import rebuild
from sb3_trpo_ext.sb3.collect.late import Late
from sb3_trpo_ext.sb3.integrity.env_watch import NON_FINITE, RESETS
from sb3_trpo_ext.sb3.integrity.finiteness import Bounds
from sb3_trpo_ext.sb3.vec_env import FastDummyVecEnv, FastVecNormalize
from tests.sb3.integrity.faulty import (
    DICT,
    FAULTS,
    Faulty,
    OwnBuffer,
    OwnDictBuffer,
    equal,
    faulty_vec,
    guarded_model,
    statistics,
)
from tests.sb3.spaces import IMAGE, OBSERVATIONS, VECTOR, Nothing, collect, same, state_of

BAD = [math.nan, math.inf, -math.inf, 1e39]
LOOPS = ("ours", "sb3's")

pytestmark = pytest.mark.filterwarnings("ignore:TRPO. non-finite", "ignore:You have specified a mini-batch", "ignore:overflow")


class InPlace(DummyVecEnv):
    """Gives out the arrays and infos that it goes on to write into."""

    def step_wait(self) -> Any:
        obs, rewards, dones, _ = super().step_wait()
        if not hasattr(self, "kept"):
            self.kept = (obs, rewards, dones)
        for mine, new in zip(self.kept, (obs, rewards, dones), strict=True):
            mine[:] = new
        return (*self.kept, self.buf_infos)


def how(loop: str, kind: str = "") -> dict[str, Any]:
    """Have a rollout collected by one of the loops."""
    return {} if loop == "ours" else {"rollout_buffer_class": OwnDictBuffer if kind == "dict" else OwnBuffer}


def base_of(env: Any) -> Any:
    return env.unwrapped


def unhooked(env: Any) -> bool:
    return not {"step", "step_wait", "reset"} & vars(base_of(env)).keys()


# ---------------------------------------------------------------- truncate: as if a time limit had stood there


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 5, 15])
def test_a_broken_episode_is_as_one_with_a_time_limit_there(loop: str, fault: str, at: int) -> None:
    models = []
    for limited in (False, True):
        tables = ({at: fault}, {}, {3: fault, at: fault})
        env = VecNormalize(VecFrameStack(faulty_vec(*tables, limited=limited), 2), gamma=0.9)
        models.append(collect(guarded_model(env, gamma=0.9, **how(loop))))
    broken, limited_ = (model.rollout_buffer for model in models)
    assert equal(*(statistics(model.env) for model in models))
    for name in ("observations", "actions", "log_probs", "values", "episode_starts"):
        assert np.array_equal(getattr(broken, name), getattr(limited_, name)), name
    assert models[0].session.recorder.dropped == sorted({(at, 0), (3, 2), (at, 2)})
    assert not models[1].session.recorder.dropped
    kept = np.ones_like(broken.rewards, dtype=bool)
    kept[tuple(zip(*models[0].session.recorder.dropped, strict=True))] = False
    assert np.array_equal(broken.rewards[kept], limited_.rewards[kept])
    # The reward of VecNormalize is 0 in both; what the time limit's step bootstraps, the dropped one has whole.
    assert np.array_equal(broken.rewards[~kept], broken.values[~kept])
    assert np.array_equal(models[0]._last_obs, models[1]._last_obs)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("at", [1, 6, 15])
def test_advantages_of_a_broken_episode_in_closed_form(loop: str, at: int) -> None:
    gamma, lam = 0.9, 0.8
    model = collect(guarded_model(faulty_vec({at: "observation"}, {}), gamma=gamma, gae_lambda=lam, **how(loop)))
    buffer = model.rollout_buffer
    with torch.no_grad():
        values = model.policy.predict_values(torch.as_tensor(buffer.observations[:, 0])).numpy().flatten().astype(float)
    first = max(step for step in range(at) if buffer.episode_starts[step, 0])
    expected = 0.0
    for step in reversed(range(first, at)):
        delta = float(buffer.rewards[step, 0]) + gamma * values[step + 1] - values[step]
        expected = delta + gamma * lam * expected
        assert buffer.advantages[step, 0] == pytest.approx(expected, abs=1e-5), step
    assert buffer.advantages[at, 0] == 0.0
    last = float(buffer.rewards[at - 1, 0]) + gamma * values[at] - values[at - 1]
    assert buffer.advantages[at - 1, 0] == pytest.approx(last, abs=1e-5)
    assert np.isfinite(buffer.advantages).all()


VEC_ENVS: dict[str, Any] = {
    "dummy": DummyVecEnv,
    "fast": FastDummyVecEnv,
    "in place": InPlace,
    "processes": partial(SubprocVecEnv, start_method="fork"),
}


@pytest.mark.parametrize("fault", ["observation", "reward_at_end", "reset"])
@pytest.mark.parametrize("cls", VEC_ENVS.values(), ids=VEC_ENVS)
def test_any_vec_env(cls: Any, fault: str) -> None:
    # SB3 keeps the observations that it is given until the next step: above in-place arrays only a wrapper helps it.
    model = collect(guarded_model(VecNormalize(faulty_vec({4: fault}, {}, cls=cls))))
    assert model.session.recorder.dropped == ([] if fault == "reset" else [(4, 0)])
    assert np.isfinite(model.rollout_buffer.observations).all()
    assert np.isfinite(model.rollout_buffer.rewards).all()
    assert model.rollout_buffer.episode_starts[5, 0] == 1.0
    model.train()
    assert model.last_update.samples_dropped == len(model.session.recorder.dropped)
    model.env.close()


class Notes(BaseCallback):
    """What a callback finds at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        found = {name: copy.deepcopy(self.locals[name]) for name in ("new_obs", "rewards", "dones", "infos")}
        self.steps.append({**found, "reset_infos": copy.deepcopy(self.training_env.unwrapped.reset_infos)})
        return True


@pytest.mark.parametrize("cls", [DummyVecEnv, InPlace])
def test_what_stands_above_finds_an_episode_that_was_cut_off(cls: Any) -> None:
    notes = Notes()
    env = VecMonitor(faulty_vec({4: "both"}, {}, cls=cls, monitored=False))
    model = collect(guarded_model(env), notes)
    step, before = notes.steps[4], notes.steps[3]
    info = step["infos"][0]
    assert (step["rewards"][0], step["dones"][0], info["TimeLimit.truncated"]) == (0.0, True, True)
    assert np.array_equal(info["terminal_observation"], before["new_obs"][0])
    assert "observations[1] = nan" in info[NON_FINITE]
    assert "rewards = nan" in info[NON_FINITE]
    assert NON_FINITE not in step["infos"][1]
    assert (info["episode"]["l"], np.isfinite(info["episode"]["r"])) == (5, True)
    assert all(np.isfinite(episode["r"]) for episode in model.ep_info_buffer)
    assert np.isfinite(step["new_obs"]).all()
    assert (before["reset_infos"][0], step["reset_infos"][0]) == ({"resets": 1}, {"resets": 2})


def test_a_monitors_nan_is_no_return_of_the_last_episodes() -> None:
    model = collect(guarded_model(faulty_vec({4: "reward_at_end"}, {})))
    assert model.ep_info_buffer
    assert all(np.isfinite(episode["r"]) for episode in model.ep_info_buffer)


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dict": ({"observation_space": DICT}, {"policy": "MultiInputPolicy"}),
    "sde": ({}, {"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {"log_std_init": -2.0}}),
    "discrete": ({"action_space": spaces.Discrete(4)}, {}),
    "float64": ({"observation_space": spaces.Box(-np.inf, np.inf, (6,), np.float64)}, {}),
    "discrete_observation": ({"observation_space": spaces.Discrete(4)}, {}),
    "image": ({"observation_space": IMAGE}, {"policy": "CnnPolicy", "policy_kwargs": OBSERVATIONS["image"][2]}),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_space_goes_on(kind: str, loop: str) -> None:
    of_env, of_model = KINDS[kind]
    model = guarded_model(faulty_vec({3: "both", 4: "both", 20: "both"}, {3: "both"}, **of_env), **of_model, **how(loop, kind))
    model.learn(64)
    assert model.last_update.collection.startswith("actor alone" if loop == "ours" else "SB3's loop")
    assert (model.last_update.samples_dropped, model.last_update.n_samples) == (1, 31)
    assert all(bool(torch.isfinite(p).all()) for p in model.policy.parameters())


# ---------------------------------------------------------------- weight zero, in everything


def poisoned(model: Any, value: float) -> Any:
    """What stands in the buffer in a dropped sample's place can't matter to anything."""
    buffer = model.rollout_buffer
    for step, environment in model.session.recorder.dropped:
        for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
            getattr(buffer, name)[step, environment] = value
    return model


@pytest.mark.parametrize(
    "setting", [{}, {"sub_sampling_factor": 2}, {"cg_preconditioner": "kfac"}, {"fisher_chunk_size": 4}], ids=str
)
@pytest.mark.parametrize("value", [1e6, math.nan])
def test_a_dropped_sample_has_no_weight_in_anything(setting: dict[str, Any], value: float) -> None:
    made = []
    for poison in (False, True):
        model = guarded_model(VecNormalize(faulty_vec({5: "both", 9: "reward"}, {15: "both"}, {})), n_steps=64, **setting)
        model.subscribe(*Diagnostic)
        for _ in range(2):
            collect(model)
            if poison:
                poisoned(model, value)
            model.train()
        made.append(model)
    clean, other = made
    assert same(state_of(clean), state_of(other))
    assert clean.last_update == other.last_update
    assert clean.last_update.accepted


def test_diagnostics_leave_dropped_steps_out() -> None:
    tables: list[dict[int, str]] = [dict.fromkeys(range(1, 64, 3), "reward"), {}]
    model = guarded_model(faulty_vec(*tables), n_steps=64)
    model.subscribe(*Diagnostic)
    collect(model)
    model.train()
    batch, report = model.session.update_inputs.batch, model.last_update
    assert (len(batch), report.n_samples, report.samples_dropped) == (128 - 21, 128 - 21, 21)
    advantages = batch.by_step(batch.advantages).double()
    ends = torch.zeros_like(advantages, dtype=torch.bool)
    ends[:-1] = torch.as_tensor(batch.episode_starts[1:]).bool()
    ends[-1] = torch.as_tensor(model._last_episode_starts)
    following = torch.cat([advantages[1:], torch.zeros(1, 2)]).masked_fill(ends, 0.0)
    residuals = advantages - model.gamma * model.gae_lambda * following
    kept = batch.by_step(torch.ones(len(batch))).bool()
    assert report.td_mean == pytest.approx(float(residuals[kept].mean()), rel=1e-5)
    assert report.advantage_quantiles[0] == pytest.approx(float(batch.advantages.min()))


def test_the_place_of_what_else_is_wrong_is_the_rollouts() -> None:
    model = collect(guarded_model(faulty_vec({3: "reward"}, {3: "reward"})))
    model.rollout_buffer.advantages[9, 1] = math.inf
    with pytest.raises(NonFiniteError, match=r"advantages .*environment 1, step 9"):
        model.train()


def test_a_dump_knows_what_was_dropped(tmp_path: Path) -> None:
    model = collect(guarded_model(faulty_vec({3: "reward", 4: "both"}, {15: "both"})))
    model.session.keep_update_start = True
    model.train()
    write_dump(tmp_path / "one", describe_update(model, ["test"], model.last_update, None, [], []))
    again = rebuild(read_dump(tmp_path / "one"), {})
    again.train()
    assert same(state_of(model)["policy"], state_of(again)["policy"])
    assert again.last_update.n_samples == 29


def test_dropped_samples_are_counted_said_and_alarmed_about(tmp_path: Path) -> None:
    monitor = AdvantageMonitor()
    model = guarded_model(faulty_vec({3: "reward", 4: "both", 20: "reward"}, {}), log_folder=str(tmp_path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(64, monitor)
    said = [str(w.message) for w in caught if "non-finite" in str(w.message)]
    assert len(said) == 1
    assert "rewards = nan from environment 0, step 3: its episode was ended" in said[0]
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/samples_dropped")
    assert [float(row.split(",")[column]) for row in rows[1:]] == [2.0, 1.0]
    assert "TR605" in {alarm.code for alarm in monitor.alarms}


def test_the_setting_is_saved_and_its_name_is_checked(tmp_path: Path) -> None:
    model = guarded_model(faulty_vec({3: "reward"}, {}))
    model.learn(32)
    model.save(tmp_path / "model.zip")
    loaded = TRPO.load(tmp_path / "model.zip", env=faulty_vec({3: "reward"}, {}))
    loaded.learn(32)
    assert loaded.last_update.samples_dropped == 1
    with pytest.raises(ValueError, match="on_nonfinite='truncated' is impossible: it must be one of"):
        guarded_model(faulty_vec({}), on_nonfinite="truncated")


def test_nothing_is_logged_where_nothing_can_be_dropped() -> None:
    model = guarded_model(faulty_vec({}), on_nonfinite="raise")
    model.learn(16)
    assert model.last_update.samples_dropped is None


# ---------------------------------------------------------------- raise: as before the step


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("fault", "bad"), [*zip([*FAULTS, "reset"], [*BAD, *BAD], strict=False), ("observation", math.inf)])
def test_raise_leaves_everything_as_before_the_step(fault: str, loop: str, bad: float) -> None:
    env = FastVecNormalize(faulty_vec({}, {21: fault}, bad=bad))
    model = guarded_model(env, on_nonfinite="raise", **how(loop))
    seen = []

    class Looks(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(statistics(env))
            return True

    model.learn(32, Looks())
    before = state_of(model)
    what = {"reset": "observations", "reward": "rewards", "reward_at_end": "rewards"}.get(fault, "observations")
    with pytest.raises(NonFiniteError, match=rf"{what}.* environment 1"):
        model.learn(64, Looks(), reset_num_timesteps=False)
    assert len(seen) == 21
    assert equal(statistics(env), seen[-1])
    assert same(state_of(model), before)
    assert unhooked(env)
    assert np.isfinite(model.rollout_buffer.observations).all()
    assert np.isfinite(model.rollout_buffer.rewards).all()
    base_of(env).envs[1].unwrapped.faults.clear()
    base_of(env).envs[1].unwrapped.bad_resets = 0
    model.learn(64, reset_num_timesteps=False)
    assert all(np.isfinite(value).all() for value in statistics(env).values())


def test_the_message_says_what_where_and_what_to_do() -> None:
    env = faulty_vec({}, {5: "both"}, observation_space=DICT)
    with pytest.raises(NonFiniteError) as caught:
        guarded_model(env, "MultiInputPolicy", on_nonfinite="raise").learn(32)
    text = str(caught.value)
    assert text.startswith("non-finite observations['body'][1] = nan, rewards = nan from environment 1, step 5 (1 affected).")
    assert "next learn() begins with a reset" in text
    assert "on_nonfinite='truncate'" in text


def test_the_next_learn_begins_with_a_reset() -> None:
    env = faulty_vec({5: "both"}, {})
    model = guarded_model(env, on_nonfinite="raise")
    with pytest.raises(NonFiniteError):
        model.learn(32)
    resets = [inner.unwrapped.resets for inner in env.envs]
    model.learn(32, reset_num_timesteps=False)
    assert model.rollout_buffer.episode_starts[0].all()
    assert all(inner.unwrapped.resets > before for inner, before in zip(env.envs, resets, strict=True))


# ---------------------------------------------------------------- reset


@pytest.mark.parametrize("bad", BAD)
def test_a_first_observation_that_is_not_finite(bad: float) -> None:
    env = VecNormalize(faulty_vec({}, {}, bad=bad, bad_resets=RESETS))
    model = guarded_model(env)
    model.learn(32)
    assert all(np.isfinite(value).all() for value in statistics(env).values())
    assert model.last_update.samples_dropped == 0
    env = VecNormalize(faulty_vec({}, {}, bad=bad, bad_resets=1))
    before = statistics(env)
    with pytest.raises(NonFiniteError, match=r"observations\[1\] = .* of reset\(\) from environment 0 \(2 affected\)"):
        guarded_model(env, on_nonfinite="raise").learn(32)
    assert equal(statistics(env), before)
    assert unhooked(env)


def test_an_environment_that_never_starts_is_broken() -> None:
    env = VecNormalize(faulty_vec({}, {}, bad_resets=10**9))
    before = statistics(env)
    with pytest.raises(NonFiniteError, match=f"environment 0 is broken: {RESETS} resets in a row"):
        guarded_model(env).learn(32)
    assert equal(statistics(env), before)


# ---------------------------------------------------------------- too much


@pytest.mark.parametrize("loop", LOOPS)
def test_a_rollout_without_a_sample_is_an_error_that_changes_nothing(loop: str) -> None:
    always = dict.fromkeys(range(1000), "both")
    env = VecNormalize(faulty_vec(always, always))
    model = guarded_model(env, **how(loop))
    before = state_of(model)
    with pytest.raises(NonFiniteError, match="every one of the 32 samples of the rollout was dropped"):
        model.learn(32)
    assert same(state_of(model), before)
    assert all(np.isfinite(value).all() for value in statistics(env).values())
    for inner in base_of(env).envs:
        inner.unwrapped.faults.clear()
    model.learn(32)
    assert model.last_update.n_samples == 32


def test_one_sample_is_enough_to_go_on() -> None:
    always = dict.fromkeys(range(1000), "reward")
    model = guarded_model(faulty_vec(always, {n: "reward" for n in range(1000) if n != 7}))
    model.learn(32)
    assert (model.last_update.n_samples, model.last_update.status) == (1, "zero_variance_advantages")


# ---------------------------------------------------------------- the stack of wrappers


class Divides(VecEnvWrapper):
    """A user's wrapper that makes an infinity of its own."""

    def reset(self) -> Any:
        self.count = 0
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.count += 1
        return obs, rewards / (0.0 if self.count == 6 else 1.0), dones, infos


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("mode", ["raise", "truncate"])
@pytest.mark.parametrize("above", [False, True])
def test_a_wrapper_that_makes_an_infinity_is_found_and_named(mode: str, above: bool) -> None:
    inner = faulty_vec({}, {})
    env = Divides(VecNormalize(inner)) if above else VecNormalize(Divides(inner))
    normalize = env.venv if above else env
    model = guarded_model(env, on_nonfinite=mode)
    before = state_of(model)
    with pytest.raises(NonFiniteError, match="non-finite rewards" if above else "a wrapper above the environments made it"):
        model.learn(32)
    assert same(state_of(model), before)
    assert all(np.isfinite(value).all() for value in statistics(normalize).values())
    assert np.isfinite(model.rollout_buffer.rewards).all()


class Everything(BaseCallback):
    """What people do to an environment while a model collects from it."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        if self.n_calls == 3:
            env = self.training_env
            assert isinstance(env, VecNormalize)
            env.save(str(self.folder / "normalize.pkl"))
            self.model.save(self.folder / "model.zip")
            assert env.env_is_wrapped(Monitor) == [True, True]
            assert isinstance(env.unwrapped, DummyVecEnv)
            assert len(env.get_attr("life")) == 2
            twin = copy.deepcopy(env.unwrapped)
            before = [inner.unwrapped.life for inner in env.unwrapped.envs]
            twin.step(np.zeros((2, 3)))
            assert [inner.unwrapped.life for inner in env.unwrapped.envs] == before
            assert [inner.unwrapped.life for inner in twin.envs] == [life + 1 for life in before]
        return True


def test_callbacks_find_the_stack_that_they_know(tmp_path: Path) -> None:
    env = VecNormalize(faulty_vec({5: "both"}, {}))
    evaluation = EvalCallback(VecNormalize(faulty_vec({}), training=False), eval_freq=4, n_eval_episodes=1, verbose=0)
    model = guarded_model(env)
    model.learn(32, [Everything(tmp_path), evaluation])
    assert model.get_env() is env
    assert unhooked(env)
    loaded = VecNormalize.load(str(tmp_path / "normalize.pkl"), faulty_vec({3: "both"}, {}))
    again = TRPO.load(tmp_path / "model.zip", env=loaded)
    again.learn(32)
    assert again.last_update.samples_dropped == 1
    again.set_env(VecNormalize(faulty_vec({4: "both"}, {6: "both"})))
    again.learn(32)
    assert again.last_update.samples_dropped == 2


def test_a_vec_env_of_ones_own_that_overrides_step_is_watched() -> None:
    class Direct(DummyVecEnv):
        def step(self, actions: Any) -> Any:
            self.actions = actions
            return DummyVecEnv.step_wait(self)

    model = collect(guarded_model(faulty_vec({4: "both"}, {}, cls=Direct)))
    assert model.session.recorder.dropped == [(4, 0)]
    assert unhooked(model.env)


# ---------------------------------------------------------------- where an episode can't be ended


def test_impossible_is_said_before_the_first_step() -> None:
    class Strange(OwnBuffer):
        def get(self, batch_size: int | None = None) -> Any:
            return super().get(batch_size)

    with pytest.raises(ValueError, match="truncate' is impossible: the buffer, Strange"):
        guarded_model(faulty_vec({}), rollout_buffer_class=Strange).learn(16)
    strict = DummyVecEnv([lambda: Monitor(Faulty(), allow_early_resets=False)])
    with pytest.raises(ValueError, match="truncate' is impossible: a Monitor forbids"):
        guarded_model(strict).learn(16)
    guarded_model(strict, on_nonfinite="raise").learn(16)


def test_a_vec_env_that_cannot_reset_one_environment_says_so() -> None:
    class Whole(DummyVecEnv):
        def env_is_wrapped(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        def env_method(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("all or none")

    model = guarded_model(faulty_vec({4: "both"}, {}, cls=Whole))
    before = state_of(model)
    with pytest.raises(NonFiniteError, match=r"Whole.env_method.*NotImplementedError\('all or none'\)"):
        model.learn(32)
    assert same(state_of(model), before)
    assert unhooked(model.env)


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("normalised", [False, True])
def test_bounds(dtype: Any, normalised: bool) -> None:
    bounds = Bounds(normalised)
    for value in (np.nan, np.inf, -np.inf):
        array = np.zeros((3, 4), dtype)
        array[1, 2] = value
        assert not bounds.hold(array)
        assert bounds.first_beyond(array) == f"[1, 2] = {value}"
    assert bounds.hold(np.full((3, 4), 6e4, dtype))
    assert bounds.hold(np.zeros((0,), dtype))
    for array in (np.ones(3, int), np.array(["a"]), np.array([True]), 3):
        assert bounds.hold(array)
        assert bounds.first_beyond(array) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_finite_observation_whose_square_is_not_never_reaches_the_variance() -> None:
    # SB3 alone: one observation of 1e20, and the variance is infinite for ever.
    alone = VecNormalize(faulty_vec({4: "observation"}, {}, bad=1e20))
    alone.reset()
    for _ in range(5):
        alone.step(np.zeros((2, 3), np.float32))
    assert np.isinf(alone.obs_rms.var).any()
    env = VecNormalize(faulty_vec({4: "observation"}, {}, bad=1e20))
    model = collect(guarded_model(env))
    assert model.session.recorder.dropped == [(4, 0)]
    assert np.isfinite(env.obs_rms.var).all()
    # Without VecNormalize it is a number like any other.
    assert not collect(guarded_model(faulty_vec({4: "observation"}, {}, bad=1e20))).session.recorder.dropped


# ---------------------------------------------------------------- whatever happens


def _everything_is_finite(model: Any, env: Any) -> None:
    assert all(bool(torch.isfinite(p).all()) for p in [*model.policy.parameters(), *model.policy.buffers()])
    buffer = model.rollout_buffer
    seen = buffer.observations.values() if isinstance(buffer.observations, dict) else [buffer.observations]
    for array in [*seen, buffer.rewards, buffer.values, buffer.advantages, buffer.returns, buffer.log_probs]:
        # What a broken-off rollout has not computed can't be read.
        assert isinstance(array, Late) or np.isfinite(array).all()
    if isinstance(env, VecNormalize):
        assert all(np.isfinite(value).all() for value in statistics(env).values())
    assert all(np.isfinite(episode["r"]) for episode in model.ep_info_buffer)
    assert unhooked(env)


def check_injection(tables: list[dict[int, str]], bad: float, normalised: bool, loop: str, mode: str, is_dict: bool) -> None:
    """Learn in environments that break in any way; at the end, or at the error, everything is finite."""
    env: VecEnv = faulty_vec(*tables, bad=bad, observation_space=DICT if is_dict else VECTOR)
    if normalised:
        env = VecNormalize(env, norm_obs_keys=["body"] if is_dict else None)
    policy, kind = ("MultiInputPolicy", "dict") if is_dict else ("MlpPolicy", "")
    model = guarded_model(env, policy, on_nonfinite=mode, n_steps=8, **how(loop, kind))
    before = state_of(model)
    try:
        model.learn(16 * len(tables))
    except NonFiniteError:
        assert mode == "raise" or any(len(table) >= 8 for table in tables)
        if model._n_updates == 0:
            assert same(state_of(model), before)
    else:
        assert mode == "truncate" or not any(step < 16 for table in tables for step in table)
    _everything_is_finite(model, env)


INJECTIONS = {
    "tables": st.lists(
        st.dictionaries(st.integers(0, 20), st.sampled_from([*FAULTS, "reset"]), max_size=8), min_size=1, max_size=3
    ),
    "bad": st.sampled_from([*BAD, -1e39]),
    "normalised": st.booleans(),
    "loop": st.sampled_from(LOOPS),
    "mode": st.sampled_from(["raise", "truncate"]),
    "is_dict": st.booleans(),
}


@given(**INJECTIONS)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_no_injection_leaves_anything_non_finite(**case: Any) -> None:
    check_injection(**case)


@pytest.mark.slow
@given(**INJECTIONS)
@settings(max_examples=1500, deadline=None)
def test_no_injection_of_many_leaves_anything_non_finite(**case: Any) -> None:
    check_injection(**case)


# ---------------------------------------------------------------- beside sb3-contrib


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("fault", ["observation", "reward"])
def test_sb3_contrib_loses_the_policy_or_the_statistics(fault: str) -> None:
    """What this is for: the same environment leaves sb3-contrib's policy, or VecNormalize, NaN for ever."""

    def finite(model: Any, env: VecNormalize) -> tuple[bool, bool]:
        policy = all(bool(torch.isfinite(p).all()) for p in model.policy.parameters())
        return policy, all(np.isfinite(value).all() for value in statistics(env).values())

    env = VecNormalize(faulty_vec({5: fault}, {}))
    theirs = sb3_contrib.TRPO("MlpPolicy", env, n_steps=16, batch_size=32, seed=0, device="cpu")
    # Whether it ends in torch's "Expected parameter loc" or goes on is a matter of what was hit.
    with suppress(ValueError):
        theirs.learn(64)
    assert finite(theirs, env) != (True, True)
    env = VecNormalize(faulty_vec({5: fault}, {}))
    ours = guarded_model(env)
    ours.learn(64)
    assert finite(ours, env) == (True, True)
    assert ours.last_update.accepted


def test_a_healthy_environment_is_the_same_in_both_modes() -> None:
    states = []
    for mode in ("raise", "truncate"):
        env = VecNormalize(faulty_vec({}, {}))
        model = guarded_model(env, on_nonfinite=mode)
        model.learn(96)
        states.append((state_of(model), statistics(env)))
    assert same(states[0][0], states[1][0])
    assert equal(states[0][1], states[1][1])


def test_a_callback_that_does_nothing_ends_nothing() -> None:
    assert collect(guarded_model(faulty_vec({15: "both"}, {})), Nothing())._last_episode_starts.tolist() == [True, False]
