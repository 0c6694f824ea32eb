"""Sides in turn, from the same state each time, every repetition checked; medians of ratios in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from benchmarks.cells import Batch, Cell, joint_kl
from benchmarks.peers import make_peer
from benchmarks.sb3_sides import CONTRIB, ContribSide, OurSide
from benchmarks.watch import DifferentWork, Side, Timing, Unavailable

POLICY, CRITIC, WHOLE = "policy step", "critic", "whole update"
COSINE, LENGTHS, KLS = 0.9, (0.85, 1.2), (0.2, 1.0)
"""
A side takes sb3-contrib's step: its direction, its length (one backtrack is 0.8 or 0.5; a better solve is a little longer),
and within the trust region but not far inside.
"""
Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """
    A side's first step, beside sb3-contrib's.

    :param cosine: of the angle between them
    :param length: ratio of their lengths
    :param kl: KL of the step as a share of delta
    :param iterations: CG iterations that it says it made; None: it does not say
    """

    cosine: float
    length: float
    kl: float
    iterations: int | None


def flat(parts: Iterable[Tensor]) -> Tensor:
    """
    Copy parameters into one vector.

    :param parts: parameters
    :return: float64
    """
    return torch.cat([part.detach().double().flatten() for part in parts])


def make_sides(
    cell: Cell, precisions: list[str], preconditioners: list[str], peers: list[str], say: Callable[[str], None]
) -> tuple[Batch, list[Side]]:
    """
    Make every side that there is.

    :param cell: what is measured
    :param precisions: ``cg_precision`` of ours
    :param preconditioners: ``cg_preconditioner`` of ours
    :param peers: names of ``PEERS``
    :param say: gets a line for each side that is left out, and why
    :return: the data, and the sides, sb3-contrib first
    """
    contrib = ContribSide(cell)
    batch = contrib.batch()
    sides: list[Side] = [contrib]
    choices: list[tuple[str | None, str | None]] = [(p, q) for q in preconditioners for p in precisions]
    if not cell.equal_work:
        choices.insert(0, (None, None))
    for precision, preconditioner in choices:
        try:
            side = OurSide(cell, precision, preconditioner)
        except Unavailable as error:
            say(f"ours, {precision}, {preconditioner}: left out: {error}")
            continue
        if not side.batch().same(batch):
            raise DifferentWork(f"{side.name}: collected other data than sb3-contrib from the same seeds")
        sides.append(side)
    for name in peers:
        try:
            sides.append(make_peer(name, cell, batch))
        except Unavailable as error:
            say(f"{name}: left out: {error}")
    return batch, sides


def run_once(side: Side) -> Timing:
    """
    Time one update from the first state.

    :param side: the side
    :return: what was measured
    :raises DifferentWork: if parameters are not finite afterwards
    """
    side.reset()
    torch.manual_seed(0)
    Distribution.set_default_validate_args(side.validates)
    timing = side.update()
    Distribution.set_default_validate_args(True)
    if not bool(torch.isfinite(flat([*side.actor(), *side.critic()])).all()):
        raise DifferentWork(f"{side.name}: parameters are not finite after an update")
    return timing


def first_steps(batch: Batch, cell: Cell, sides: list[Side]) -> dict[str, Step]:
    """
    Let each side take its first step, untimed, and compare them.

    :param batch: the data
    :param cell: what is measured
    :param sides: sb3-contrib first
    :return: by name
    :raises DifferentWork: if a side takes another step where work is equal
    """
    before = flat(batch.actor)
    steps: dict[str, Step] = {}
    reference = torch.zeros_like(before)
    for side in sides:
        run_once(side)
        step = flat(side.actor()) - before
        reference = step if side is sides[0] else reference
        cosine = float(torch.cosine_similarity(step, reference, dim=0))
        kl = joint_kl(batch, side.actor()) / cell.joint_kl
        made = side.iterations if isinstance(side, OurSide) else None
        found = Step(cosine, float(step.norm() / reference.norm()), kl, made)
        steps[side.name] = found
        _refuse_another_step(side, cell, found)
    return steps


def _refuse_another_step(side: Side, cell: Cell, step: Step) -> None:
    # A preconditioned solve goes further in as many iterations: it is another step, and meant to be.
    compared = cell.equal_work and not getattr(side, "preconditioned", False)
    alike = step.cosine > COSINE and LENGTHS[0] < step.length < LENGTHS[1]
    if not KLS[0] < step.kl <= KLS[1] or (compared and not alike):
        raise DifferentWork(f"{side.name}: takes another step than sb3-contrib: {step}")


def alternate(sides: list[Side], repetitions: int) -> dict[str, list[Timing]]:
    """
    Time all sides in turn, each repetition beginning with another one.

    :param sides: the sides
    :param repetitions: timed updates of each
    :return: by name
    """
    timings: dict[str, list[Timing]] = {side.name: [] for side in sides}
    for repetition in range(repetitions):
        first = repetition % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            timings[side.name].append(run_once(side))
    return timings


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """
    Summarise.

    :param values: at least one
    :return: lower quartile, median, upper quartile
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def row(part: str, side: str, values: list[float], base: list[float], unit: str) -> Row:
    """
    Put together a row: the value and its ratio to sb3-contrib's of the same repetition.

    :param part: what was measured
    :param side: of whom
    :param values: one a repetition
    :param base: sb3-contrib's
    :param unit: of the values
    :return: columns
    """
    low, median, high = quartiles(values)
    ratio_low, ratio, ratio_high = quartiles([value / other for value, other in zip(values, base, strict=True)])
    columns = {"low": low, "high": high, "ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}
    return {"part": part, "side": side, "value": median, "unit": unit, **columns, "repetitions": len(values)}


def update_rows(timings: dict[str, list[Timing]], steps: dict[str, Step]) -> list[Row]:
    """
    Turn timings into rows.

    :param timings: by name
    :param steps: by name
    :return: rows of the parts of an update
    """
    parts: dict[str, Callable[[Timing], float | None]] = {
        POLICY: lambda timing: timing.policy,
        CRITIC: lambda timing: timing.critic,
        WHOLE: lambda timing: timing.whole,
    }
    rows = []
    for part, read in parts.items():
        base = [1e3 * seconds for seconds in map(read, timings[CONTRIB]) if seconds is not None]
        for name, measured in timings.items():
            values = [1e3 * seconds for seconds in map(read, measured) if seconds is not None]
            if not values:
                continue
            found = row(part, name, values, base, "ms")
            if part == POLICY:
                step = steps[name]
                found["faults"] = statistics.median(timing.faults for timing in measured)
                found |= vars(step)
            rows.append(found)
    return rows
