"""One page that needs nothing else: findings and plots of all runs, with plotly's script inside."""

from __future__ import annotations

import errno
import html
import json
import os
from importlib import resources
from pathlib import Path

from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from sb3_trpo_ext.doctor.bounds import is_file
from sb3_trpo_ext.doctor.figures import PLOTS, figure
from sb3_trpo_ext.doctor.finding import Finding
from sb3_trpo_ext.doctor.looks import COLOURS, DASHES, Look, looks_of
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.text import summary, verdict, verdict_of_all
from sb3_trpo_ext.records.atomic import write_atomic

MAX_OPEN = 3
"""Runs whose findings are unfolded; of more, only their names are."""

PAGE_NAME = "report.html"
"""In a run's folder."""

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What a browser lets the page do: nothing beyond what it holds."""


def write_page(runs: list[Run], path: Path) -> None:
    """
    Write the page; a reader finds the old one or the new one.

    :param runs: what it is about
    :param path: where to; the folder has to be there
    :raises OSError: if that is impossible
    :raises ValueError: if something else than a file is there
    """
    if path.exists() and not is_file(path):
        raise ValueError("is there, and is no file" if not path.is_dir() else os.strerror(errno.EISDIR))
    write_atomic(path, page(runs).encode())


def page(runs: list[Run]) -> str:
    """
    Make the page.

    :param runs: what it is about
    :return: HTML
    """
    figures = {plot.key: figure(plot, runs) for plot in PLOTS}
    drawn = {key: json.loads(to_json_plotly(made)) for key, made in figures.items() if made is not None}
    missing = [plot.title for plot in PLOTS if plot.key not in drawn]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    head = "".join(
        [
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html.escape(title)}: {verdict_of_all(runs)}</title>",
            f"<style>{_resource('page.css')}</style>",
        ]
    )
    looks = looks_of(runs)
    body = "".join(
        [
            f"<header><h1>{html.escape(title)}</h1><p>TRPO doctor of sb3_trpo_ext</p></header><main>",
            _how_told_apart(len(runs)),
            *(
                f'<section class="runs{" many" if len(runs) > MAX_OPEN else ""}">',
                *(_run(run, look, len(runs) <= MAX_OPEN) for run, look in zip(runs, looks, strict=True)),
                "</section>",
            ),
            *('<section class="plots">', *(_plot(plot.key, plot.title, plot.note) for plot in PLOTS if plot.key in drawn)),
            "</section>",
            f'<p class="missing">Not in these files: {html.escape("; ".join(missing))}.</p>' if missing else "",
            "</main>",
        ]
    )
    scripts = f"<script>{get_plotlyjs()}</script>{data_script(drawn)}<script>{_resource('page.js')}</script>"
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{body}{scripts}</body></html>\n'


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def data_script(figures: dict[str, object]) -> str:
    """
    Put data into a script that is no script, and that nothing in it can end.

    :param figures: JSON's values
    :return: HTML
    """
    text = json.dumps(figures, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="figures">{text}</script>'


def _plot(key: str, title: str, note: str) -> str:
    caption = f"<figcaption><h2>{html.escape(title)}</h2><p>{html.escape(note)}</p></figcaption>"
    return f'<figure>{caption}<div id="plot-{key}"></div></figure>'


def _how_told_apart(n_runs: int) -> str:
    if n_runs <= len(COLOURS) * len(DASHES):
        return ""
    return f'<p class="missing">{n_runs} runs share {len(COLOURS) * len(DASHES)} kinds of line: hovering names the run.</p>'


def _swatch(look: Look) -> str:
    """How its line looks."""
    dash = "" if look.dash == "solid" else f' stroke-dasharray="{look.dash.replace("px", "")}"'
    line = f'<line x1="0" y1="6" x2="44" y2="6" stroke="{look.colour}" stroke-width="3"{dash}/>'
    return "" if look.alone else f'<svg width="44" height="12" aria-hidden="true">{line}</svg> '


def _run(run: Run, look: Look, opened: bool) -> str:
    findings = (
        "".join(_finding(finding, opened) for finding in run.findings) or '<p class="calm">Nothing to complain about.</p>'
    )
    title = f'{_swatch(look)}<span>{look.name}</span> <span class="verdict">{html.escape(verdict(run).plain)}</span>'
    told = f"<h2>{title}</h2><p>{html.escape(summary(run))}</p>"
    return f'<article class="run {run.verdict}">{told}{findings}</article>'


def _finding(finding: Finding, opened: bool) -> str:
    kind = finding.kind
    rows = {"File": finding.file, "Evidence": finding.numbers, "Since": finding.since, "Try": kind.remedy}
    told = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items() if text)
    replay = f"<dt>Replay</dt><dd><code>{html.escape(finding.replay)}</code></dd>" if finding.replay else ""
    return (
        f'<details class="{finding.severity}" {"open" if opened and str(finding.severity) != "info" else ""}>'
        f"<summary><b>{finding.severity}</b> {finding.code} {html.escape(kind.name)}</summary>"
        f"<p>{html.escape(kind.meaning)}</p><dl>{told}{replay}</dl></details>"
    )
