"""``state.pkl`` is plain data under names that stay: any file of ours can be moved, and what can't be read is one line."""

from __future__ import annotations

import pickle
import pickletools
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import configure

from sb3_trpo_ext import Checkpoints
from sb3_trpo_ext.monitoring import TrustRegionMonitor, WandbMonitor
from sb3_trpo_ext.sb3.checkpoints.callback_states import callback_states
from sb3_trpo_ext.sb3.checkpoints.files import FORMAT, OLDEST
from sb3_trpo_ext.sb3.checkpoints.state import read_state, to_plain
from sb3_trpo_ext.sb3.errors import CheckpointError
from tests.sb3.checkpoints.restorable import BATCH, trpo, walks


class KLMonitor(BaseCallback):
    """A user's own, of the name of one of ours."""

    def _on_step(self) -> bool:
        return True


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a run with every monitor, an alarm, and all of SB3's logs."""
    folder = tmp_path_factory.mktemp("run")
    model = trpo(walks(folder, True), folder)
    model.set_logger(configure(str(folder / "log"), ["csv", "json", "log", "tensorboard"]))
    given = [
        TrustRegionMonitor(kl={"drift_share": 0.0}),
        EvalCallback(walks(None, True), eval_freq=32, verbose=0),
        KLMonitor(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(3 * BATCH, [*given, Checkpoints(every_updates=1, every_seconds=None)])
    return (folder / "checkpoints/update_000003/state.pkl").read_bytes()


def test_nothing_in_it_bears_the_name_of_a_module_of_ours(content: bytes) -> None:
    assert [arg for _, arg, _ in pickletools.genops(content) if "sb3_trpo_ext" in str(arg)] == []
    plain = pickle.loads(content)
    assert type(plain) is dict
    assert plain["format"] == FORMAT
    assert len(plain["logs"]["outputs"]) == 4
    # Its state beside theirs; and an alarm is in it.
    assert {"KLMonitor 1", "FlightRecorder 1", "EvalCallback 1", f"{__name__}.KLMonitor 1"} <= {*plain["callbacks"]}
    assert plain["callbacks"]["KLMonitor 1"]["own"]["alarms"]
    again = to_plain(read_state(content))
    assert {*again} == {*plain}
    assert cloudpickle.dumps(again["callbacks"]) == cloudpickle.dumps(plain["callbacks"])


def test_the_state_of_the_monitor_of_wandb_is_plain() -> None:
    assert b"sb3_trpo_ext" not in pickle.dumps(WandbMonitor().state_dict())


def test_callbacks_of_one_name_are_counted() -> None:
    given = Checkpoints(), KLMonitor(), KLMonitor(), Checkpoints()
    states = callback_states(type("Holds", (KLMonitor,), {"__module__": "mine"})())
    assert [*states] == ["mine.Holds 1"]
    root = KLMonitor()
    root.held = given  # type: ignore[attr-defined]
    own = f"{__name__}.KLMonitor"
    assert [*callback_states(root)] == [f"{own} 1", "Checkpoints 1", f"{own} 2", f"{own} 3", "Checkpoints 2"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (pickle.dumps({"format": FORMAT + 1}), f"its format is {FORMAT + 1}, and this version reads {OLDEST} to {FORMAT}"),
        (pickle.dumps({"format": FORMAT}), "KeyError"),
        (pickle.dumps([1]), "its format is None"),
        (pickle.dumps(Path("a\nb")), "its format is None"),
        (b"no pickle", "UnpicklingError"),
        (b"csb3_trpo_ext.gone\nThing\n.", "No module named"),
    ],
)
def test_what_is_not_a_state_is_refused_in_one_line(other: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=r"^state.pkl can't be read \(.*" + said) as caught:
        read_state(other)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- format 2


def old_class(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that this version has no more, where it was."""

    @dataclass
    class Old:
        pass

    Old.__module__, Old.__qualname__, Old.__name__ = f"sb3_trpo_ext.sb3.{module}", name, name
    monkeypatch.setitem(sys.modules, Old.__module__, ModuleType(Old.__module__))
    setattr(sys.modules[Old.__module__], name, Old)
    return Old


def made(kind: Any, values: dict[str, Any]) -> Any:
    found = kind()
    vars(found).update(values)
    return found


def test_an_old_state_is_read_whatever_was_logged(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    now = read_state(content)
    output = old_class("log_outputs", "Output", monkeypatch)
    outputs = tuple(made(output, values) for values in now.logs.outputs)
    old = made(
        old_class("checkpoint_state", "TrainingState", monkeypatch),
        {
            **vars(now),
            "streams": made(old_class("update_start", "RandomStates", monkeypatch), vars(now.streams)),
            "environment": made(old_class("environment_state", "EnvironmentState", monkeypatch), vars(now.environment)),
            "logs": made(old_class("gone", "LogPositions", monkeypatch), {**vars(now.logs), "outputs": outputs}),
            "callbacks": {"sb3_trpo_ext.monitoring.kl_monitor.KLMonitor 1": {}, "mine.KLMonitor 1": {}},
        },
    )
    pickled = pickle.dumps(old)
    monkeypatch.undo()
    read = read_state(pickled)
    assert read.logs == now.logs
    assert (read.first_update, read.report) == (now.first_update, now.report)
    assert [*read.callbacks] == ["KLMonitor 1", "mine.KLMonitor 1"]
