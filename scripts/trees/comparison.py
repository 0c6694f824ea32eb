"""Compare what two trees found, field by field. Nothing here is rounded: values are equal or they differ."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Found = list[dict[str, Any]]
"""Of each rank: "reports", a list of plain reports, and "values", by place."""

ABSENT = "(absent)"


@dataclass(frozen=True)
class Comparison:
    """
    How two trees differ in one case.

    :param compared: how many values were compared
    :param differences: each in one line; empty if not one bit differs
    :param new: fields of the report that the old tree does not have
    :param gone: fields that the new tree does not have
    :param renamed: (old, new) of fields of another name that have the same value in every report
    """

    compared: int
    differences: tuple[str, ...]
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


def compare(old: Found, new: Found) -> Comparison:
    """
    Compare a case.

    :param old: of the old tree, by rank
    :param new: of the new tree
    :return: how they differ
    """
    reports = [[report for rank in found for report in rank["reports"]] for found in (old, new)]
    renamed, added, gone = field_changes(*reports)
    names = dict(renamed)
    kept = [{names.get(name, name): value for name, value in report.items() if name not in gone} for report in reports[0]]
    news = [{name: value for name, value in report.items() if name not in added} for report in reports[1]]
    pairs: list[tuple[str, Any, Any]] = [("number of reports", len(kept), len(news)), ("number of ranks", len(old), len(new))]
    for index, (before, after) in enumerate(zip(kept, news, strict=False), start=1):
        pairs += _pairs(f"report {index}: ", before, after)
    for rank, (before, after) in enumerate(zip(old, new, strict=False)):
        pairs += _pairs(f"rank {rank}: " if len(new) > 1 else "", before["values"], after["values"])
    differences = tuple(f"{place}: {before} -> {after}" for place, before, after in pairs if not _same(before, after))
    return Comparison(len(pairs), differences, added, gone, renamed)


def _pairs(place: str, old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(place + name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in {**old, **new}]


def _same(old: Any, new: Any) -> bool:
    """As JSON, which keeps every bit of a number: 0.0 == -0.0, and 1 == 1.0 == True, but they are not the same."""
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def field_changes(
    old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """
    Find out which fields have come, gone, or got another name.

    :param old: reports
    :param new: reports of the same updates
    :return: renamed (old, new), new, gone
    """
    before, after = (list(dict.fromkeys(name for report in reports for name in report)) for reports in (old, new))
    gone, added = [name for name in before if name not in after], [name for name in after if name not in before]
    renamed = []
    for name in list(gone):
        column = [report.get(name) for report in old]
        same = [other for other in added if [report.get(other) for report in new] == column]
        # Two fields that are None or 0 throughout say nothing about each other.
        if len(same) == 1 and any(column):
            renamed.append((name, same[0]))
            gone.remove(name)
            added.remove(same[0])
    return tuple(renamed), tuple(added), tuple(gone)
