"""How a run is drawn: its name, its colour, and its curves."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import plotly.graph_objects as go

from sb3_trpo_ext.doctor.run import Point, Run

COLOURS = ("#3d85c8", "#e07b16", "#2a9d6f", "#a463c9", "#c94f6d", "#3aa6b9", "#8d7a3b", "#7a7f87")
"""Of runs, or of the layers of one: told apart on white and on black."""


@dataclass(frozen=True)
class Look:
    """
    How a run is drawn.

    :param name: what it is called, with HTML's letters escaped: plotly shows HTML
    :param colour: its own
    :param alone: whether it is the only run of the page
    """

    name: str
    colour: str
    alone: bool

    def called(self, what: str) -> str:
        """
        Name a curve.

        :param what: what it shows
        :return: with the run's name, where there are several
        """
        return what if self.alone else f"{self.name}: {what}"

    def faint(self, opacity: float) -> str:
        """
        Give the colour of an area.

        :param opacity: in [0, 1]
        :return: as CSS
        """
        red, green, blue = (int(self.colour[place : place + 2], 16) for place in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def looks_of(runs: list[Run]) -> list[Look]:
    """
    Give each run of a page a name and a colour of its own.

    :param runs: the runs
    :return: one each
    """
    names = [html.escape(run.name) for run in runs]
    unique = [name if names.count(name) == 1 else f"{number}. {name}" for number, name in enumerate(names, 1)]
    return [Look(name, colour, len(runs) == 1) for name, colour in zip(unique, cycle(COLOURS), strict=False)]


def curve(run: Run, key: str, name: str, look: Look, dash: str = "solid", /, **style: Any) -> Iterator[go.Scatter]:
    """
    Draw a figure of every update that has it.

    :param run: whose
    :param key: the figure's name in a point
    :param name: what it is called
    :param look: of the run
    :param dash: of the line
    :param **style: anything else that plotly knows of a curve
    :yields: the curve, if there is anything to show
    """
    points = [point for point in run.points.values() if key in point]
    if points:
        yield _line(points, key, look.called(name), look.colour, dash, **style)


def _line(points: list[Point], key: str, name: str, colour: str, dash: str, **style: Any) -> go.Scatter:
    few = len(points) < 3
    return go.Scatter(
        x=[point["steps"] for point in points],
        y=[point[key] for point in points],
        customdata=[int(point["update"]) for point in points],
        hovertemplate="%{y:.4g} (update %{customdata})",
        name=name,
        mode="lines+markers" if few else "lines",
        **{"line": {"color": colour, "dash": dash, "width": 1.8}, **style},
    )
