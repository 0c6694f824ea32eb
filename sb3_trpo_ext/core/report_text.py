"""What a person reads first of a report: what became of the policy, and the numbers that say how well."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_trpo_ext.core.report import UpdateReport


def describe(report: UpdateReport) -> str:
    """
    Sum up an update in a few lines; what was not computed is left out.

    :param report: the update
    :return: lines without a newline at the end: what happened, the step, the solve, the policy, the critic, the notes
    """
    first = f"update {report.n_updates} ({report.num_timesteps:,} steps, {report.n_samples:,} samples): {report.status}."
    parts = (_step(report), _solve(report), _policy(report), _critic(report), *(f"note: {note}" for note in report.notes))
    return "\n  ".join([f"{first} {report.advice}", *filter(None, parts)])


def _step(report: UpdateReport) -> str:
    return _joined(
        f"step: KL {report.kl:.3g} of {report.target_kl:.3g} ({report.kl_reduction})",
        f"surrogate {report.surrogate_improvement:+.3g}"
        + ("" if report.expected_improvement is None else f" of {report.expected_improvement:+.3g} expected"),
        "" if report.line_search_status is None else f"line search {report.line_search_status}",
        "" if not report.line_search_backtracks else f"{report.line_search_backtracks} backtracks",
    )


def _solve(report: UpdateReport) -> str:
    if report.cg_status is None:
        return ""
    return _joined(
        f"conjugate gradient: {report.cg_status}",
        "" if report.cg_iterations is None else f"{report.cg_iterations} iterations",
        "" if report.cg_residual is None else f"relative residual {report.cg_residual:.2g}",
        f"damping {report.cg_damping:.3g}",
        "" if not report.cg_retries else f"{report.cg_retries} failed before it",
    )


def _policy(report: UpdateReport) -> str:
    entropy = "" if report.entropy is None else f"entropy {report.entropy:.3g} nats"
    std = "" if report.std is None else f"std {report.std:.3g}"
    return _joined(f"policy: {entropy or std}", std if entropy else "") if entropy or std else ""


def _critic(report: UpdateReport) -> str:
    return _joined(
        f"critic: {report.critic_status} in {report.critic_epochs} epochs",
        _change("value loss", report.value_loss_before, report.value_loss_after),
        _change("explained variance", report.explained_variance, report.explained_variance_after),
    )


def _change(name: str, before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{name} {before:.3g} to {after:.3g}"


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))
