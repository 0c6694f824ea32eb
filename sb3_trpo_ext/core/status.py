"""How each step of an update ended: one enum a step, every member with one sentence of advice."""

from __future__ import annotations

from enum import Enum


class AdvisedStatus(str, Enum):
    """
    A string enum whose members carry advice for the person who reads the report.

    :param value: stable name, used in reports and logs
    :param advice: one sentence: what it means and what to try
    """

    advice: str

    def __new__(cls, value: str, advice: str) -> AdvisedStatus:
        """Store the advice beside the string value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.advice = advice
        return member

    def __str__(self) -> str:
        return str(self.value)


class Diagnostic(str, Enum):
    """What an update computes only if somebody has subscribed to it (``TRPO.subscribe``)."""

    ACTIVITY = "activity"
    DRIFT = "drift"
    RESIDUALS = "residuals"
    EPISODES = "episodes"
    TAILS = "tails"

    def __str__(self) -> str:
        return str(self.value)


class CGStatus(AdvisedStatus):
    """Why conjugate gradient stopped."""

    CONVERGED = "converged", "The relative residual reached cg_rtol: nothing to do."
    SETTLED = "settled", "More iterations no longer changed the step: nothing to do."
    MAX_STEPS = "max_steps", "Stopped at cg_max_steps, the normal outcome of TRPO: raise it only if the gain still grows."
    ZERO_GRADIENT = "zero_gradient", "The gradient is zero: check that rewards vary and that the actor depends on them."
    ZERO_CURVATURE = "zero_curvature", "The Fisher matrix is singular along a search direction: raise cg_damping."
    NEGATIVE_CURVATURE = "negative_curvature", "The products are not positive definite beyond rounding: raise cg_damping."
    NON_FINITE = "non_finite", "A product or the gradient is not finite: look for exploding activations or log std."
    DIVERGED = "diverged", "The quadratic model rose or the residual drifted: use cg_precision='float64' or raise cg_damping."
    BAD_PRECONDITIONER = (
        "bad_preconditioner",
        "The preconditioner is not positive definite or not finite: use cg_preconditioner='none'.",
    )

    @property
    def failed(self) -> bool:
        """Whether the solution must not be used as it is."""
        return self in _FAILED_SOLVES


_FAILED_SOLVES = frozenset(
    {
        CGStatus.ZERO_CURVATURE,
        CGStatus.NEGATIVE_CURVATURE,
        CGStatus.NON_FINITE,
        CGStatus.DIVERGED,
        CGStatus.BAD_PRECONDITIONER,
    }
)


class BlockStatus(AdvisedStatus):
    """How the preconditioner treats one layer."""

    FACTORED = "factored", "Preconditioned by its Kronecker factors."
    NON_FINITE = "non_finite", "A factor is not finite, so the layer is not preconditioned: look for exploding activations."
    NOT_DECOMPOSED = "not_decomposed", "The eigenvalues of a factor did not converge, so the layer is not preconditioned."
    NOT_POSITIVE = (
        "not_positive",
        "A factor is not positive, so the layer is not preconditioned: its inputs or gradients vanish.",
    )


class OnPolicyStatus(AdvisedStatus):
    """Whether the batch comes from exactly the policy that is updated."""

    ON_POLICY = "on_policy", "The batch was collected by this policy."
    STALE = "stale", "The batch was not collected by this policy: collect a new one before the update."
    TOO_DETERMINISTIC = (
        "too_deterministic",
        "Rounding of the policy's dtype hides staleness: raise the policy's std or target_kl.",
    )


class TrialStatus(AdvisedStatus):
    """What the line search thought of one candidate."""

    ACCEPTED = "accepted", "Finite, within the trust region and better."
    NON_FINITE = "non_finite", "The candidate's parameters or distribution are not finite: lower target_kl."
    KL_TOO_LARGE = "kl_too_large", "The quadratic model of the KL underestimates: raise cg_damping or allow more backtracking."
    NOT_IMPROVED = "not_improved", "The surrogate did not rise beyond rounding: the batch may hold no signal."


class LineSearchStatus(AdvisedStatus):
    """How the line search ended."""

    ACCEPTED = "accepted", "The step was taken."
    REJECTED = "rejected", "No candidate was acceptable: raise cg_damping, lower target_kl or collect larger batches."


class CriticStatus(AdvisedStatus):
    """How the value-function epochs ended."""

    IMPROVED = "improved", "The value loss is below where it began."
    DID_NOT_CONVERGE = "did_not_converge", "The value loss did not fall: lower learning_rate or raise max_critic_updates."
    NON_FINITE = "non_finite", "Loss or optimiser became non-finite, and was undone: lower learning_rate or normalise rewards."
    NOT_RUN = "not_run", "No epochs were asked for (n_critic_updates=0), or no parameter belongs to the critic alone."


class UpdateStatus(AdvisedStatus):
    """What became of the policy in one update."""

    ACCEPTED = "accepted", "The policy moved within the trust region."
    LINE_SEARCH_FAILED = "line_search_failed", "The policy did not move: see the trials of the line search."
    NO_DIRECTION = "no_direction", "The policy did not move: no solve gave a usable direction; raise cg_damping."
    ZERO_GRADIENT = "zero_gradient", "The policy did not move: the surrogate's gradient is zero."
    ZERO_VARIANCE_ADVANTAGES = (
        "zero_variance_advantages",
        "The policy did not move: all advantages are equal; check the reward.",
    )
    STALE_BATCH = "stale_batch", "The policy did not move: the batch is not from this policy."
    LOW_EXPLAINED_VARIANCE = "low_explained_variance", "Only the critic was trained: explained variance is below its minimum."
