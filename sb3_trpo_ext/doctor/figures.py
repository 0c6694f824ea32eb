"""The plots of the page: what they show, and plotly's figures of them. Colours of paper, text and grid are the page's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sb3_trpo_ext.doctor import curves
from sb3_trpo_ext.doctor.looks import Look, looks_of
from sb3_trpo_ext.doctor.run import Run

MAX_TOGETHER = 8
"""Curves whose values are shown together at one step; of more, that which is pointed at."""

MAX_LEGEND = 16
"""Runs that stand in a plot's legend; of more, only above their findings."""


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
    if len(runs) > 1:
        _one_entry_each(traces, len(runs) <= MAX_LEGEND)
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
            "hovermode": "x unified" if len(traces) <= MAX_TOGETHER else "closest",
            "xaxis": {"title": {"text": "environment steps"}, "hoverformat": ",.0f", "automargin": True},
            "yaxis": axis,
            "legend": {"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0, "font": {"size": 11}},
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "showlegend": len(runs) <= MAX_LEGEND,
        },
    )


def _one_entry_each(traces: list[go.Scatter], shown: bool) -> None:
    """Of several runs the legend has their names, each once; hovering says which curve it is."""
    named: set[str] = set()
    for trace in traces:
        trace.showlegend = shown and trace.name not in named
        named.add(trace.name)


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
        "Dotted: evaluations. Triangles: where alarms began (red: critical), at zero where the files hold no returns.",
        "return",
        curves.returns,
    ),
    Plot(
        "kl",
        "KL divergence of the step, against δ",
        "Dotted: δ. Joint; of sb3-contrib's runs in its own unit, the mean over action dimensions. Zero: no step was taken.",
        "KL (nats)",
        curves.kl,
        span=_from_zero,
    ),
    Plot("entropy", "Entropy", "How much the policy still explores.", "nats, or std", curves.entropy),
    Plot(
        "gain",
        "Gain of conjugate gradient",
        "What the quadratic model promises of the direction.",
        "gain",
        curves.gain,
        log=True,
    ),
    Plot(
        "damping",
        "Damping",
        "λ of the solve; it rises where steps turn out worse than promised.",
        "λ",
        curves.damping,
        log=True,
    ),
    Plot(
        "explained",
        "Explained variance",
        "1: the critic knows the returns; 0: no better than a constant.",
        "share",
        curves.explained,
        span=_share,
    ),
    Plot("loss", "Value loss", "Of the whole batch; dotted: before the epochs.", "loss", curves.loss, log=True),
    Plot(
        "layers",
        "Dead and saturated units per layer",
        "Share of units through which nothing passes: of a run the worst layers, of several runs the worst layer of each.",
        "share",
        curves.layers,
        span=_units,
    ),
    Plot(
        "advantages",
        "Advantages",
        "Raw, before they are normalised; of several runs the median, dotted 5 % and 95 %.",
        "advantage",
        curves.advantages,
    ),
)
