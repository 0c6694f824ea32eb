"""All monitors in one callback."""

from __future__ import annotations

from typing import Any, Literal

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.advantage_monitor import AdvantageMonitor
from sb3_trpo_ext.monitoring.alarm import Alarm
from sb3_trpo_ext.monitoring.conjugate_gradient_monitor import ConjugateGradientMonitor
from sb3_trpo_ext.monitoring.dead_neuron_monitor import DeadNeuronMonitor
from sb3_trpo_ext.monitoring.entropy_monitor import EntropyMonitor
from sb3_trpo_ext.monitoring.flight_recorder import FlightRecorder
from sb3_trpo_ext.monitoring.kl_monitor import KLMonitor
from sb3_trpo_ext.monitoring.monitor import WARN, Monitor
from sb3_trpo_ext.monitoring.observed import newest_report
from sb3_trpo_ext.monitoring.quiet_list import QuietList
from sb3_trpo_ext.monitoring.value_function_monitor import ValueFunctionMonitor

Settings = dict[str, Any] | None


class TrustRegionMonitor(QuietList):
    """
    Watches everything. Each of the dictionaries holds arguments of one monitor, such as ``kl={"drift_share": 5.0}``.

    :param on_trouble: "warn", or "stop": end training at a critical alarm
    :param kl: arguments of ``KLMonitor``
    :param entropy: arguments of ``EntropyMonitor``
    :param neurons: arguments of ``DeadNeuronMonitor``
    :param cg: arguments of ``ConjugateGradientMonitor``
    :param value: arguments of ``ValueFunctionMonitor``
    :param advantages: arguments of ``AdvantageMonitor``
    :param recorder: arguments of ``FlightRecorder``; False: none
    """

    def __init__(
        self,
        on_trouble: str = WARN,
        kl: Settings = None,
        entropy: Settings = None,
        neurons: Settings = None,
        cg: Settings = None,
        value: Settings = None,
        advantages: Settings = None,
        recorder: Settings | Literal[False] = None,
    ):
        chosen: list[tuple[type[Monitor], Settings]] = [
            (KLMonitor, kl),
            (EntropyMonitor, entropy),
            (DeadNeuronMonitor, neurons),
            (ConjugateGradientMonitor, cg),
            (ValueFunctionMonitor, value),
            (AdvantageMonitor, advantages),
        ]
        self.monitors = [cls(**{"on_trouble": on_trouble, **(settings or {})}) for cls, settings in chosen]
        self.recorder = None if recorder is False else FlightRecorder(**(recorder or {}))
        self._asked_at: UpdateReport | None = None
        # Behind the monitors, whose alarms it looks at.
        super().__init__([*self.monitors, *([] if self.recorder is None else [self.recorder])])

    def _on_step(self) -> bool:
        report = newest_report(self)
        if report is not self._asked_at:
            # Where no start of a rollout is passed on (EveryNTimesteps), the first step after an update is one.
            self._asked_at, self._answer = report, None
        return super()._on_step()

    @property
    def alarms(self) -> list[Alarm]:
        """What all of them have raised, oldest first."""
        return sorted((alarm for monitor in self.monitors for alarm in monitor.alarms), key=lambda alarm: alarm.n_updates)

    def state_dict(self) -> dict[str, Any]:
        """
        Give what a resumed run needs to go on as if it had not ended.

        :return: states by name of the monitor
        """
        return {type(monitor).__name__: monitor.state_dict() for monitor in self.monitors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on from a state.

        :param state: of ``state_dict``
        """
        for monitor in self.monitors:
            monitor.load_state_dict(state[type(monitor).__name__])
