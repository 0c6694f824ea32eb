"""The flight recorder in real runs: what is dumped, when, and what a run that dies leaves."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo_ext
from sb3_trpo_ext import NonFiniteError
from sb3_trpo_ext.monitoring import Alarm, FlightRecorder, KLMonitor
from sb3_trpo_ext.records.dump import read_dump
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, Nothing, RandomEnv, make_model


def names(folder: Path = Path("run/dumps")) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json"))


def model(**kwargs: Any) -> Any:
    return make_model(n_steps=32, log_folder="run", **kwargs)


def skipping() -> Any:
    """No critic explains everything: every policy step is skipped."""
    return model(min_explained_variance=1.0)


def test_a_healthy_run_leaves_no_dump() -> None:
    recorder = FlightRecorder()
    model().learn(192, callback=recorder)
    assert names() == []
    assert [report.n_updates for report in recorder.reports] == [1, 2, 3]


def test_an_update_that_was_not_accepted_is_dumped_once_in_a_row() -> None:
    recorder = FlightRecorder(ring=2)
    trained = skipping().learn(64 * 5, callback=recorder)
    status = trained.last_update.status
    assert status != "accepted"
    assert names() == [f"update_000001_{status}"]
    dump = read_dump(recorder.dumps[0])
    assert len(recorder.dumps) == 1
    assert dump.header["reasons"] == [status]
    assert dump.header["report"]["status"] == status
    assert len(recorder.reports) == 2


class Alarming(BaseCallback):
    """Stands for a monitor: raises alarms of given kinds at given updates."""

    def __init__(self, codes: dict[int, str]):
        super().__init__()
        self.codes, self.alarms = codes, []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        update = self.model.last_update
        if update is not None and update.n_updates in self.codes:
            self.alarms.append(Alarm(self.codes[update.n_updates], update.n_updates, update.num_timesteps, {"x": 1.0}))


@pytest.mark.parametrize("order", [0, 1])
def test_the_first_alarm_of_a_kind_is_dumped_wherever_the_monitor_stands(order: int) -> None:
    alarming = Alarming({1: "TR101", 2: "TR101", 3: "TR102"})
    recorder = FlightRecorder()
    callbacks: list[BaseCallback] = [CallbackList([alarming]), recorder]
    model().learn(64 * 5, callback=callbacks if order else callbacks[::-1])
    assert names() == ["update_000001_alarm_TR101", "update_000003_alarm_TR102"]
    dump = read_dump(Path("run/dumps/update_000003_alarm_TR102"))
    assert [alarm["code"] for alarm in dump.header["alarms"]] == ["TR101", "TR101", "TR102"]
    assert [report["n_updates"] for report in dump.header["earlier_reports"]] == [1, 2, 3]
    assert dump.header["n_updates"] == 3


def test_it_works_beside_real_monitors() -> None:
    model().learn(128, callback=[KLMonitor(), FlightRecorder()])
    assert names() == []


def test_the_number_of_dumps_is_bounded_and_the_first_of_a_kind_stay() -> None:
    codes = ["TR101", "TR102", "TR103", "TR201", "TR301", "TR401"]
    alarming = Alarming({number + 1: code for number, code in enumerate(codes)})
    recorder = FlightRecorder(max_dumps=3)
    trained = model()
    trained.learn(64 * 8, callback=[alarming, recorder])
    assert [path.name[7:] for path in recorder.dumps] == names_of(4, 5, 6, codes)
    assert sorted(path.name for path in Path("run/dumps").iterdir()) == sorted(
        f"{name}.{kind}" for name in names() for kind in ("json", "npz")
    )
    # Somebody who goes on has no more of them.
    trained.learn(64, callback=[Alarming({9: "TR601"}), FlightRecorder(max_dumps=3)], reset_num_timesteps=False)
    assert len(names()) == 3


def names_of(*numbers_and_codes: Any) -> list[str]:
    *numbers, codes = numbers_and_codes
    return [f"{number:06d}_alarm_{codes[number - 1]}" for number in numbers]


def test_what_a_run_died_of_is_kept() -> None:
    recorder = FlightRecorder(max_dumps=1)
    with pytest.raises(RuntimeError, match="fell off the table"):
        model(env=breaking_env(170)).learn(1000, callback=[Alarming({1: "TR101"}), recorder])
    assert names() == ["update_000005_died"]
    # The same update once more: it died twice without another.
    Breaks.at = 3
    with pytest.raises(RuntimeError, match="fell off the table"):
        recorder.model.learn(1000, callback=recorder, reset_num_timesteps=False)
    assert names() == ["update_000005_died"]


def test_a_run_that_dies_in_its_first_update_leaves_it() -> None:
    class AtOnce(Nothing):
        def _on_rollout_end(self) -> None:
            self.model.rollout_buffer.advantages[3, 1] = np.inf

    with pytest.raises(NonFiniteError):
        model().learn(1000, callback=[AtOnce(), FlightRecorder()])
    assert names() == ["update_000001_died"]


def test_another_run_in_the_folder_puts_the_dumps_aside() -> None:
    for _ in range(2):
        skipping().learn(128, callback=FlightRecorder())
    assert len(names()) == len(names(Path("run/previous_1/dumps"))) == 1


def test_what_others_call_alarms_disturbs_nothing() -> None:
    class Odd(Nothing):
        alarms: Any = "fire"

    class Number(Nothing):
        alarms = 3

    skipping().learn(128, callback=[Odd(), Number(), FlightRecorder()])
    assert len(names()) == 1


def test_without_a_recorder_nothing_is_kept() -> None:
    trained = model().learn(128)
    assert trained.session.update_start is None


def test_a_dump_that_is_too_large_is_left_out_and_said() -> None:
    with pytest.warns(UserWarning, match=r"a dump of \d+ MiB is left out: max_mib=1"):
        make_model("box", "image", n_steps=512, log_folder="run", n_critic_updates=0, min_explained_variance=1.0).learn(
            1024, callback=FlightRecorder(max_mib=1)
        )
    assert names() == []


class Breaks(RandomEnv):
    """Dies after a number of steps."""

    at = 80

    def step(self, action: Any) -> Any:
        Breaks.at -= 1
        if Breaks.at == 0:
            raise RuntimeError("the robot fell off the table")
        return super().step(action)


def breaking_env(at: int) -> Any:
    Breaks.at = at
    return DummyVecEnv([lambda: Breaks(OBSERVATIONS["vector"][0], ACTIONS["box"][0])])


def test_a_run_that_dies_of_an_exception_leaves_its_last_update() -> None:
    trained = model(env=breaking_env(80))
    with pytest.raises(RuntimeError, match="fell off the table"):
        trained.learn(1000, callback=FlightRecorder())
    assert names() == ["update_000002_died"]
    dump = read_dump(Path("run/dumps/update_000002_died"))
    assert dump.header["error"] == "RuntimeError: the robot fell off the table"
    assert dump.header["report"]["n_updates"] == 2
    assert dump.part("after")


def test_a_run_that_dies_before_its_first_update_has_nothing_to_leave() -> None:
    with pytest.raises(RuntimeError, match="fell off"):
        model(env=breaking_env(5)).learn(1000, callback=FlightRecorder())
    assert not Path("run/dumps").exists()


class Poison(Nothing):
    """Makes an advantage infinite after the second rollout."""

    def _on_rollout_end(self) -> None:
        if self.model.num_timesteps > 64:
            self.model.rollout_buffer.advantages[3, 1] = np.inf


def test_an_update_that_raised_is_dumped_as_it_began() -> None:
    trained = model()
    with pytest.raises(NonFiniteError):
        trained.learn(1000, callback=[Poison(), FlightRecorder()])
    assert names() == ["update_000002_died"]
    dump = read_dump(Path("run/dumps/update_000002_died"))
    assert dump.header["report"] is None
    assert dump.header["error"].startswith("NonFiniteError: non-finite advantages")
    assert not dump.part("after")
    assert np.isinf(dump.arrays["batch/advantages"]).sum() == 1
    before = {name: tensor.numpy().tobytes() for name, tensor in trained.policy.state_dict().items()}
    assert {name: array.tobytes() for name, array in dump.part("before").items()} == before


def test_ctrl_c_is_no_death() -> None:
    class Interrupts(Nothing):
        def _on_step(self) -> bool:
            if self.num_timesteps > 100:
                raise KeyboardInterrupt
            return True

    with pytest.raises(KeyboardInterrupt):
        model().learn(1000, callback=[Interrupts(), FlightRecorder()])
    assert names() == []


def test_what_goes_wrong_in_an_observer_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FlightRecorder, "_dump", broken)
    with (
        pytest.warns(UserWarning, match="ZeroDivisionError"),
        pytest.raises(RuntimeError, match="fell off the table"),
    ):
        model(env=breaking_env(80)).learn(1000, callback=FlightRecorder())


def test_training_again_adds_no_second_observer() -> None:
    recorder, trained = FlightRecorder(), model()
    for _ in range(3):
        trained.learn(64, callback=recorder, reset_num_timesteps=False)
    assert len(trained.session.failure_observers) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


SCRIPT = """
    import os, signal
    from stable_baselines3.common.callbacks import BaseCallback
    from sb3_trpo_ext import TRPO
    from sb3_trpo_ext.monitoring import FlightRecorder

    class Ready(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 300:
                print("ready", flush=True)
            return True

    TRPO("MlpPolicy", "CartPole-v1", n_steps=64, log_folder="run", seed=0).learn(10**8, callback=[Ready(), FlightRecorder()])
"""


def test_sigterm_leaves_the_last_update() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT)], env=environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    (name,) = names()
    dump = read_dump(Path("run/dumps") / name)
    assert dump.header["reasons"] == ["died"]
    assert dump.header["error"] == "SIGTERM"
    assert dump.header["n_updates"] >= 4


def test_bad_settings_and_another_librarys_model_are_refused() -> None:
    with pytest.raises(ValueError, match="max_dumps=0 is impossible"):
        FlightRecorder(max_dumps=0)
    with pytest.raises(TypeError, match=r"this model is sb3_contrib\.trpo\.trpo\.TRPO"):
        make_model(cls=sb3_contrib.TRPO).learn(64, callback=FlightRecorder())


def test_it_changes_nothing() -> None:
    trained = []
    for callback in (None, FlightRecorder()):
        one = skipping().learn(192, callback=callback)
        trained.append(torch.cat([p.detach().flatten() for p in one.policy.parameters()]).numpy().tobytes())
    assert trained[0] == trained[1]
    assert names() != []
