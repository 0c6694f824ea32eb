"""
Write ``docs/alarms.md`` from the table of alarms.

    python scripts/document_alarms.py            # write it
    python scripts/document_alarms.py --check    # fail if it is not up to date
"""

from __future__ import annotations

import sys
from itertools import groupby

from evidence.provenance import REPO
from generated_page import parser, write_or_check

from sb3_trpo_ext.monitoring import ALARMS, AlarmKind, Severity

PAGE = REPO / "docs" / "alarms.md"

HEAD = """# Alarms

Written by `python scripts/document_alarms.py` from `sb3_trpo_ext/monitoring/alarms.py`: do not edit.

`sb3_trpo_ext.monitoring.TrustRegionMonitor` watches every update, and each of its parts can be used alone. An alarm is raised
once when trouble begins, and again only after it has been over for five updates (a layer's: once no
layer is at three quarters of the threshold). It is a warning of Python's (`TrustRegionWarning`), an entry of the callback's
`alarms`, and a line of `alarms.jsonl` in the run folder, with its evidence in numbers. With `on_trouble="stop"`, a critical
one ends the run. Thresholds are arguments of the monitors; where their defaults come from is said beside them.

What training looks like without trouble: `results/monitor_figures.csv`; with it, told as stories: [debugging](debugging.md).
The monitors' figures are logged as `monitor/*`. In the Zoo's entries that we ship monitors are on; in your code they are
a callback:

```python
from sb3_trpo_ext.monitoring import TrustRegionMonitor

monitor = TrustRegionMonitor(on_trouble="stop")  # default "warn"; thresholds: kl={"drift_share": 5.0}, ...
model.learn(100_000, callback=monitor)
print(monitor.alarms)
```

They change no bit of what is learned. All of them together add 3 to 4 % to an update of HalfCheetah's shape
(`python scripts/benchmark_update.py --monitors`).

"""

GROUPS = {
    "1": "KL and line search (`KLMonitor`)",
    "2": "Entropy (`EntropyMonitor`)",
    "3": "Neurons (`DeadNeuronMonitor`)",
    "4": "Conjugate gradient (`ConjugateGradientMonitor`)",
    "5": "Value function (`ValueFunctionMonitor`)",
    "6": "Advantages (`AdvantageMonitor`)",
}
COLUMNS = "| code | alarm | severity | what it means | what to try |\n| --- | --- | --- | --- | --- |\n"
SEVERITIES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "**critical**"}


def page() -> str:
    """
    Write the page.

    :return: Markdown
    """
    parts = [HEAD]
    for digit, kinds in groupby(ALARMS.values(), key=lambda kind: kind.code[2]):
        parts.append(f"## {GROUPS[digit]}\n\n{COLUMNS}")
        parts += [row(kind) for kind in kinds]
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def row(kind: AlarmKind) -> str:
    """
    Write a row.

    :param kind: an alarm
    :return: one line of Markdown
    """
    return f"| {kind.code} | {kind.name} | {SEVERITIES[kind.severity]} | {kind.meaning} | {kind.remedy} |\n"


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    return write_or_check("document_alarms.py", {PAGE: page()}, parser(__doc__).parse_args(argv).check)


if __name__ == "__main__":
    sys.exit(main())
