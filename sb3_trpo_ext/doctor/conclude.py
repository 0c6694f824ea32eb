"""What follows from all files of a run together."""

from __future__ import annotations

import dataclasses

from sb3_trpo_ext.doctor.bounds import ENOUGH
from sb3_trpo_ext.doctor.finding import Finding, worst_first
from sb3_trpo_ext.doctor.recorder_files import DumpHeader, dump_findings
from sb3_trpo_ext.doctor.run import Run

FINISHED = 0.95
"""Share of the steps that a run was asked for: sb3-contrib never logs its last update."""


def conclude(run: Run, alarms: list[Finding], dumps: list[DumpHeader], begun: bool) -> None:
    """
    Add what follows from several files together, and put the findings in order.

    :param run: after reading
    :param alarms: that its monitors have raised
    :param dumps: of its recorder
    :param begun: whether there are files of a run
    """
    found = {finding.code for finding in run.findings}
    for raised in alarms:
        if raised.code not in found:
            # With thresholds of the user's own.
            run.findings.append(raised)
            run.starts.append((raised.code, raised.since_update or 0, raised.since_steps or 0))
    replays = {reason.removeprefix("alarm "): dump.replay for dump in reversed(dumps) for reason in dump.reasons}
    run.findings = [dataclasses.replace(f, replay=f.replay or replays.get(f.code)) for f in run.findings]
    run.findings += dump_findings(dumps, run.n_updates)
    _say_how_little(run, begun)
    asked = run.settings.get("n_timesteps")
    if asked is not None and run.points.seen and run.num_timesteps < FINISHED * asked:
        run.find("DR009", steps=run.num_timesteps, of=int(asked))
    run.findings = worst_first(run.findings)


def _say_how_little(run: Run, begun: bool) -> None:
    told = run.points.seen or run.returns.seen or run.evaluations.seen
    if not told and begun and run.exit_code == 0:
        run.find("DR014")
    elif not told and not run.findings:
        run.find("DR001")
    elif told and not run.points.seen:
        run.find("DR007")
    elif told and run.judged < ENOUGH and run.exit_code == 0:
        run.find("DR015", judged=run.judged, of=run.n_updates)
