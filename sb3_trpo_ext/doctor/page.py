"""One page that needs nothing else: findings and plots of all runs, with plotly's script inside."""

from __future__ import annotations

import html
import json
from importlib import resources
from pathlib import Path

from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from sb3_trpo_ext.doctor.figures import PLOTS, figure
from sb3_trpo_ext.doctor.finding import VERDICTS, Finding, exit_code
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.doctor.text import summary, verdict

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
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(page(runs), encoding="utf-8")
    fresh.replace(path)


def page(runs: list[Run]) -> str:
    """
    Make the page.

    :param runs: what it is about
    :return: HTML
    """
    figures = {plot.key: figure(plot, runs) for plot in PLOTS}
    drawn = {key: json.loads(to_json_plotly(made)) for key, made in figures.items() if made is not None}
    missing = [plot.title for plot in PLOTS if plot.key not in drawn]
    worst = exit_code(finding for run in runs for finding in run.findings)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    head = "".join(
        [
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{html.escape(title)}: {VERDICTS[worst]}</title>",
            f"<style>{_resource('page.css')}</style>",
        ]
    )
    body = "".join(
        [
            f"<header><h1>{html.escape(title)}</h1><p>TRPO doctor of sb3_trpo_ext</p></header><main>",
            *('<section class="runs">', *map(_run, runs), "</section>"),
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


def _run(run: Run) -> str:
    findings = "".join(map(_finding, run.findings)) or '<p class="calm">Nothing to complain about.</p>'
    title = f'{html.escape(run.name)} <span class="verdict">{html.escape(verdict(run).plain)}</span>'
    told = f"<h2>{title}</h2><p>{html.escape(summary(run))}</p>"
    return f'<article class="run {VERDICTS[run.exit_code]}">{told}{findings}</article>'


def _finding(finding: Finding) -> str:
    kind = finding.kind
    rows = {"File": finding.file, "Evidence": finding.numbers, "Since": finding.since, "Try": kind.remedy}
    told = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items() if text)
    replay = f"<dt>Replay</dt><dd><code>{html.escape(finding.replay)}</code></dd>" if finding.replay else ""
    return (
        f'<details class="{finding.severity}" {"open" if str(finding.severity) != "info" else ""}>'
        f"<summary><b>{finding.severity}</b> {finding.code} {html.escape(kind.name)}</summary>"
        f"<p>{html.escape(kind.meaning)}</p><dl>{told}{replay}</dl></details>"
    )
