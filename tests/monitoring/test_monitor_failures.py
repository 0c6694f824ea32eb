"""What a review found: monitors that judge what was not tested, fail, are reused, or stand where little is passed on."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from stable_baselines3.common.callbacks import EveryNTimesteps

import sb3_trpo_ext.monitoring
from sb3_trpo_ext import UpdateReport
from sb3_trpo_ext.monitoring import KLMonitor, TrustRegionMonitor, TrustRegionWarning
from sb3_trpo_ext.monitoring.alarm import Evidence
from tests.monitoring.reports import make_report
from tests.monitoring.scenarios import healthy, planted
from tests.monitoring.test_monitor import ALL, Model

# ---------------------------------------------------------------- bias by time


def by_time(shares: tuple[float, ...], scores: tuple[float, ...], overall: float = 0.0) -> set[str]:
    """Codes that ten updates with such bins raise."""
    monitor = sb3_trpo_ext.monitoring.AdvantageMonitor()
    codes: set[str] = set()
    for number in range(1, 11):
        bins = {"td_time_starts": (0, 16), "td_time_means": tuple(share + overall for share in shares), "td_time_z": scores}
        report = make_report(number, td_mean=overall, td_rms=1.0, td_p=1e-9, td_time_p=1e-9, **bins)
        monitor.reports.append(report)
        codes |= {code for code, _ in monitor.judge(report)}
    return codes & {"TR601", "TR602"}


def test_the_flagged_phase_is_the_one_that_was_tested() -> None:
    assert by_time((0.4, 0.0), (9.0, 0.0)) == {"TR602"}
    assert by_time((-0.4, 0.0), (-9.0, 0.0)) == {"TR602"}
    # Another bin's significance is not its own.
    assert by_time((0.4, 0.0), (2.0, 9.0)) == set()
    # All of the time is biased: no matter of phases.
    assert by_time((0.4, 0.0), (9.0, 0.0), overall=-0.25) == set()
    assert by_time((0.4, 0.0), (9.0, 0.0), overall=-0.1) == {"TR602"}


# ---------------------------------------------------------------- what goes wrong in a monitor


class Broken(KLMonitor):
    """As somebody's own monitor may be."""

    def __init__(self, evidence: Any):
        super().__init__()
        self.evidence = evidence

    def judge(self, report: UpdateReport) -> Iterator[tuple[str, Evidence]]:
        if report.n_updates == 2:
            yield self.evidence()


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (lambda: ("TR102", {"x": 1 / 0}), "ZeroDivisionError"),
        (lambda: ("TR102", {"x": float("inf")}), "not JSON compliant"),
        (lambda: ("TR102", {"x": object()}), "not JSON serializable"),
        (lambda: ("TR999", {}), "KeyError"),
    ],
)
def test_no_monitor_ends_a_run(evidence: Any, why: str) -> None:
    model, broken, sound = healthy(), Broken(evidence), KLMonitor()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(4 * 256, callback=[broken, sound])
    (said,) = [str(one.message) for one in caught if "switched off" in str(one.message)]
    assert said.startswith("TRPO: Broken is switched off: it can't judge update 2 (")
    assert why in said
    assert [len(one.reports) for one in (broken, sound)] == [2, 4]
    assert broken.alarms == []


def test_a_run_of_rejected_steps_with_that_alarm_at_its_highest() -> None:
    monitor, model = KLMonitor(rejected=1.0), Model()
    monitor.init_callback(model)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", TrustRegionWarning)
        for number in range(1, 15):
            model.last_update = make_report(number, status="line_search_failed")
            monitor.on_rollout_start()
    assert [alarm.code for alarm in monitor.alarms] == ["TR104"]


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("KLMonitor", {"rejected": 1.1}, r"KLMonitor: rejected=1.1 is not a number in \[0, 1\]."),
        ("KLMonitor", {"spike": -1.0}, "KLMonitor: spike=-1.0 is not a number at least 0."),
        ("EntropyMonitor", {"growth": float("nan")}, "EntropyMonitor: growth=nan is not a number at least 0."),
        ("DeadNeuronMonitor", {"whole_layer": "0.9"}, r"DeadNeuronMonitor: whole_layer='0.9' is not a number in \[0, 1\]."),
        ("ConjugateGradientMonitor", {"failures": True}, "failures=True is not a number"),
        ("ValueFunctionMonitor", {"least_explained": 2.0}, r"least_explained=2.0 is not a number in \[-inf, 1\]."),
        ("AdvantageMonitor", {"level": None}, "level=None is not a number"),
    ],
)
def test_thresholds_that_nothing_can_be_compared_with_are_refused(name: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        getattr(sb3_trpo_ext.monitoring, name)(**settings)


def test_with_another_model_a_monitor_begins_anew() -> None:
    monitor = TrustRegionMonitor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planted(1.0).learn(3 * 256, callback=monitor)
        assert monitor.alarms != []
        healthy().learn(4 * 256, callback=monitor)
    assert monitor.alarms == []
    for one in monitor.monitors:
        assert [report.n_updates for report in one.reports] == [1, 2, 3, 4]
    assert monitor.monitors[1].kept["first"] == monitor.monitors[1].reports[0].std


@pytest.mark.parametrize("name", ALL)
def test_inside_of_a_callback_that_passes_on_steps_only(name: str) -> None:
    monitor = getattr(sb3_trpo_ext.monitoring, name)()
    healthy().learn(4 * 256, callback=EveryNTimesteps(10, monitor))
    for one in getattr(monitor, "monitors", [monitor]):
        # The last one comes after the last step.
        assert [report.n_updates for report in one.reports] == [1, 2, 3]


def test_noise_that_grows_from_little_is_no_alarm() -> None:
    monitor = sb3_trpo_ext.monitoring.EntropyMonitor()
    codes: list[list[str]] = []
    for number, std in enumerate([0.135, 0.2, 0.41, 0.79, 0.81], start=1):
        monitor.reports.append(make_report(number, std=std))
        codes.append([code for code, _ in monitor.judge(monitor.reports[-1])])
    assert codes == [[], [], [], [], ["TR203"]]
