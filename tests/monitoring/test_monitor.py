"""What all monitors have in common: when they look, what they raise and keep, and how they are made."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from rl_zoo3.utils import get_callback_list
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, configure

import sb3_trpo_ext.monitoring
from sb3_trpo_ext import TRPO, UpdateReport
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.monitoring import (
    ALARMS,
    Alarm,
    DeadNeuronMonitor,
    KLMonitor,
    Monitor,
    Severity,
    TrustRegionMonitor,
    TrustRegionWarning,
)
from sb3_trpo_ext.monitoring.alarm import Evidence
from sb3_trpo_ext.monitoring.entropy_monitor import slope
from sb3_trpo_ext.monitoring.monitor import CALM_UPDATES, WINDOW
from tests.monitoring.reports import make_report
from tests.monitoring.scenarios import healthy, make_model, planted
from tests.sb3.spaces import collect, same, state_of

MONITORS = [
    "KLMonitor",
    "EntropyMonitor",
    "DeadNeuronMonitor",
    "ConjugateGradientMonitor",
    "ValueFunctionMonitor",
    "AdvantageMonitor",
]
ALL = [*MONITORS, "TrustRegionMonitor"]


class Told(Monitor):
    """In trouble in the updates that it is told."""

    def __init__(self, *updates: int, code: str = "TR102", **settings: Any):
        super().__init__(**settings)
        self.updates, self.code = updates, code

    def judge(self, report: UpdateReport) -> Iterator[tuple[str, Evidence]]:
        if report.n_updates in self.updates:
            yield self.code, {"n": report.n_updates}


class Model:
    """As much of a model as a monitor reads."""

    def __init__(self) -> None:
        self.last_update: UpdateReport | None = None
        self.subscribed: list[str] = []
        self.run_folder: Path | None = None
        self.num_timesteps = 0
        self.logger = Logger(folder=None, output_formats=[])

    def subscribe(self, *names: str) -> None:
        self.subscribed += names


def play(monitor: Monitor, n_updates: int, first: int = 1, model: Model | None = None) -> list[int]:
    """Let it see updates; in which of them it raised an alarm."""
    model = model or Model()
    before = len(monitor.alarms)
    monitor.init_callback(model)  # type: ignore[arg-type]
    monitor.on_training_start({}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + n_updates):
            monitor.on_rollout_start()
            model.last_update = make_report(number)
        monitor.on_training_end()
        monitor.on_training_end()
    return [alarm.n_updates for alarm in monitor.alarms[before:]]


# ---------------------------------------------------------------- episodes of trouble


@pytest.mark.parametrize(
    ("troubled", "raised"),
    [
        ((), []),
        ((1,), [1]),
        (tuple(range(3, 30)), [3]),
        # It comes and goes: one episode.
        ((3, 5, 9, 14), [3]),
        ((3, 3 + CALM_UPDATES), [3]),
        # Over after so many calm updates, and not before.
        ((3, 4 + CALM_UPDATES), [3, 4 + CALM_UPDATES]),
        ((30,), [30]),
    ],
)
def test_an_alarm_is_raised_once_when_trouble_begins(troubled: tuple[int, ...], raised: list[int]) -> None:
    assert play(Told(*troubled), 30) == raised


@pytest.mark.parametrize(("between", "raised"), [(0.08, [3]), (0.07, [3, 23])])
def test_a_layer_that_keeps_about_a_tenth_of_its_units_dead_is_one_trouble(between: float, raised: list[int]) -> None:
    monitor, model = DeadNeuronMonitor(), Model()
    monitor.init_callback(model)  # type: ignore[arg-type]
    monitor.on_training_start({}, {})
    shares = [0.12] * 10 + [between] * 10 + [0.12] * 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, share in enumerate(shares, start=1):
            layer = {"layer_names": ("critic 3",), "layer_units": (64,), "layer_dead": (share,), "layer_saturated": (0.0,)}
            model.last_update = make_report(number, activity_samples=256, **layer)
            monitor.on_rollout_start()
    assert [alarm.n_updates for alarm in monitor.alarms] == raised


def test_an_update_is_judged_once_also_the_last_one() -> None:
    monitor = Told(*range(1, 8))
    model = Model()
    monitor.init_callback(model)  # type: ignore[arg-type]
    model.last_update = make_report(1)
    monitor.on_training_start({}, {})
    for _ in range(3):
        # From before this monitor was there.
        monitor.on_rollout_start()
    assert list(monitor.reports) == []
    model.last_update = make_report(2)
    for _ in range(3):
        monitor.on_training_end()
    assert [report.n_updates for report in monitor.reports] == [2]


def test_no_more_is_remembered_than_a_window() -> None:
    monitor = Told()
    play(monitor, WINDOW + 15)
    assert [report.n_updates for report in monitor.reports] == list(range(16, WINDOW + 16))
    assert [report.n_updates for report in monitor.recent(3)] == [WINDOW + 13, WINDOW + 14, WINDOW + 15]
    assert monitor.recent(WINDOW + 1) == []


@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("on_trouble", ["warn", "stop"])
def test_what_severities_do(severity: Severity, on_trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    monkeypatch.setitem(ALARMS, "TR102", dataclasses.replace(ALARMS["TR102"], severity=severity))
    monitor = Told(1, on_trouble=on_trouble)
    model = Model()
    monitor.init_callback(model)  # type: ignore[arg-type]
    monitor.on_training_start({}, {})
    assert monitor.on_step()
    model.last_update = make_report(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor.on_rollout_start()
    assert [alarm.code for alarm in monitor.alarms] == ["TR102"]
    assert len(caught) == (severity is not Severity.INFO)
    stops = severity is Severity.CRITICAL and on_trouble == "stop"
    assert [monitor.on_step() for _ in range(2)] == [not stops] * 2
    assert any("Training stops" in str(one.message) for one in caught) == stops


def test_alarms_can_be_silenced_and_are_kept() -> None:
    monitor = Told(1)
    model = Model()
    monitor.init_callback(model)  # type: ignore[arg-type]
    model.last_update = make_report(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", TrustRegionWarning)
        monitor.on_rollout_start()
    assert len(monitor.alarms) == 1


def test_a_full_disk_does_not_stop_a_run(tmp_path: Path) -> None:
    model = Model()
    model.run_folder = tmp_path / "is" / "not" / "there"
    model.last_update = make_report(1)
    monitor = Told(1)
    monitor.init_callback(model)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"alarms.jsonl can't be written"):
        monitor.on_rollout_start()
    assert len(monitor.alarms) == 1


@pytest.mark.parametrize("resumed", [KLMonitor, TrustRegionMonitor])
def test_a_resumed_monitor_goes_on(resumed: Any) -> None:
    # Two runs of 12 updates of which the second goes on, and one of 24.
    model = make_model(cg_damping=1e3, adaptive_damping=False)
    whole, first = resumed(), resumed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(9 * 256, callback=[whole, first])
        state = first.state_dict()
        second = resumed()
        second.load_state_dict(state)
        model.learn(9 * 256, callback=[whole, second], reset_num_timesteps=False)
    assert [alarm.code for alarm in whole.alarms] == ["TR105"]
    assert second.alarms == whole.alarms
    assert second.state_dict() == whole.state_dict()
    assert first.alarms == []


@pytest.mark.parametrize(
    "spoil",
    [
        {"code": "TR999"},
        {"evidence": 1},
        {"evidence": {"a": float("nan")}},
        {"code": None},
        {"more": 1},
    ],
    ids=["unknown code", "no evidence", "NaN", "no code", "a field too many"],
)
def test_an_alarm_that_is_none_is_one_clear_error(spoil: dict[str, Any]) -> None:
    monitor = Told(3)
    play(monitor, 4)
    state = monitor.state_dict()
    state["alarms"][0].update(spoil)
    with pytest.raises(ValueError, match=r"^no alarm: \{'code': ") as caught:
        Told().load_state_dict(state)
    assert "\n" not in str(caught.value)


def test_a_state_of_before_alarms_were_counted() -> None:
    monitor, again = Told(3), Told()
    play(monitor, 4)
    state = monitor.state_dict()
    del state["raised"]
    again.load_state_dict(state)
    assert again.state_dict() == monitor.state_dict()


def test_states_are_plain_data() -> None:
    import json

    monitor = TrustRegionMonitor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planted(1.0).learn(4 * 256, callback=monitor)
    again = TrustRegionMonitor()
    again.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert again.alarms == monitor.alarms != []
    assert again.state_dict() == monitor.state_dict()


# ---------------------------------------------------------------- making them


@pytest.mark.parametrize("name", ALL)
def test_the_zoo_makes_them_by_dotted_name(name: str) -> None:
    dotted = f"sb3_trpo_ext.monitoring.{name}"
    (monitor,) = get_callback_list({"callback": dotted})
    assert type(monitor) is getattr(sb3_trpo_ext.monitoring, name)
    (monitor,) = get_callback_list({"callback": [{dotted: {"on_trouble": "stop"}}]})
    assert {one.on_trouble for one in getattr(monitor, "monitors", [monitor])} == {"stop"}


def test_all_of_them_with_thresholds_of_their_own() -> None:
    settings = {"kl": {"drift_share": 7.0}, "advantages": {"on_trouble": "warn", "bias": 0.9}, "on_trouble": "stop"}
    (monitor,) = get_callback_list({"callback": [{"sb3_trpo_ext.monitoring.TrustRegionMonitor": settings}]})
    assert [type(one).__name__ for one in monitor.monitors] == MONITORS
    kl, *_, advantages = monitor.monitors
    assert (kl.drift_share, kl.spike, kl.on_trouble) == (7.0, KLMonitor().spike, "stop")
    assert (advantages.bias, advantages.on_trouble) == (0.9, "warn")


def test_thresholds_have_an_effect() -> None:
    # Of every monitor: a limit that any run passes.
    settings = {
        "kl": {"drift_share": 0.0},
        "entropy": {"growth": 0.0},
        "neurons": {"inactive": 0.0},
        "cg": {"failures": 0},
        "value": {"unconverged": 0.0},
        "advantages": {"top_weight": 0.0},
    }
    expected = {"TR102", "TR203", "TR301", "TR302", "TR401", "TR402", "TR501", "TR603"}
    monitor = TrustRegionMonitor(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        healthy().learn(12 * 256, callback=monitor)
    assert {alarm.code for alarm in monitor.alarms} == expected


@pytest.mark.parametrize("name", MONITORS)
def test_another_word_for_trouble_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="on_trouble='halt' is neither 'warn' nor 'stop'"):
        getattr(sb3_trpo_ext.monitoring, name)(on_trouble="halt")


@pytest.mark.parametrize("cls", [sb3_contrib.TRPO, PPO])
@pytest.mark.parametrize("name", ALL)
def test_other_algorithms_get_one_clear_error(cls: Any, name: str) -> None:
    model = cls("MlpPolicy", "CartPole-v1", n_steps=32, device="cpu")
    with pytest.raises(
        TypeError, match=rf"reads reports of sb3_trpo_ext.TRPO; this model is .*{cls.__name__}, which makes none"
    ):
        model.learn(32, callback=getattr(sb3_trpo_ext.monitoring, name)())


# ---------------------------------------------------------------- with a model


def test_they_subscribe_to_what_they_read_and_to_nothing_else() -> None:
    wanted = {
        "KLMonitor": {Diagnostic.DRIFT},
        "EntropyMonitor": set(),
        "DeadNeuronMonitor": {Diagnostic.ACTIVITY},
        "ConjugateGradientMonitor": set(),
        "ValueFunctionMonitor": {Diagnostic.EPISODES},
        "AdvantageMonitor": {Diagnostic.RESIDUALS, Diagnostic.TAILS},
        "TrustRegionMonitor": set(Diagnostic),
    }
    for name in ALL:
        model = healthy()
        getattr(sb3_trpo_ext.monitoring, name)().init_callback(model)
        assert model.session.diagnosis.subscribed == wanted[name]


def test_a_run_is_the_same_bit_for_bit_with_monitors() -> None:
    states = []
    for callback in (None, TrustRegionMonitor()):
        model = make_model()
        model.learn(5 * 256, callback=callback)
        states.append((state_of(model), float(torch.rand(1)), float(np.random.rand())))  # noqa: NPY002
    assert same(*[state for state, _, _ in states])
    assert states[0][1:] == states[1][1:]


def test_monitors_and_saved_models(tmp_path: Path) -> None:
    model, monitor = healthy(), TrustRegionMonitor()
    model.learn(3 * 256, callback=monitor)
    model.save(tmp_path / "model.zip")
    loaded = TRPO.load(tmp_path / "model.zip", env=model.get_env())
    assert loaded.session.diagnosis.subscribed == set()
    loaded.learn(3 * 256, callback=monitor, reset_num_timesteps=False)
    assert [report.n_updates for report in monitor.monitors[0].reports] == [1, 2, 3, 4, 5, 6]
    # What the update before left behind for the next one's diagnostics is not saved.
    drifts = [report.drift_kl is not None for report in monitor.monitors[0].reports]
    assert drifts == [False, True, True, False, True, True]
    plain = sb3_contrib.TRPO.load(tmp_path / "model.zip", env=model.get_env())
    plain.learn(256)


def test_several_calls_of_learn() -> None:
    model, monitor = healthy(), TrustRegionMonitor()
    for reset in (True, True, False):
        model.learn(2 * 256, callback=monitor, reset_num_timesteps=reset)
    for one in monitor.monitors:
        assert [report.n_updates for report in one.reports] == [1, 2, 3, 4, 5, 6]


def test_figures_are_logged() -> None:
    model, monitor = healthy(), TrustRegionMonitor()
    seen: set[str] = set()
    record = Logger.record

    class Watched(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            assert np.isfinite(value)
            seen.add(key)
            record(self, key, value, exclude)

    model.set_logger(Watched(folder=None, output_formats=[]))
    model.learn(22 * 256, callback=monitor)
    expected = (
        "kl_share kl_max_share kl_max_spike drift_share backtracks rejected_share entropy_slope exploration_left "
        "exploration_lost cg_retries value_loss_trend extra_critic_epochs flattery value_loss_rise explained_variance_fall "
        "advantage_mean advantage_std td_bias_share "
        "td_bias_share_by_time actor_inactive_1 actor_inactive_2 critic_inactive_1 critic_inactive_2"
    )
    assert {f"monitor/{name}" for name in expected.split()} <= seen
    logged = {key for key in seen if key.startswith("train/")}
    assert {"train/drift_kl", "train/actor_inactive_units", "train/td_bias_z", "train/explained_variance_mc"} <= logged


@pytest.mark.parametrize("kinds", [["stdout"], ["log"], ["json"], ["csv", "tensorboard"]])
def test_every_output_of_sb3_takes_the_figures(kinds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """SB3's table cuts names off at 36 characters, and raises where two of them are then the same."""
    model = healthy()
    model.set_logger(configure("logs", kinds))
    model.learn(3 * 256, callback=TrustRegionMonitor())
    assert "monitor/" not in capsys.readouterr().out
    if kinds == ["json"]:
        assert "monitor/critic_inactive_2" in Path("logs/progress.json").read_text()


def test_slopes() -> None:
    assert slope([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2.0)
    values = np.random.default_rng(0).standard_normal(20)
    assert slope(values.tolist()) == pytest.approx(np.polyfit(np.arange(20), values, 1)[0])
    assert slope([1.0, 2.0]) is None


# ---------------------------------------------------------------- the table


def test_the_table_of_alarms() -> None:
    assert all(code == kind.code and code[:2] == "TR" and code[2] in "123456" for code, kind in ALARMS.items())
    assert list(ALARMS) == sorted(ALARMS)
    assert len({kind.name for kind in ALARMS.values()}) == len(ALARMS)
    for kind in ALARMS.values():
        assert kind.meaning.endswith(".")
        assert kind.remedy.endswith((".", ".)"))
    dead = ALARMS["TR301"].remedy
    for advice in ("tanh or leaky ReLU", "smaller critic learning rate", "smaller target_kl", "Some texts advise a larger"):
        assert advice in dead


def test_an_alarm_in_words() -> None:
    alarm = Alarm("TR102", 7, 1792, {"drift_kl": 0.123456, "layer": "actor 1", "n": 3})
    text = str(alarm)
    assert text.startswith("TR102 drift (warning, update 7, 1792 steps): On the next batch")
    assert "[drift_kl 0.123, layer actor 1, n 3]" in text
    assert text.endswith(ALARMS["TR102"].remedy)


def test_unknown_diagnostics_are_refused_by_name() -> None:
    model = healthy()
    with pytest.raises(ValueError, match=r"no diagnostic 'activty': you maybe meant 'activity'. There are: activity, drift"):
        model.subscribe("drift", "activty")
    collect(model).train()
    assert model.last_update.activity_samples is None
