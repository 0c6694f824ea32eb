"""For each alarm, a small run that truly provokes it: it is raised, and no other critical one."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext.monitoring import ALARMS, Alarm, Severity, TrustRegionMonitor, TrustRegionWarning
from tests.monitoring import scenarios
from tests.monitoring.scenarios import OTHER_WAYS, SCENARIOS, healthy


def watch(model: Any, n_updates: int, **settings: Any) -> tuple[TrustRegionMonitor, list[str]]:
    """Train; the monitor, and what it said."""
    monitor = TrustRegionMonitor(**settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(n_updates * model.n_steps * model.n_envs, callback=monitor)
    return monitor, [str(one.message) for one in caught if issubclass(one.category, TrustRegionWarning)]


def test_there_is_a_scenario_for_every_alarm() -> None:
    assert SCENARIOS.keys() == ALARMS.keys()


@pytest.mark.parametrize(("code", "make", "n_updates"), [*((code, *way) for code, way in SCENARIOS.items()), *OTHER_WAYS])
def test_a_run_that_provokes_it_raises_it(code: str, make: Any, n_updates: int) -> None:
    monitor, said = watch(make(), n_updates)
    raised = [alarm.code for alarm in monitor.alarms]
    assert code in raised
    critical = {alarm.code for alarm in monitor.alarms if alarm.severity is Severity.CRITICAL}
    assert critical <= {code}
    # Each is said in one line, with what it is, its numbers and what to try.
    assert len(said) == len(raised)
    for alarm in monitor.alarms:
        (line,) = [text for text in said if f"TRPO: {alarm}" in text and f"update {alarm.n_updates}," in text]
        assert "\n" not in line
        assert alarm.kind.remedy in line
        assert alarm.evidence
        assert all(isinstance(v, str) or math.isfinite(v) for v in alarm.evidence.values())


@pytest.mark.parametrize("relu", [False, True])
def test_a_healthy_small_run_raises_nothing(relu: bool) -> None:
    monitor, said = watch(healthy(relu), 40)
    assert monitor.alarms == []
    assert said == []


@pytest.mark.parametrize("code", ["TR201", "TR303", "TR604"])
def test_a_critical_alarm_stops_the_run_if_asked_to(code: str) -> None:
    make, n_updates = SCENARIOS[code]
    warned, _ = watch(make(), n_updates)
    first = next(alarm for alarm in warned.alarms if alarm.code == code)
    model = make()
    stopped, said = watch(model, n_updates, on_trouble="stop")
    assert stopped.alarms[-1] == first
    # In the rollout after the update, at its first step.
    assert model.num_timesteps == first.num_timesteps + model.n_envs
    assert model.last_update.n_updates == first.n_updates
    assert ["Training stops" in line for line in said] == [alarm.code == code for alarm in stopped.alarms]


def test_a_warning_does_not_stop_a_run() -> None:
    make, n_updates = SCENARIOS["TR105"]
    model = make()
    monitor, _ = watch(model, n_updates, on_trouble="stop")
    assert [alarm.code for alarm in monitor.alarms] == ["TR105"]
    assert model.num_timesteps == n_updates * model.n_steps * model.n_envs


def test_who_goes_on_after_a_stop_trains_on() -> None:
    make, _ = SCENARIOS["TR303"]
    model = make()
    monitor, _ = watch(model, 5, on_trouble="stop")
    assert model.last_update.n_updates == 3
    model.learn(2 * model.n_steps * model.n_envs, callback=monitor, reset_num_timesteps=False)
    assert model.last_update.n_updates == 5
    # The trouble has not ended in between: it is not said again.
    assert [alarm.code for alarm in monitor.alarms].count("TR303") == 1


def test_a_layer_that_recovers_was_not_dead() -> None:
    class Revives(BaseCallback):
        """After two updates."""

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.model.last_update is not None and self.model.last_update.n_updates == 2:  # type: ignore[attr-defined]
                layer = self.model.policy.mlp_extractor.policy_net[2]  # type: ignore[operator, index, union-attr]
                layer.bias.data.clamp_(min=0.0)

    model, monitor = scenarios.planted(1.0), TrustRegionMonitor()
    model.learn(6 * 256, callback=[monitor, Revives()])
    assert monitor.monitors[2].reports[1].actor_inactive == 1.0
    assert "TR303" not in [alarm.code for alarm in monitor.alarms]


class LooksInto(BaseCallback):
    """The file after every update, while the run goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        file = Path("run/alarms.jsonl")
        self.lines.append(len(file.read_text().splitlines()) if file.exists() else 0)


def test_alarms_are_written_to_the_run_folder_as_they_are_raised() -> None:
    model = scenarios.planted(1.0)
    model.log_folder = "run"
    monitor, looks = TrustRegionMonitor(), LooksInto()
    with pytest.warns(TrustRegionWarning, match="TR303"):
        model.learn(5 * 256, callback=[monitor, looks])
    assert looks.lines == [0, 0, 0, 2, 2]
    # They were so before training began.
    rows = [json.loads(line) for line in Path("run/alarms.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows] == [alarm.code for alarm in monitor.alarms] == ["TR305", "TR303"]
    assert rows[1]["evidence"]["layer"] == "actor mlp_extractor.policy_net.3"
    assert (rows[1]["severity"], rows[1]["n_updates"], rows[1]["num_timesteps"]) == ("critical", 3, 768)
    assert [Alarm(**{name: row[name] for name in ("code", "n_updates", "num_timesteps", "evidence")}) for row in rows] == (
        monitor.alarms
    )


def test_a_fresh_run_in_the_same_folder_puts_earlier_alarms_aside() -> None:
    for _ in range(2):
        model = scenarios.planted(1.0)
        model.log_folder = "run"
        watch(model, 3)
    assert len(Path("run/alarms.jsonl").read_text().splitlines()) == 2
    assert len(Path("run/previous_1/alarms.jsonl").read_text().splitlines()) == 2
