"""Observers of ``UpdateReport``: they read it, and never change the maths."""

from sb3_trpo_ext.monitoring.advantage_monitor import AdvantageMonitor
from sb3_trpo_ext.monitoring.alarm import Alarm, TrustRegionWarning
from sb3_trpo_ext.monitoring.alarms import ALARMS, AlarmKind, Severity
from sb3_trpo_ext.monitoring.conjugate_gradient_monitor import ConjugateGradientMonitor
from sb3_trpo_ext.monitoring.dead_neuron_monitor import DeadNeuronMonitor
from sb3_trpo_ext.monitoring.entropy_monitor import EntropyMonitor
from sb3_trpo_ext.monitoring.flight_recorder import FlightRecorder
from sb3_trpo_ext.monitoring.kl_monitor import KLMonitor
from sb3_trpo_ext.monitoring.monitor import Monitor
from sb3_trpo_ext.monitoring.trust_region_monitor import TrustRegionMonitor
from sb3_trpo_ext.monitoring.value_function_monitor import ValueFunctionMonitor
from sb3_trpo_ext.monitoring.wandb_monitor import WandbMonitor

__all__ = [
    "ALARMS",
    "AdvantageMonitor",
    "Alarm",
    "AlarmKind",
    "ConjugateGradientMonitor",
    "DeadNeuronMonitor",
    "EntropyMonitor",
    "FlightRecorder",
    "KLMonitor",
    "Monitor",
    "Severity",
    "TrustRegionMonitor",
    "TrustRegionWarning",
    "ValueFunctionMonitor",
    "WandbMonitor",
]
