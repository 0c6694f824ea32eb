"""Markdown."""

from __future__ import annotations

import math

from evidence.metrics import Interval


def table(columns: list[str], rows: list[list[str]]) -> str:
    """
    Write a Markdown table; every column but the first is aligned to the right.

    :param columns: titles
    :param rows: cells
    :return: text
    """
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, rule, *rows])


def number(value: float | None, digits: int = 3) -> str:
    """
    Write a number.

    :param value: None or NaN: not known
    :param digits: significant ones; whole digits are never cut
    :return: text
    """
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return "0" if float(text) == 0 else text


def percent(value: float | None) -> str:
    """
    Write a share.

    :param value: 0 to 1; None or NaN: not known
    :return: text
    """
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def with_interval(value: Interval, n_seeds: int) -> str:
    """
    Write an estimate and its interval.

    :param value: estimate, lower and upper end
    :param n_seeds: seeds that were resampled: of one alone there is no interval
    :return: text
    """
    point, low, high = value
    return f"{number(point)} [{number(low)}, {number(high)}]" if n_seeds > 1 else f"{number(point)} (1 seed)"
