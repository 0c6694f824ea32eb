"""``updates.jsonl``, and what else can be made into reports: checked field by field, because nobody need trust a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.lines import Lines
from sb3_trpo_ext.doctor.run import Run

LARGEST_INTEGER = 2**53
"""Counts beyond it are no counts, and no floats."""

NUMBERS_BEYOND = 1e300
"""Squares of larger ones overflow."""


def read_reports(run: Run, path: Path) -> Iterator[UpdateReport]:
    """
    Read reports one by one; what is wrong with the file becomes a finding.

    :param run: gets the findings
    :param path: ``updates.jsonl``
    :yields: reports in their order
    """
    lines = run.lines(path)
    bad: list[str] = []
    n_bad, read, last_bad = 0, 0, False
    for line in lines:
        try:
            report = checked(UpdateReport.from_json(line))
        except (ValueError, RecursionError) as error:
            n_bad, last_bad = n_bad + 1, True
            bad = bad or [str(error)]
            continue
        read, last_bad = read + 1, False
        yield report
    say_lines(run, path, lines, n_bad + lines.too_long, last_bad, bad[0] if bad else "a line is too long", read)


def say_lines(run: Run, path: Path, lines: Lines, n_bad: int, last_bad: bool, why: str, read: int) -> None:
    """
    Add what was wrong with the lines of a file.

    :param run: gets the findings
    :param path: the file
    :param lines: after reading
    :param n_bad: lines that could not be read
    :param last_bad: whether the last one is among them
    :param why: what was wrong with the first of them
    :param read: lines that could be read
    """
    if last_bad and lines.cut_off:
        run.find("DR004", path)
        n_bad -= 1
    if n_bad:
        run.find("DR003" if read else "DR002", path, rows=n_bad, of=n_bad + read, first=why)
    if lines.skipped_bytes:
        run.left_out(f"{mebibytes(lines.skipped_bytes)} of {mebibytes(lines.size)}", path, harmless=True)
    elif lines.skipped_lines:
        run.left_out(f"{lines.skipped_lines:,} of {lines.skipped_lines + lines.read:,} rows", path, harmless=True)


def mebibytes(n_bytes: int) -> str:
    """
    Say a size.

    :param n_bytes: bytes
    :return: in MiB
    """
    return f"{n_bytes / 2**20:.1f} MiB"


def checked(report: UpdateReport) -> UpdateReport:
    """
    Make sure that the numbers of a report can be drawn and reckoned with.

    :param report: made from a file, by ``from_json``
    :return: the same
    :raises ValueError: if one is absurdly large, or contradicts another
    """
    for name, value in vars(report).items():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int | float) and abs(part) > (NUMBERS_BEYOND if isinstance(part, float) else LARGEST_INTEGER):
                raise ValueError(f"{name} holds {str(value)[:40]!r}")
    if not report.target_kl > 0.0 or report.n_updates < 0 or report.num_timesteps < 0:
        raise ValueError("target_kl must be positive, counts not negative")
    if len({len(report.layer_names), len(report.layer_units), len(report.layer_dead), len(report.layer_saturated)}) > 1:
        raise ValueError("layers of different numbers")
    return report
