"""Figures, as SVG and PNG: colours that colour-blind people can tell apart, and the same bytes each time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evidence.metrics import Array, Interval

mpl.use("Agg")

# Okabe and Ito (2008), with a line style each, so that grey print works too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1)), (0, (5, 1)), (0, (1, 1)))
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "svg.hashsalt": "sb3_trpo_ext",  # ids in the SVG would be random
    "figure.dpi": 100,
    "savefig.dpi": 150,
}
Curves = dict[str, tuple[Array, Array, Array]]


def style_of(names: list[str]) -> dict[str, dict[str, Any]]:
    """
    Give each method its look.

    :param names: methods, the reference first
    :return: line properties by name
    """
    return {name: {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]} for i, name in enumerate(names)}


@contextmanager
def drawn(path: Path, size: dict[str, Any]) -> Iterator[tuple[Figure, Any]]:
    """
    Make a figure and write it.

    :param path: without its ending
    :param size: arguments of ``plt.subplots``
    :yields: figure and axes
    """
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(layout="constrained", **size)
        yield figure, axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), metadata={"Software": None})
        plt.close(figure)


def thousands(axis: Axes) -> None:
    """
    Write steps as 200k and 1M.

    :param axis: whose x-axis
    """

    def show(value: float, _: int) -> str:
        return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"

    axis.xaxis.set_major_formatter(FuncFormatter(show))


def interval_figure(path: Path, panels: dict[str, tuple[dict[str, Interval], float]], caption: str) -> None:
    """
    Draw point estimates with their intervals, a panel each.

    :param path: without its ending
    :param panels: label of the x-axis to (estimates by method, where a line marks "no difference")
    :param caption: what was measured
    """
    names = list(dict.fromkeys(name for estimates, _ in panels.values() for name in estimates))
    looks = style_of(names)
    size = {"ncols": len(panels), "figsize": (4.2 * len(panels), 1.5 + 0.42 * len(names)), "squeeze": False}
    with drawn(path, size) as (figure, axes):
        for axis, (label, (estimates, neutral)) in zip(axes[0], panels.items(), strict=True):
            for name, (point, low, high) in estimates.items():
                row, colour = names.index(name), looks[name]["color"]
                axis.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
                axis.plot([point], [row], "o", color=colour, markersize=7)
            axis.axvline(neutral, color="0.4", linewidth=1, linestyle=":")
            axis.set_xlabel(label)
            axis.set_yticks(range(len(names)), names if axis is axes[0][0] else [""] * len(names))
            axis.set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle(caption, fontsize=8, color="0.3")


def band_figure(path: Path, curves: Curves, labels: tuple[str, str], caption: str) -> None:
    """
    Draw curves with their intervals in one panel.

    :param path: without its ending
    :param curves: method to x (n,), y (n,), interval (2, n)
    :param labels: of the axes
    :param caption: what was measured
    """
    looks = style_of(list(curves))
    with drawn(path, {"figsize": (6, 3.8)}) as (figure, axis):
        for name, (x, y, interval) in curves.items():
            axis.plot(x, y, label=name, linewidth=1.8, **looks[name])
            axis.fill_between(x, *interval, color=looks[name]["color"], alpha=0.15, linewidth=0)
        axis.set(xlabel=labels[0], ylabel=labels[1])
        axis.legend(frameon=False, loc="lower right")
        figure.suptitle(caption, fontsize=8, color="0.3")


def seeds_figure(path: Path, tasks: dict[str, dict[str, tuple[Array, Array]]], labels: tuple[str, str], caption: str) -> None:
    """
    Draw every seed thinly and the mean boldly, a panel a task.

    :param path: without its ending
    :param tasks: title to method to (x (n_points,), y (n_seeds, n_points))
    :param labels: of the axes
    :param caption: what was measured
    """
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    looks = style_of(list(dict.fromkeys(name for methods in tasks.values() for name in methods)))
    size = {"nrows": rows, "ncols": columns, "figsize": (3.5 * columns, 2.7 * rows + 0.7), "squeeze": False}
    with drawn(path, size) as (figure, axes):
        for index, axis in enumerate(axes.flat):
            axis.set_visible(index < len(tasks))
        for axis, (title, methods) in zip(axes.flat, tasks.items(), strict=False):
            for name, (x, y) in methods.items():
                axis.plot(x, y.T, color=looks[name]["color"], linewidth=0.6, alpha=0.45)
                known = ~np.isnan(y).all(axis=0)
                axis.plot(x[known], np.nanmean(y[:, known], axis=0), linewidth=2, **looks[name], label=name)
            axis.set_title(title, fontsize=9)
            thousands(axis)
            axis.set_ylabel(labels[1] if axis in axes[:, 0] else "")
        for axis in axes.flat[max(0, len(tasks) - columns) : len(tasks)]:  # nothing stands below these
            axis.set_xlabel(labels[0])
        handles = {handle.get_label(): handle for axis in axes.flat for handle in axis.get_legend_handles_labels()[0]}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False)
        figure.suptitle(caption, fontsize=8, color="0.3")
