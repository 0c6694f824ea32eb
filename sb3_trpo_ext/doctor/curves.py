"""What is drawn of a run in each plot of the page."""

from __future__ import annotations

import html
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

from sb3_trpo_ext.doctor.finding import KINDS
from sb3_trpo_ext.doctor.looks import COLOURS, WIDTH, Look
from sb3_trpo_ext.doctor.run import CONTRIB, Run
from sb3_trpo_ext.monitoring.alarms import Severity

ALARM_COLOURS = {Severity.CRITICAL: "#e5484d", Severity.WARNING: "#d9a400"}
LAYER_DASHES = ("solid", "dash", "dot", "dashdot")

MAX_DRAWN = 12
"""Layers of a run that are drawn: those that were worst."""


def curve(run: Run, key: str, what: str, look: Look, dash: str = "solid", /, **style: Any) -> Iterator[go.Scatter]:
    """
    Draw a figure of every update that has it.

    :param run: whose
    :param key: the figure's name in a point
    :param what: what it is called
    :param look: of the run
    :param dash: of the line
    :param **style: anything else that plotly knows of a curve
    :yields: the curve, if there is anything to show
    """
    points = [point for point in run.points.values() if key in point]
    if points:
        yield go.Scatter(
            x=[int(point["steps"]) for point in points],
            y=[_short(point[key]) for point in points],
            customdata=[int(point["update"]) for point in points],
            mode=_mode(len(points)),
            **{"line": look.line(dash), **look.told(what, "%{y:.4g} (update %{customdata})"), **style},
        )


def _short(value: float) -> float:
    """More digits than anybody sees only make the page large."""
    return float(f"{value:.6g}")


def _mode(n_points: int) -> str:
    """A line of one point is none."""
    return "lines+markers" if n_points < 3 else "lines"


def returns(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw returns of training and evaluations, and alarms.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    series, evaluations = run.returns.values(), run.evaluations.values()
    if series:
        told = look.told("training, mean of 100 episodes", "%{y:.4g}")
        yield go.Scatter(**_places(series), mode=_mode(len(series)), line=look.line(), **told)
    if evaluations:
        marker = {"color": look.colour, "size": 7, "symbol": "diamond", "line": {"width": 1, "color": "#ffffff"}}
        told = look.told("evaluation", "%{y:.4g}")
        yield go.Scatter(**_places(evaluations), mode="lines+markers", line=look.line("dot"), marker=marker, **told)
    if series or evaluations or run.starts:
        yield from _alarms(run, look, series or evaluations)


def _places(series: list[tuple[float, float]]) -> dict[str, Any]:
    return {"x": [int(steps) for steps, _ in series], "y": [_short(value) for _, value in series]}


def _alarms(run: Run, look: Look, shown: list[tuple[float, float]]) -> Iterator[go.Scatter]:
    """Where alarms began, on the curve: at the last value before. Those of one moment are one mark, of the worst's colour."""
    moments: dict[int, dict[str, int]] = {}
    for code, update, steps in run.starts:
        moments.setdefault(steps, {})[code] = update
    places = [steps for steps, _ in shown]
    taken: set[int] = set()
    for severity, colour in ALARM_COLOURS.items():
        marked = {
            steps: codes
            for steps, codes in sorted(moments.items())
            if steps not in taken and any(KINDS[code].severity is severity for code in codes)
        }
        taken |= marked.keys()
        if not marked:
            continue
        heights = [shown[max(0, bisect_right(places, steps) - 1)][1] if shown else 0.0 for steps in marked]
        texts = [
            "<br>".join(f"{code} {KINDS[code].name} (update {update})" for code, update in sorted(codes.items()))
            for codes in marked.values()
        ]
        marker = {"color": colour, "size": 12, "symbol": "triangle-down", "line": {"width": 1, "color": "#ffffff"}}
        told = look.told(f"{severity} alarm", "%{text}")
        yield go.Scatter(x=[*marked], y=[*map(_short, heights)], text=texts, mode="markers", marker=marker, **told)


def kl(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the KL of each step and its bound, which are both in joint nats, or both in sb3-contrib's unit.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    unit = "mean over action dimensions" if run.algorithm == CONTRIB else "joint"
    yield from curve(run, "kl_joint", f"KL of the step ({unit})", look)
    yield from curve(run, "target_kl", f"δ ({unit})", look, "dot")


def entropy(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the entropy; sb3-contrib logs the standard deviation of a Gaussian, and no entropy.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    entropies = list(curve(run, "entropy", "entropy (nats)", look))
    yield from entropies or curve(run, "std", "standard deviation", look, "dot")


def gain(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw what conjugate gradient has gained.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    yield from curve(run, "cg_gain", "gain of the solve", look)


def damping(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the damping.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    yield from curve(run, "cg_damping", "damping λ", look)


def explained(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the explained variance.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    yield from curve(run, "explained_variance", "explained variance", look)
    yield from curve(run, "explained_variance_mc", "of finished episodes' returns", look, "dot")


def loss(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the value loss.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    told = list(curve(run, "value_loss_after", "after the epochs", look))
    yield from told or curve(run, "value_loss", "value loss", look)
    yield from curve(run, "value_loss_before", "before the epochs", look, "dot")


def layers(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the share of dead and saturated units: of the worst layers of a run alone, of the worst layer among several runs.

    :param run: whose
    :param look: of the run
    :yields: curves
    """
    rows = run.layers.values()
    if not look.alone and rows:
        worst = [max(row.items(), key=lambda layer: layer[1][1] + layer[1][2]) for row in rows]
        text = "%{y:.1%} in %{text}"
        yield _layer(
            [row for _, row in worst], look.line(), look.told("worst layer", text), [_layer_name(n) for n, _ in worst]
        )
        return
    peaks: dict[str, float] = {}
    for name, (_, dead, saturated) in (layer for row in rows for layer in row.items()):
        peaks[name] = max(peaks.get(name, 0.0), dead + saturated)
    drawn = set(sorted(peaks, key=lambda name: -peaks[name])[:MAX_DRAWN])
    for number, name in enumerate(name for name in peaks if name in drawn):
        dash = LAYER_DASHES[number // len(COLOURS) % len(LAYER_DASHES)]
        line = {"color": COLOURS[number % len(COLOURS)], "dash": dash, "width": WIDTH}
        text = "%{y:.1%} (dead %{customdata[0]:.1%}, saturated %{customdata[1]:.1%})"
        yield _layer([row[name] for row in rows if name in row], line, {"name": _layer_name(name), "hovertemplate": text})


def _layer(
    rows: list[tuple[float, float, float]], line: dict[str, Any], told: dict[str, Any], names: list[str] | None = None
) -> go.Scatter:
    return go.Scatter(
        x=[int(steps) for steps, _, _ in rows],
        y=[_short(dead + saturated) for _, dead, saturated in rows],
        customdata=None if names else [(_short(dead), _short(saturated)) for _, dead, saturated in rows],
        text=names,
        mode=_mode(len(rows)),
        line=line,
        **told,
    )


def _layer_name(name: str) -> str:
    return html.escape(name.replace("mlp_extractor.", ""))


def advantages(run: Run, look: Look) -> Iterator[go.Scatter]:
    """
    Draw the raw advantages.

    :param run: whose
    :param look: of the run
    :yields: curves and areas
    """
    bands = (("min", "max", 0.10), ("q05", "q95", 0.25)) if look.alone else ()
    names = {"min": "minimum", "max": "to the maximum", "q05": "5 %", "q95": "to 95 %"}
    for low, high, opacity in bands:
        edge = {"color": look.faint(0.5), "width": 0.6}
        area = {"fill": "tonexty", "fillcolor": look.faint(opacity)}
        yield from curve(run, f"advantage_{low}", names[low], look, line=edge, showlegend=False)
        yield from curve(run, f"advantage_{high}", names[high], look, line=edge, **area)
    yield from curve(run, "advantage_q50", "median", look)
    if look.alone:
        yield from curve(run, "advantage_mean", "mean", look, "dot")
    else:
        yield from curve(run, "advantage_q05", "5 %", look, "dot")
        yield from curve(run, "advantage_q95", "95 %", look, "dot")
