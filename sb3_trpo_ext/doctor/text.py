"""The verdict on a terminal, readable at 80 columns; and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from sb3_trpo_ext.doctor.bounds import clean
from sb3_trpo_ext.doctor.finding import VERDICTS, Finding, exit_code
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.monitoring.alarms import Severity

STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "dim"}
VERDICT_STYLES = ("bold green", "bold yellow", "bold red")
INDENT = 4


def show(run: Run, console: Console) -> None:
    """
    Print what was found about a run, worst first.

    :param run: the run
    :param console: where to
    """
    console.print(Rule(Text(clean(run.path)), align="left"))
    console.print(Text.assemble(verdict(run), f"   {summary(run)}"))
    for finding in run.findings:
        console.print()
        _show(finding, console)
    console.print()


def verdict(run: Run) -> Text:
    """
    Say in a word or two how a run is.

    :param run: the run
    :return: with its colour
    """
    counts = [sum(f.severity is severity for f in run.findings) for severity in (Severity.CRITICAL, Severity.WARNING)]
    parts = [f"{count} {name}" for count, name in zip(counts, ("critical", "warning"), strict=True) if count]
    told = ", ".join(parts).replace(" warning", " warnings" if counts[1] > 1 else " warning")
    return Text(told or run.verdict, style=VERDICT_STYLES[run.exit_code] if told or run.judged else "bold")


def verdict_of_all(runs: list[Run]) -> str:
    """
    Say how the worst of several runs is.

    :param runs: the runs
    :return: in a word or two
    """
    worst = max(runs, key=lambda run: (run.exit_code, run.judged), default=None)
    return worst.verdict if worst is not None else VERDICTS[0]


def summary(run: Run) -> str:
    """
    Say what a run is.

    :param run: the run
    :return: one line
    """
    parts = [run.environment, run.algorithm if run.points.seen else "", f"{run.n_updates} updates" if run.n_updates else ""]
    parts.append(f"{run.num_timesteps:,} steps" if run.num_timesteps else "")
    returns = run.returns.values()
    parts.append(f"return {returns[-1][1]:.4g}" if returns else "")
    return ", ".join(part for part in parts if part)


def _show(finding: Finding, console: Console) -> None:
    kind, style = finding.kind, STYLES[finding.severity]
    console.print(Text.assemble((f"{finding.severity!s:<8}", style), " ", (f"{finding.code} {kind.name}", "bold")))
    rows = {
        "": kind.meaning,
        "file": finding.file or "",
        "evidence": finding.numbers,
        "since": finding.since,
        "try": kind.remedy,
    }
    for name, text in rows.items():
        if text:
            line = Text.assemble((f"{name}: " if name else "", "dim"), text)
            console.print(Padding(line, (0, 0, 0, INDENT)))
    if finding.replay:
        # Whole, to be copied: a terminal breaks it where it must.
        console.print(Text.assemble(" " * INDENT, ("replay: ", "dim"), finding.replay), soft_wrap=True)


def as_json(runs: list[Run]) -> dict[str, Any]:
    """
    Everything as plain data.

    :param runs: the runs
    :return: the verdict, and the findings of each run
    """
    return {
        "verdict": verdict_of_all(runs),
        "exit_code": exit_code(finding for run in runs for finding in run.findings),
        "runs": [
            {
                "path": str(run.path),
                "environment": run.environment or None,
                "algorithm": run.algorithm,
                "n_updates": run.n_updates,
                "num_timesteps": run.num_timesteps,
                "verdict": run.verdict,
                "exit_code": run.exit_code,
                "findings": [finding.plain() for finding in run.findings],
            }
            for run in runs
        ],
    }
