"""An alarm that was raised."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sb3_trpo_ext.monitoring.alarms import ALARMS, AlarmKind, Severity

Evidence = dict[str, float | int | str]


class TrustRegionWarning(UserWarning):
    """How alarms are said: silenced by ``warnings.simplefilter("ignore", TrustRegionWarning)``; the data remain."""


@dataclass(frozen=True)
class Alarm:
    """
    An alarm that was raised.

    :param code: of ``ALARMS``
    :param n_updates: of the update that raised it
    :param num_timesteps: environment steps by then
    :param evidence: the numbers that it was raised for
    """

    code: str
    n_updates: int
    num_timesteps: int
    evidence: Evidence

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Alarm:
        """
        Make one of what ``dataclasses.asdict`` has made of it.

        :param values: by name
        :return: the alarm
        :raises ValueError: if it is none that this version could have raised, or could say
        """
        try:
            alarm = cls(**values)
            alarm.to_json()
            str(alarm)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"no alarm: {values!r:.200} ({error!r:.200})") from error
        return alarm

    @property
    def kind(self) -> AlarmKind:
        """Its row of the table."""
        return ALARMS[self.code]

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.kind.severity

    def __str__(self) -> str:
        numbers = ", ".join(f"{key} {_shown(value)}" for key, value in self.evidence.items())
        kind = self.kind
        return (
            f"{self.code} {kind.name} ({kind.severity}, update {self.n_updates}, {self.num_timesteps} steps): {kind.meaning} "
            f"[{numbers}] {kind.remedy}"
        )

    def to_json(self) -> str:
        """
        Write as one line of strict JSON, with the table's row beside it.

        :return: one JSON object
        """
        kind = dataclasses.asdict(self.kind)
        return json.dumps({**dataclasses.asdict(self), **kind}, allow_nan=False)


def _shown(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
