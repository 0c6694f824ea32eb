"""How a run is drawn: its name, its colour, its lines."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from sb3_trpo_ext.doctor.run import Run

COLOURS = ("#3d85c8", "#e07b16", "#2a9d6f", "#a463c9", "#c94f6d", "#3aa6b9", "#8d7a3b", "#7a7f87")
"""Of runs, or of the layers of one: told apart on white and on black."""

DASHES = ("solid", "8px,3px", "12px,3px,3px,3px", "18px,4px")
"""Of runs, where there are more than colours."""

WIDTH, THIN = 1.8, 1.2


@dataclass(frozen=True)
class Look:
    """
    How a run is drawn.

    :param name: what it is called, with HTML's letters escaped: plotly shows HTML
    :param colour: its own, but for runs of another dash
    :param dash: of its first curve in a plot
    :param alone: whether it is the only run of the page
    """

    name: str
    colour: str
    dash: str
    alone: bool

    def called(self, what: str) -> str:
        """
        Name a curve: as what it shows, or, where there are several runs, as the run.

        :param what: what it shows
        :return: its name in the legend
        """
        return what if self.alone else self.name

    def told(self, what: str, text: str) -> dict[str, Any]:
        """
        Say what hovering shows of a curve.

        :param what: what it shows
        :param text: plotly's template of the value
        :return: plotly's settings of the curve
        """
        return {
            "name": self.called(what),
            "hovertemplate": text if self.alone else f"{what}: {text}",
            "legendgroup": self.name,
        }

    def line(self, dash: str = "solid") -> dict[str, Any]:
        """
        Draw a line.

        :param dash: solid: the first curve of a plot; anything else: one beside it
        :return: plotly's settings of it
        """
        if self.alone or dash != "solid":
            return {"color": self.colour, "dash": dash, "width": WIDTH if self.alone else THIN}
        return {"color": self.colour, "dash": self.dash, "width": WIDTH}

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
    Give each run of a page a name, and a colour and a dash of its own, as far as they last (the page says where they don't).

    :param runs: the runs
    :return: one each
    """
    names = [html.escape(run.name) for run in runs]
    unique = [name if names.count(name) == 1 else f"{number}. {name}" for number, name in enumerate(names, 1)]
    return [
        Look(name, COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)], len(runs) == 1)
        for n, name in enumerate(unique)
    ]
