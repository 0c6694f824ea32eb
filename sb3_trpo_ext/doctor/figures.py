"""The plots of the page: what they show, and plotly's figures of them. Colours of paper, text and grid are the page's."""

from __future__ import annotations

import html
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sb3_trpo_ext.doctor.finding import KINDS
from sb3_trpo_ext.doctor.looks import COLOURS, Look, curve, looks_of
from sb3_trpo_ext.doctor.run import Run
from sb3_trpo_ext.monitoring.alarms import Severity

ALARM_COLOURS = {Severity.CRITICAL: "#e5484d", Severity.WARNING: "#d9a400", Severity.INFO: "#8b8d98"}
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Plot:
    """
    One plot of the page.

    :param key: its place in the page
    :param title: what it shows
    :param note: how to read it
    :param axis: of the figures
    :param traces: what is drawn of a run
    :param log: whether the axis is logarithmic
    :param span: from all values to the ends of the axis; None: plotly's own
    """

    key: str
    title: str
    note: str
    axis: str
    traces: Callable[[Run, Look], Iterator[go.Scatter]]
    log: bool = False
    span: Callable[[list[float]], list[float]] | None = None


def figure(plot: Plot, runs: list[Run]) -> go.Figure | None:
    """
    Draw a plot.

    :param plot: which one
    :param runs: of whom
    :return: the figure; None if no run has anything to show in it
    """
    traces = [trace for run, look in zip(runs, looks_of(runs), strict=True) for trace in plot.traces(run, look)]
    if not traces:
        return None
    axis: dict[str, Any] = {
        "title": {"text": plot.axis},
        "type": "log" if plot.log else "linear",
        "automargin": True,
        "exponentformat": "power",
    }
    if plot.span is not None:
        axis["range"] = plot.span([value for trace in traces for value in trace.y])
    return go.Figure(
        traces,
        {
            "template": None,
            "hovermode": "x unified",
            "xaxis": {"title": {"text": "environment steps"}, "hoverformat": ",.0f", "automargin": True},
            "yaxis": axis,
            "legend": {"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0, "font": {"size": 11}},
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "showlegend": True,
        },
    )


def _returns(run: Run, look: Look) -> Iterator[go.Scatter]:
    series = run.returns.values()
    if series:
        steps, values = zip(*series, strict=True)
        line = {"color": look.colour, "width": 1.8}
        name = look.called("training, mean of 100 episodes")
        yield go.Scatter(x=steps, y=values, name=name, mode="lines", line=line, hovertemplate="%{y:.4g}")
    evaluations = run.evaluations.values()
    if evaluations:
        steps, values = zip(*evaluations, strict=True)
        marker = {"color": look.colour, "size": 7, "symbol": "diamond", "line": {"width": 1, "color": "#ffffff"}}
        style = {"line": {"color": look.colour, "dash": "dot", "width": 1}, "marker": marker}
        yield go.Scatter(
            x=steps, y=values, name=look.called("evaluation"), mode="lines+markers", hovertemplate="%{y:.4g}", **style
        )
    shown = series or evaluations
    if shown or run.starts:
        yield from _alarms(run, look, shown)


def _alarms(run: Run, look: Look, shown: list[tuple[float, float]]) -> Iterator[go.Scatter]:
    """Where each alarm began, on the curve: at the last value before it."""
    places = [steps for steps, _ in shown]
    for severity in (Severity.CRITICAL, Severity.WARNING):
        starts = [start for start in run.starts if KINDS[start[0]].severity is severity]
        if not starts:
            continue
        heights = [shown[max(0, bisect_right(places, steps) - 1)][1] if shown else 0.0 for _, _, steps in starts]
        yield go.Scatter(
            x=[steps for _, _, steps in starts],
            y=heights,
            text=[f"{code} {KINDS[code].name} (update {update})" for code, update, _ in starts],
            hovertemplate="%{text}",
            name=look.called(f"{severity} alarm"),
            mode="markers",
            marker={
                "color": ALARM_COLOURS[severity],
                "size": 12,
                "symbol": "triangle-down",
                "line": {"width": 1, "color": "#ffffff"},
            },
        )


def _kl(run: Run, look: Look) -> Iterator[go.Scatter]:
    yield from curve(run, "kl_joint", "KL of the step", look)
    yield from curve(run, "target_kl", "δ", look, "dash")


def _entropy(run: Run, look: Look) -> Iterator[go.Scatter]:
    entropies = list(curve(run, "entropy", "entropy (nats)", look))
    # sb3-contrib logs the standard deviation of a Gaussian, and no entropy.
    yield from entropies or curve(run, "std", "standard deviation", look, "dot")


def _gain(run: Run, look: Look) -> Iterator[go.Scatter]:
    yield from curve(run, "cg_gain", "gain of the solve", look)


def _damping(run: Run, look: Look) -> Iterator[go.Scatter]:
    yield from curve(run, "cg_damping", "damping λ", look)


def _explained(run: Run, look: Look) -> Iterator[go.Scatter]:
    yield from curve(run, "explained_variance", "explained variance", look)
    yield from curve(run, "explained_variance_mc", "of finished episodes' returns", look, "dot")


def _loss(run: Run, look: Look) -> Iterator[go.Scatter]:
    told = list(curve(run, "value_loss_before", "before the epochs", look, "dot"))
    yield from told
    if told:
        yield from curve(run, "value_loss_after", "after them", look)
    else:
        yield from curve(run, "value_loss", "value loss", look)


def _layers(run: Run, look: Look) -> Iterator[go.Scatter]:
    rows = run.layers.values()
    for number, name in enumerate(dict.fromkeys(name for row in rows for name in row)):
        places = [row[name] for row in rows if name in row]
        dash = DASHES[number // len(COLOURS) % 4] if look.alone else DASHES[number % 4]
        yield go.Scatter(
            x=[place[0] for place in places],
            y=[place[1] + place[2] for place in places],
            customdata=[place[1:] for place in places],
            hovertemplate="%{y:.1%} (dead %{customdata[0]:.1%}, saturated %{customdata[1]:.1%})",
            name=look.called(html.escape(name.replace("mlp_extractor.", ""))),
            mode="lines+markers" if len(places) < 3 else "lines",
            line={"color": COLOURS[number % len(COLOURS)] if look.alone else look.colour, "dash": dash, "width": 1.8},
        )


def _advantages(run: Run, look: Look) -> Iterator[go.Scatter]:
    bands = (("min", "max", 0.10), ("q05", "q95", 0.25)) if look.alone else (("q05", "q95", 0.15),)
    names = {"min": "minimum", "max": "to the maximum", "q05": "5 %", "q95": "to 95 %"}
    for low, high, opacity in bands:
        edge = {"color": look.faint(0.5), "width": 0.6}
        area = {"fill": "tonexty", "fillcolor": look.faint(opacity)}
        yield from curve(run, f"advantage_{low}", names[low], look, line=edge, showlegend=False)
        yield from curve(run, f"advantage_{high}", names[high], look, line=edge, **area)
    yield from curve(run, "advantage_q50", "median", look)
    if look.alone:
        yield from curve(run, "advantage_mean", "mean", look, "dot")


def _from_zero(values: list[float]) -> list[float]:
    return [0.0, 1.1 * max([*values, 1e-12])]


def _units(values: list[float]) -> list[float]:
    """A curve that is zero throughout would stand in the middle."""
    return [-0.002, 1.1 * max([*values, 0.1])]


def _share(values: list[float]) -> list[float]:
    """What is worse than -1 is bad, however bad; hovering tells."""
    return [max(-1.0, min(values)) - 0.05, 1.05]


PLOTS = (
    Plot(
        "return",
        "Return, and where trouble began",
        "Triangles: alarms, to be hovered over; at zero where the files hold no returns.",
        "return",
        _returns,
    ),
    Plot(
        "kl",
        "KL divergence of the step, against δ",
        "In joint nats; of sb3-contrib's runs in its own unit, the mean over action dimensions. Zero: no step was taken.",
        "KL (nats)",
        _kl,
        span=_from_zero,
    ),
    Plot("entropy", "Entropy", "How much the policy still explores.", "nats, or std", _entropy),
    Plot("gain", "Gain of conjugate gradient", "What the quadratic model promises of the direction.", "gain", _gain, log=True),
    Plot("damping", "Damping", "λ of the solve; it rises where steps turn out worse than promised.", "λ", _damping, log=True),
    Plot(
        "explained",
        "Explained variance",
        "1: the critic knows the returns; 0: no better than a constant.",
        "share",
        _explained,
        span=_share,
    ),
    Plot("loss", "Value loss", "Of the whole batch.", "loss", _loss, log=True),
    Plot(
        "layers",
        "Dead and saturated units per layer",
        "Share of units through which nothing passes.",
        "share",
        _layers,
        span=_units,
    ),
    Plot("advantages", "Advantages", "Raw, before they are normalised.", "advantage", _advantages),
)
