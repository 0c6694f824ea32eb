"""Reports to write and read, without a training run."""

import dataclasses
import typing
from typing import Any

from sb3_trpo_ext.core.report import UpdateReport

_EXAMPLES = {int: 3, float: 0.25, str: "text", type(None): None}


def make_report(n_updates: int = 1, **changes: Any) -> UpdateReport:
    """A report with something in every field."""
    values: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(UpdateReport).items():
        kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind in _EXAMPLES]
        values[name] = _EXAMPLES[kinds[0]] if typing.get_origin(hint) is not tuple else ()
    values.update(status="accepted", advantage_quantiles=(-1.0, -0.5, 0.0, 0.5, 1.0), trial_kls=(0.1, None))
    # A report of a healthy update: three of six samples dropped would be an alarm.
    values.update(samples_dropped=0)
    values.update(n_updates=n_updates, num_timesteps=64 * n_updates, kl=0.01 / n_updates)
    return dataclasses.replace(UpdateReport(**values), **changes)
