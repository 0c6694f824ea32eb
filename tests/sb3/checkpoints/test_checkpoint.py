"""A training that goes on from a checkpoint is the one that was not interrupted: numbers, files and counters."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.sb3.checkpoints import environment as environment_state
from sb3_trpo_ext.sb3.checkpoints.files import checkpoints_in
from sb3_trpo_ext.sb3.checkpoints.resumption import Resumption
from sb3_trpo_ext.sb3.errors import CheckpointError
from sb3_trpo_ext.sb3.update.start import RandomStates
from tests.sb3.checkpoints.restorable import BATCH, Shrink, Walk, numbers, trpo, walks

UPDATES, AT = 6, 3
TOTAL = UPDATES * BATCH

SAME_FILES = ("progress.csv", "updates.jsonl", "kl.npy", "entropy.npy", "vf_loss.npy", "advantages.npy")

Trained = tuple[TRPO, list[BaseCallback]]


def every_update(**kwargs: Any) -> Checkpoints:
    return Checkpoints(**{"every_updates": 1, "every_seconds": None, "keep_last": 100, **kwargs})


def broken_off(folder: Path, at: int = AT) -> Path:
    """The same folder as a kill would have left it: what the run went on to write is there, its checkpoints are not."""
    copy = folder.with_name(f"{folder.name}_resumed")
    shutil.copytree(folder, copy)
    for path in checkpoints_in(copy / "checkpoints"):
        if int(path.name.removeprefix("update_")) > at:
            shutil.rmtree(path)
    return copy


def train(
    folder: Path, env: VecEnv, callbacks: list[BaseCallback], learn: dict[str, Any] | None = None, **kwargs: Any
) -> TRPO:
    model = trpo(env, folder, **kwargs)
    return model.learn(TOTAL, [*callbacks, every_update()], **(learn or {}))


def go_on(
    folder: Path, env: VecEnv, callbacks: list[BaseCallback], learn: dict[str, Any] | None = None, **changes: Any
) -> TRPO:
    model = TRPO.resume(folder, env, log_folder=str(folder), **changes)
    assert model.num_timesteps == AT * BATCH
    return model.learn(TOTAL, [*callbacks, every_update()], **(learn or {}))


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gsde": {"use_sde": True},
    "gsde, new noise every 5 steps": {"use_sde": True, "sde_sample_freq": 5},
    "learning-rate schedule": {"learning_rate": lambda remaining: 1e-2 * remaining},
    "damping that does not adapt": {"adaptive_damping": False},
    "kfac, thinned": {"cg_preconditioner": "kfac", "sub_sampling_factor": 2},
    "dropout": {
        "policy_kwargs": {
            "net_arch": [8],
            "activation_fn": lambda: torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Dropout(0.2)),
        }
    },
}


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
@pytest.mark.parametrize("normalised", [False, True], ids=["raw", "normalised"])
def test_same_numbers_and_files(tmp_path: Path, kwargs: dict[str, Any], normalised: bool) -> None:
    folder = tmp_path / "run"
    whole = train(folder, walks(folder, normalised), [TrustRegionMonitor(recorder=False)], **kwargs)
    copy = broken_off(folder)
    resumed = go_on(copy, walks(copy, normalised, append=True), [TrustRegionMonitor(recorder=False)])
    assert torch.equal(numbers(whole), numbers(resumed))
    assert (resumed.num_timesteps, resumed._n_updates) == (TOTAL, UPDATES)
    for name in SAME_FILES:
        assert (folder / name).read_bytes() == (copy / name).read_bytes(), name
    for index in (0, 1):
        assert monitor_rows(folder, index) == monitor_rows(copy, index)
    assert not list(copy.glob("previous_*"))


@pytest.mark.parametrize("at", [1, 5])
@pytest.mark.parametrize(
    "kwargs", [{"observation": "dict"}, {"action": "discrete"}, {"observation": "dict", "action": "discrete"}]
)
def test_other_spaces(tmp_path: Path, kwargs: dict[str, Any], at: int) -> None:
    folder = tmp_path / "run"
    policy = {"policy": "MultiInputPolicy"} if "observation" in kwargs else {}
    whole = train(folder, walks(None, **kwargs), [], **policy)
    resumed = TRPO.resume(broken_off(folder, at), walks(None, **kwargs)).learn(TOTAL, [every_update()])
    assert torch.equal(numbers(whole), numbers(resumed))


def test_a_trust_region_that_follows_progress_and_a_later_resumption_of_a_resumed_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = train(folder, walks(None, True), [Shrink()], log_folder=str(folder))
    copy = broken_off(folder)
    go_on(copy, walks(None, True), [Shrink()])
    again = broken_off(copy)
    resumed = go_on(again, walks(None, True), [Shrink()])
    assert torch.equal(numbers(whole), numbers(resumed))
    assert whole.last_update == resumed.last_update


def monitor_rows(folder: Path, index: int) -> list[tuple[str, str]]:
    lines = (folder / f"{index}.monitor.csv").read_text().splitlines()
    assert lines[0].startswith("#")
    times = [float(line.split(",")[2]) for line in lines[2:]]
    assert times == sorted(times)
    return [tuple(line.split(",")[:2]) for line in lines[1:]]  # type: ignore[misc]


# ---------------------------------------------------------------- planted bugs


def _without(table: dict[type, tuple[str, ...]], kind: type, name: str) -> dict[type, tuple[str, ...]]:
    return {**table, kind: tuple(each for each in table[kind] if each != name)}


def _forget_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RandomStates, "restore", lambda self: None)


def _forget_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_state, "VEC_LAYERS", _without(environment_state.VEC_LAYERS, VecNormalize, "returns"))


def _forget_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "load_state_dict", lambda self, state: None)


def _forget_environments_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_state, "SIMPLE_ATTRIBUTES", ("t_start",))


def _forget_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    excluded = TRPO._excluded_save_params
    monkeypatch.setattr(TRPO, "_excluded_save_params", lambda self: [*excluded(self), "_adapted_damping"])


def _forget_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRPO, "_get_torch_save_params", lambda self: (["policy"], []))


def _shift_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Resumption.begin
    monkeypatch.setattr(
        Resumption,
        "begin",
        lambda self, model, set_up, total, reset, **rest: begin(
            self, model, set_up, total + model.num_timesteps, reset, **rest
        ),
    )


BUGS = [_forget_streams, _forget_returns, _forget_walk, _forget_environments_generator, _forget_damping, _forget_optimizer]


@pytest.mark.parametrize("bug", [*BUGS, _shift_schedule], ids=lambda bug: bug.__name__.strip("_"))
def test_what_is_forgotten_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    folder, kwargs = tmp_path / "run", {"learning_rate": lambda remaining: 1e-2 * remaining, "cg_damping_range": (1e-6, 1.0)}
    bug(monkeypatch)
    whole = train(folder, walks(None, True), [], **kwargs)
    assert whole._adapted_damping != whole.cg_damping
    resumed = go_on(broken_off(folder), walks(None, True), [])
    assert resumed._n_updates != UPDATES or not torch.equal(numbers(whole), numbers(resumed))


# ---------------------------------------------------------------- SB3's callbacks and logs


class Counts(BaseCallback):
    """A user's own callback, which says what it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.dones = 0

    def _on_step(self) -> bool:
        self.dones += int(self.locals["dones"].sum())
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"dones": self.dones}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dones = state["dones"]


def callbacks(folder: Path) -> list[BaseCallback]:
    evaluation = EvalCallback(
        walks(None),
        callback_after_eval=StopTrainingOnNoModelImprovement(100),
        n_eval_episodes=2,
        eval_freq=20,
        log_path=str(folder),
        best_model_save_path=str(folder),
        verbose=0,
    )
    saves = CheckpointCallback(50, str(folder / "saves"))
    return [evaluation, EveryNTimesteps(100, Counts()), Counts(), StopTrainingOnMaxEpisodes(10_000), saves]


def found(parts: list[BaseCallback]) -> list[Any]:
    evaluation, every, counts, stop, saves = parts
    improvement = evaluation.callback
    return [
        *(evaluation.best_mean_reward, evaluation.last_mean_reward, evaluation.evaluations_timesteps, evaluation.n_calls),
        *(improvement.last_best_mean_reward, improvement.no_improvement_evals, improvement.n_calls),
        *(every.last_time_trigger, every.callback.n_calls, counts.dones, stop.n_episodes, saves.n_calls),
    ]


def test_callbacks_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = callbacks(folder)
    train(folder, walks(None), first)
    copy = broken_off(folder)
    second = callbacks(copy)
    go_on(copy, walks(None), second)
    assert found(first) == found(second)
    assert first[0].best_mean_reward > -np.inf
    before, after = (dict(np.load(each / "evaluations.npz")) for each in (folder, copy))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


class Moody(BaseCallback):
    """Takes no state but its own."""

    def _on_step(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("mood")


def test_a_state_that_a_callback_cannot_take_is_one_clear_line(tmp_path: Path) -> None:
    train(tmp_path / "run", walks(None), [Moody()])
    model = TRPO.resume(broken_off(tmp_path / "run"), walks(None))
    kind = re.escape(
        "the callback tests.sb3.checkpoints.test_checkpoint.Moody can't be loaded (KeyError('mood')): resume with the"
    )
    with pytest.raises(CheckpointError, match=f"^the checkpoint's state of {kind}"):
        model.learn(TOTAL, [Moody(), every_update()])


def test_evaluations_behind_the_checkpoint_are_cut(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, walks(None), callbacks(folder))
    copy = broken_off(folder)
    model = TRPO.resume(copy, walks(None))
    model.learn(0, callbacks(copy))  # goes on, with nothing left to do
    assert (
        np.load(copy / "evaluations.npz")["timesteps"].max()
        <= AT * BATCH
        < np.load(folder / "evaluations.npz")["timesteps"].max()
    )


@pytest.mark.parametrize("log_interval", [1, 2])
def test_sb3s_own_logs_go_on(tmp_path: Path, log_interval: int) -> None:
    folder, learn = tmp_path / "run", {"log_interval": log_interval}
    model = trpo(walks(None), folder)
    model.set_logger(configure(str(folder / "sb3"), ["csv", "json", "log", "tensorboard"]))
    model.learn(TOTAL, [every_update()], **learn)
    copy = broken_off(folder)
    go_on(copy, walks(None), [], learn)

    def rows(path: Path) -> list[dict[str, str]]:
        with (path / "sb3/progress.csv").open() as file:
            return [
                {key: value for key, value in row.items() if key not in ("time/fps", "time/time_elapsed")}
                for row in csv.DictReader(file)
            ]

    assert rows(folder) == rows(copy)
    lines = [(each / "sb3/progress.json").read_text().splitlines() for each in (folder, copy)]
    steps = [[json.loads(line).get("time/total_timesteps") for line in each] for each in lines]
    assert steps[0] == steps[1]
    assert len((folder / "sb3/log.txt").read_text().splitlines()) == len((copy / "sb3/log.txt").read_text().splitlines())
    assert scalars(folder / "sb3") == scalars(copy / "sb3")
    assert not (copy / "sb3_1").exists()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    kept = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in kept}


def test_tensorboard_goes_on_in_its_folder_though_another_run_has_begun(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, walks(None), [], tensorboard_log=str(tmp_path / "tb"))
    trpo(walks(None), tmp_path / "other", tensorboard_log=str(tmp_path / "tb")).learn(BATCH)
    go_on(broken_off(folder), walks(None), [])
    assert sorted(path.name for path in (tmp_path / "tb").iterdir()) == ["TRPO_1", "TRPO_2"]
    steps = [step for step, _ in scalars(tmp_path / "tb/TRPO_1")["rollout/ep_rew_mean"]]
    assert steps == [BATCH * n for n in range(1, UPDATES + 1)]


# ---------------------------------------------------------------- what can't go on


def test_an_environment_that_cannot_be_restored_begins_new_episodes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.delattr(Walk, "state_dict")
    train(folder, walks(None, True), [])
    model = TRPO.resume(broken_off(folder), walks(None, True))
    with pytest.warns(UserWarning, match=r"new episodes begin.*Walk has no state_dict\(\) and load_state_dict"):
        model.learn(TOTAL)
    assert model.num_timesteps == TOTAL
    assert model.get_vec_normalize_env().obs_rms.count > TOTAL


def test_worker_processes_begin_new_episodes_with_their_own_generators(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    env = SubprocVecEnv([Walk, Walk], start_method="fork")
    env.seed(3)
    trpo(env, folder).learn(2 * BATCH, [every_update()])
    states = [random.bit_generator.state for random in env.get_attr("np_random")]
    env.close()
    again = SubprocVecEnv([Walk, Walk], start_method="fork")
    again.seed(3)
    model = TRPO.resume(folder, again)
    with pytest.warns(UserWarning, match="a SubprocVecEnv can't be looked into"):
        model.session.resumption.enter(model, again)
    # A step further: each has drawn a new episode's beginning.
    for state, random in zip(states, again.get_attr("np_random"), strict=True):
        generator = np.random.default_rng()
        generator.bit_generator.state = state
        generator.normal(size=3)
        assert random.bit_generator.state == generator.bit_generator.state
    again.close()


def test_other_wrappers_begin_new_episodes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, VecFrameStack(walks(None), 2), [])
    whole = TRPO.load(tmp_path / "run/checkpoints/update_000006/model.zip")
    resumed = go_on(broken_off(folder), VecFrameStack(walks(None), 2), [])
    assert torch.equal(numbers(whole), numbers(resumed))
    shutil.rmtree(folder)
    train(folder, walks(None, True), [])
    with pytest.warns(UserWarning, match=r"its wrappers are none, and were \['VecNormalize'\]"):
        TRPO.resume(folder, walks(None)).learn(TOTAL + BATCH)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no whole checkpoint to resume from"):
        TRPO.resume(tmp_path, walks(None))


def test_what_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, walks(None), [])
    newest = folder / "checkpoints/update_000006/state.pkl"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"checkpoint update_000006 is passed over: state.pkl has \d+ bytes instead of \d+"):
        assert TRPO.resume(folder, walks(None))._n_updates == 5


# ---------------------------------------------------------------- when they are taken


def test_cadence_retention_and_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trpo(walks(None), folder).learn(8 * BATCH, [every_update(every_updates=3, keep_last=2, keep_best=False)])
    assert [path.name for path in checkpoints_in(folder / "checkpoints")] == ["update_000006", "update_000008"]


def test_the_clock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trpo(walks(None), folder).learn(3 * BATCH, [every_update(every_updates=100, every_seconds=1e-9)])
    assert len(checkpoints_in(folder / "checkpoints")) == 3


def test_none_in_the_middle_of_a_rollout(tmp_path: Path) -> None:
    class Ends(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 2.5 * BATCH

    folder = tmp_path / "run"
    trpo(walks(None), folder).learn(8 * BATCH, [every_update(every_updates=2), Ends()])
    assert [path.name for path in checkpoints_in(folder / "checkpoints")] == ["update_000002"]


def test_a_disk_that_is_full_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("sb3_trpo_ext.sb3.checkpoints.callback.write_checkpoint", full)
    with pytest.warns(UserWarning, match="a checkpoint can't be written .*no space left") as warned:
        model = trpo(walks(None), tmp_path / "run").learn(3 * BATCH, [every_update()])
    assert model._n_updates == 3
    assert sum("can't be written" in str(each.message) for each in warned) == 1


@pytest.mark.parametrize("name", ["every_updates", "keep_last", "every_seconds"])
def test_impossible_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0 is impossible"):
        Checkpoints(**{name: 0})


def test_a_run_without_a_folder_is_told_at_the_start() -> None:
    with pytest.raises(ValueError, match="this run logs nothing, so it has no folder"):
        trpo(walks(None), None).learn(BATCH, [Checkpoints()])


def test_learn_that_adds_steps_goes_on_to_the_same_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = trpo(walks(None), folder, learning_rate=lambda remaining: 1e-2 * remaining)
    model.learn(BATCH)
    model.learn(TOTAL, [every_update()], reset_num_timesteps=False)
    copy = broken_off(folder)
    resumed = TRPO.resume(copy, walks(None), log_folder=str(copy)).learn(TOTAL, reset_num_timesteps=False)
    assert resumed.num_timesteps == TOTAL + BATCH
    assert torch.equal(numbers(model), numbers(resumed))
