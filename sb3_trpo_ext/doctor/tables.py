"""
Logged rows (SB3's CSV, TensorBoard) joined into updates, by ``train/n_updates``.

SB3 writes what update k has logged with the next row, which may be an evaluation's; and TensorBoard has no
``train/n_updates`` at all: there updates are counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import CriticStatus, UpdateStatus
from sb3_trpo_ext.doctor.reports import LARGEST_INTEGER, checked
from sb3_trpo_ext.doctor.run import CONTRIB, OURS, Run
from sb3_trpo_ext.records.keys import KEYS

Row = dict[str, float | str]

STEPS = "time/total_timesteps"
UPDATES = "train/n_updates"
STATUS = "train/status"
OWN_STEPS = "doctor/own_steps"
"""In a row of ours whose steps are its update's own, not those at which SB3 came to write it. So are those with ``STATUS``."""

SUCCESS = "train/is_line_search_success"
KL = "train/kl_divergence_loss"
RETURN = "rollout/ep_rew_mean"
EVALUATION = "eval/mean_reward"
OURS_ONLY = "train/kl_joint"

STAND_INS = frozenset({"cg_damping", "kl_max", "kl_joint", "critic_epochs", "enforced"})
"""Evidence that may rest on a figure that sb3-contrib does not log."""

SMALLEST_KL = 1e-12
"""The monitors divide by a KL of the worst state; in float32 sb3-contrib's mean may be zero."""

CONTRIB_TARGET_KL = 0.01
"""sb3-contrib's default."""


UNDEFINED_AT_TIMES = "train/explained_variance"


@dataclass
class Joined:
    """
    Rows on their way to updates.

    :param run: gets returns, evaluations and findings
    :param kept: what an update's row has to say, of the newest update
    :param number: of the newest update
    :param steps: environment steps at the last rollout
    :param last_steps: environment steps of the update before the newest
    :param not_finite: the first update where each key was not finite
    :param judged: whether reports are wanted
    """

    run: Run
    kept: Row = field(default_factory=dict)
    number: int | None = None
    steps: int = 0
    last_steps: int = 0
    not_finite: dict[str, tuple[int, int]] = field(default_factory=dict)
    judged: bool = True


def updates_in(run: Run, rows: Iterable[Row], joined: Joined | None = None) -> Iterator[UpdateReport]:
    """
    Make reports of rows, as far as their keys allow; returns and evaluations go to the run.

    :param run: gets them
    :param rows: in their order
    :param joined: gets what was not finite
    :yields: reports, each update once
    """
    state = joined or Joined(run)
    for row in rows:
        _note_returns(state, row)
        # Before this row's own: what the last update has logged stands in it.
        number = _number(row, state)
        if number is not None and number != state.number:
            yield from _finished(state)
            state.last_steps = int(_finite(state.kept.get(STEPS)) or 0)
            state.kept, state.number = {}, number
        if number is not None:
            values = {key: value for key, value in row.items() if key.startswith("train/")}
            state.kept = {**values, STEPS: _steps_of(row, number, state), **state.kept}
        else:
            _note_not_finite(row, (state.number or 0) + 1, int(_finite(row.get(STEPS)) or 0), state)
        if RETURN in row or "time/iterations" in row or number is None:
            state.steps = int(_finite(row.get(STEPS)) or state.steps)
    yield from _finished(state)


def _note_returns(state: Joined, row: Row) -> None:
    run = state.run
    steps = _finite(row.get(STEPS))
    if steps is not None and 0.0 <= steps <= LARGEST_INTEGER:
        run.num_timesteps = max(run.num_timesteps, int(steps))
    for key, values in ((RETURN, run.returns), (EVALUATION, run.evaluations)):
        value = _finite(row.get(key))
        if steps is not None and value is not None:
            values.append((steps, value))
        elif steps is not None and key in row:
            state.not_finite.setdefault(key, ((state.number or 0) + 1, int(steps)))


def _number(row: Row, state: Joined) -> int | None:
    """Which update a row tells of; counted where nothing says it."""
    told = _finite(row.get(UPDATES))
    if told is not None:
        return int(told) if 0 <= told <= LARGEST_INTEGER else None
    if UPDATES in row or not (KL in row or SUCCESS in row):
        return None
    return (state.number or 0) + 1


def _steps_of(row: Row, number: int, state: Joined) -> float:
    """Environment steps when the update happened, which was at the end of the rollout before the row was written."""
    steps = _finite(row.get(STEPS)) or 0.0
    iterations = _finite(row.get("time/iterations"))
    if iterations and iterations > number:
        return float(int(steps * number / iterations))
    # No two updates happened at the same step: then another row of that step has been written together with the rollout's.
    if STATUS in row or OWN_STEPS in row or state.steps <= state.last_steps:
        return steps
    return float(state.steps)


def _note_not_finite(row: Row, number: int, steps: int, state: Joined) -> None:
    for key, value in row.items():
        # SB3's explained variance is NaN by definition where the returns don't vary.
        if key.startswith("train/") and isinstance(value, float) and not math.isfinite(value) and key != UNDEFINED_AT_TIMES:
            state.not_finite.setdefault(key, (number, steps))


def _finished(state: Joined) -> Iterator[UpdateReport]:
    if state.number is None:
        return
    row, number = state.kept, state.number
    steps = int(_finite(row.get(STEPS)) or 0)
    _note_not_finite(row, number, steps, state)
    if KL not in row and SUCCESS not in row:
        return
    if not state.judged:
        return
    state.run.algorithm = OURS if OURS_ONLY in row else CONTRIB
    try:
        yield checked(UpdateReport.from_json(json.dumps(_fields(row, number, steps, state.run.settings))))
    except ValueError:
        # Figures that no update has; what was not finite is found above.
        return


def _fields(row: Row, number: int, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """
    Fields of a report. What sb3-contrib does not log has a stand-in that can raise no alarm: for ``kl_max`` and ``kl_joint``
    the mean KL, which neither falls below; for the value loss and the explained variance after the epochs, those it logs.
    """
    known = {key: value for key, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
    fields: dict[str, Any] = {}
    for key, name in KEYS.items():
        value = _finite(known.get(key))
        if value is not None and name != "accepted":
            fields[name] = int(value) if name in _COUNTS else value
    status, kl, critic = _status(known), fields.get("kl", 0.0), CriticStatus.NOT_RUN
    told = {"value_loss_after": fields.get("value_loss"), "explained_variance_after": fields.get("explained_variance")}
    neutral = {
        **dict.fromkeys(("numerics_version", "updates_skipped", "n_samples", "fisher_products", "critic_epochs"), 0),
        **dict.fromkeys(("cg_precision", "cg_preconditioner", "fisher_rung"), "unknown"),
        **{"kl": kl, "kl_joint": kl, "kl_max": max(kl, SMALLEST_KL), "kl_reverse": kl, "surrogate_improvement": 0.0},
        **{"cg_damping": 0.0, "next_damping": 0.0, "kl_reduction": str(settings.get("kl_reduction") or "mean")},
        "target_kl": _finite(settings.get("target_kl")) or CONTRIB_TARGET_KL,
    }
    fixed = {"n_updates": number, "num_timesteps": steps, "status": status, "critic_status": str(critic)}
    return {**neutral, **told, **fields, **fixed, "advice": _advice(status), "critic_advice": critic.advice}


_COUNTS = frozenset({"updates_skipped", "line_search_backtracks", "cg_iterations", "critic_epochs", "n_updates"})


def _status(row: Row) -> str:
    told = row.get(STATUS)
    if isinstance(told, str) and told:
        return told
    taken = _finite(row.get(SUCCESS))
    # With several updates in a row of the log, sb3-contrib's is their mean.
    failed = taken is not None and taken < 0.5
    return str(UpdateStatus.LINE_SEARCH_FAILED if failed else UpdateStatus.ACCEPTED)


def _advice(status: str) -> str:
    return next((each.advice for each in UpdateStatus if str(each) == status), "")


def _finite(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf
        return number if math.isfinite(number) else None
    return None
