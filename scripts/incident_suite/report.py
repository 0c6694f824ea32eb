"""Tables and figures of the incidents, from finished runs only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from evidence.figures import drawn, style_of
from evidence.store import write_whole
from matplotlib.axes import Axes
from rich.console import Console

from incident_suite.scenario import BEST_RETURN, CONTRIB, CURED, HEALTHY, OURS, RANDOM_RETURN, SIDES, TASK, Incident
from incident_suite.store import Row
from incident_suite.verdict import ENOUGH, FALL, LEAST, running_means

FRAGMENT = "incidents.md"
LOOKS = style_of([OURS, CONTRIB, CURED, HEALTHY])
COMMAND = "python scripts/incidents.py"
DEFINITIONS = f"""\
Task: {TASK} (random policy {RANDOM_RETURN:g}, best {BEST_RETURN:g}), 8 environments, 1,024 samples an update; sb3-contrib's
defaults, but critic batches of 256 and what each section says. The return of an update is the mean of the training
episodes that ended during its rollout. A run *falls* at the first update at which the mean of the last ten such returns
is below the best one that the run has had by more than {FALL:.0%} of the range, {FALL * (BEST_RETURN - RANDOM_RETURN):.0f}.
An incident counts where sb3-contrib's run falls, or dies of an exception, on at least {LEAST} of {ENOUGH} seeds. *Best* and
*end* are medians of the best and of the last ten-update mean. *Ahead*: median number of updates from the first of the
alarms that are about the trouble (named in each section) to the fall of the same run, where both came; below zero, the
alarm came after the fall. Other alarms are listed, not counted. Healthy: sb3-contrib without the trouble."""
COLUMNS = (
    "side",
    "seeds",
    "best",
    "end",
    "fell at update",
    "died after rollouts",
    "alarms from the onset on",
    "ahead",
    "entropy left",
)


def write_report(incidents: Iterable[Incident], rows: list[Row], docs: Path, console: Console) -> None:
    """
    Write the page of tables and a figure for each incident.

    :param incidents: in order
    :param rows: finished runs
    :param docs: folder of the page; its ``figures/`` takes the figures
    :param console: where to say so
    """
    present = [incident for incident in incidents if _of(incident, CONTRIB, rows)]
    for incident in present:
        draw(incident, rows, docs / "figures" / f"incident_{incident.letter}")
    write_whole(docs / FRAGMENT, page(present, rows))
    console.print(f"written: {docs / FRAGMENT} and figures in {docs / 'figures'}", markup=False)


def counts(incident: Incident, rows: list[Row]) -> bool:
    """
    Say whether an incident counts.

    :param incident: the incident
    :param rows: finished runs
    :return: whether sb3-contrib's return fell, or its run died, on enough seeds
    """
    return sum(bool(row["fell_at"] or row["died"]) for row in _of(incident, CONTRIB, rows)) >= LEAST


def page(incidents: list[Incident], rows: list[Row]) -> str:
    """
    Write the page.

    :param incidents: those with runs
    :param rows: finished runs
    :return: Markdown
    """
    parts = [
        "# Incidents: the numbers",
        f"Written by `{COMMAND}`: do not edit. The stories are in [debugging](debugging.md); every run is a row of "
        "`results/incidents.csv`.",
        DEFINITIONS,
        "Seeds on which the return fell, or the run died:",
        summary(incidents, rows),
        *(_section(incident, rows) for incident in incidents),
    ]
    return "\n\n".join(parts) + "\n"


def summary(incidents: list[Incident], rows: list[Row]) -> str:
    """
    Write the table of all incidents.

    :param incidents: those with runs
    :param rows: finished runs
    :return: Markdown
    """
    lines = [f"| incident | counts | {' | '.join(SIDES)} |", "| --- " * (2 + len(SIDES)) + "|"]
    for incident in incidents:
        cells = [_trouble(_of(incident, side, rows)) for side in SIDES]
        lines.append(f"| {incident.title} | {'yes' if counts(incident, rows) else 'no'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _trouble(found: list[Row]) -> str:
    died = sum(bool(row["died"]) for row in found)
    fell = sum(bool(row["fell_at"]) for row in found)
    return f"{fell} of {len(found)}" + (f", {died} died" if died else "")


def _section(incident: Incident, rows: list[Row]) -> str:
    seeds, verdict = len(_of(incident, CONTRIB, rows)), "It counts."
    if not counts(incident, rows):
        verdict = "**It does not count**: sb3-contrib's return does not fall often enough."
        if seeds < ENOUGH:
            verdict = f"**Not decided**: {seeds} of {ENOUGH} seeds have been run."
    table = [
        f"| {' | '.join(COLUMNS)} |",
        "| --- " * len(COLUMNS) + "|",
        *(_line(incident, side, found) for side in SIDES if (found := _of(incident, side, rows))),
    ]
    about = f" Alarms about it: {', '.join(incident.alarms)}." if incident.alarms else ""
    return "\n\n".join(
        [
            f"## {incident.title}",
            f"Trouble: {incident.trouble}. Cure: {incident.cure}.{about} "
            f"Seeds {incident.seeds[0]} to {incident.seeds[-1]}. {verdict}",
            "\n".join(table),
            f"![Return of {incident.name}](figures/incident_{incident.letter}.svg)",
        ]
    )


def _line(incident: Incident, side: str, found: list[Row]) -> str:
    ahead = [int(row["fell_at"]) - first for row in found if row["fell_at"] and (first := _first(incident, row)) is not None]
    entropies = [float(row["entropy"]) for row in found if row["entropy"]]
    cells = [
        side,
        str(len(found)),
        f"{statistics.median(float(row['best']) for row in found):.0f}",
        f"{statistics.median(float(row['end']) for row in found):.0f}",
        _each(row["fell_at"] for row in found),
        _each(str(int(row["updates"])) if row["died"] else "" for row in found),
        _alarms(incident, found) if side in (OURS, CURED) else "",
        f"{statistics.median(ahead):g}" if ahead else "",
        f"{statistics.median(entropies):.2f}" if entropies else "it can't act",
    ]
    return f"| {' | '.join(cells)} |"


def _each(values: Iterable[str]) -> str:
    listed = [value or "–" for value in values]
    return "–" if set(listed) == {"–"} else ", ".join(listed)


def _raised(incident: Incident, row: Row) -> list[tuple[int, str]]:
    """What was raised from the onset on, oldest first."""
    pairs = [word.split("@") for word in row["alarms"].split()]
    return [(int(update), code) for code, update in pairs if int(update) >= incident.onset]


def _first(incident: Incident, row: Row) -> int | None:
    return min((update for update, code in _raised(incident, row) if code in incident.alarms), default=None)


def _alarms(incident: Incident, found: list[Row]) -> str:
    """Each code with how many seeds raised it and when, the most frequent first."""
    when: dict[str, list[int]] = {}
    for row in found:
        for code, update in dict((code, update) for update, code in reversed(_raised(incident, row))).items():
            when.setdefault(code, []).append(update)
    ordered = sorted(when.items(), key=lambda item: (-len(item[1]), statistics.median(item[1])))
    return ", ".join(f"{code}: {len(updates)} (update {statistics.median(updates):g})" for code, updates in ordered) or "none"


def _of(incident: Incident, side: str, rows: list[Row]) -> list[Row]:
    mine = (row for row in rows if row["key"] == incident.key(side) and int(row["seed"]) in incident.seeds)
    return sorted(mine, key=lambda row: int(row["seed"]))


def draw(incident: Incident, rows: list[Row], path: Path) -> None:
    """
    Draw the ten-update means of all sides.

    :param incident: the incident
    :param rows: finished runs
    :param path: without its ending
    """
    with drawn(path, {"figsize": (6.4, 3.4)}) as (figure, axis):
        for side in SIDES:
            draw_side(axis, incident, side, rows)
        if incident.onset > 1:
            axis.axvline(incident.onset, color="0.4", linestyle=":", linewidth=1)
        axis.set(xlabel="update", ylabel="return, mean of ten updates", ylim=(0, 520), title=incident.title)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        text = f"{TASK}; thin: seeds, bold: their median, cross: a run that died, dotted: onset\n{COMMAND}"
        figure.suptitle(text, fontsize=7, color="0.3")


def draw_side(axis: Axes, incident: Incident, side: str, rows: list[Row], label: str | None = None) -> None:
    """
    Draw one side's ten-update means: seeds thinly, their median boldly while all of them run, a cross where one died.

    :param axis: where
    :param incident: the incident
    :param side: whose runs
    :param rows: finished runs
    :param label: in the legend; None: the side's name
    """
    found = _of(incident, side, rows)
    if not found:
        return
    means = np.full((len(found), max(len(row["returns"]) for row in found)), np.nan)
    for index, row in enumerate(found):
        known = [np.nan if value is None else value for value in running_means(row["returns"])]
        means[index, : len(known)] = known
        if row["died"]:
            axis.plot(len(known), known[-1], "x", color=LOOKS[side]["color"], markersize=8)
    x = np.arange(1, means.shape[1] + 1)
    axis.plot(x, means.T, color=LOOKS[side]["color"], linewidth=0.6, alpha=0.4)
    some = ~np.isnan(means).all(axis=0) & (x <= min(len(row["returns"]) for row in found))  # no median of survivors
    axis.plot(x[some], np.nanmedian(means[:, some], axis=0), linewidth=2, label=label or side, **LOOKS[side])
