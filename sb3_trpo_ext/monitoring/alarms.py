"""The one table of alarms: what each of them means and what to try. ``docs/alarms.md`` is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """
    How bad it is.

    ``INFO`` is kept as data; ``WARNING`` is also said; ``CRITICAL`` is said, and ends a run with ``on_trouble="stop"``.
    """

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class AlarmKind:
    """
    One row of the table.

    :param code: stable: TR1xx KL and line search, TR2xx entropy, TR3xx neurons, TR4xx conjugate gradient, TR5xx critic, TR6xx
        advantages
    :param name: for people
    :param severity: how bad it is
    :param meaning: what was seen and what it means
    :param remedy: what to try
    """

    code: str
    name: str
    severity: Severity
    meaning: str
    remedy: str


_NEURONS = (
    "Use tanh or leaky ReLU, a smaller critic learning rate, and a smaller target_kl. (Some texts advise a larger trust "
    "region: large steps are what kills units.)"
)

_KINDS = (
    AlarmKind(
        "TR101",
        "state KL spike",
        Severity.WARNING,
        "In one state the policy changed far more than usual, while the mean KL is within its bound.",
        "Look for observations far outside the others: normalise or clip them (VecNormalize, clip_obs); a smaller target_kl.",
    ),
    AlarmKind(
        "TR102",
        "drift",
        Severity.WARNING,
        "On the next batch the last two policies differ by far more than the bound that the step kept on its own batch: it "
        "did not generalise.",
        "Collect larger batches (n_steps, n_envs), raise cg_damping, lower target_kl; check whether the environment changes.",
    ),
    AlarmKind(
        "TR103",
        "backtracking",
        Severity.WARNING,
        "The line search cuts most steps short: the quadratic model of the KL does not hold as far as target_kl reaches.",
        "Lower target_kl or raise cg_damping; larger batches.",
    ),
    AlarmKind(
        "TR104",
        "rejected steps",
        Severity.CRITICAL,
        "The line search rejects updates: the policy does not learn from the data that it collects.",
        "Raise line_search_max_iter or cg_damping, lower target_kl, collect larger batches.",
    ),
    AlarmKind(
        "TR105",
        "unused trust region",
        Severity.WARNING,
        "Steps use a small part of the KL that target_kl allows, so something else bounds them: damping, as a rule.",
        "Lower cg_damping, if it was raised; check in the report that it is not at the upper end of its range.",
    ),
    AlarmKind(
        "TR201",
        "lock-in",
        Severity.CRITICAL,
        "The entropy fell suddenly while the policy moved far: it is locking in to actions, good or bad, and stops exploring.",
        "Lower target_kl, collect larger batches, check the reward for a loophole; go back to a checkpoint from before the "
        "fall.",
    ),
    AlarmKind(
        "TR202",
        "premature determinism",
        Severity.WARNING,
        "Next to nothing is left of the exploration that training began with; a policy that is not good yet will stay so.",
        "If the return is still poor: a smaller target_kl, a larger log_std_init, normalised rewards; else training may end.",
    ),
    AlarmKind(
        "TR203",
        "growing noise",
        Severity.WARNING,
        "The policy's standard deviation has grown to a multiple of what it began with: actions are mostly clipped noise.",
        "Check that the reward does not favour noise, and that actions outside the bounds cost something (squash_output, "
        "gSDE).",
    ),
    AlarmKind(
        "TR301",
        "dead units",
        Severity.WARNING,
        "A tenth or more of a layer's units have died since training began and stay dead: nothing passes through them.",
        _NEURONS,
    ),
    AlarmKind(
        "TR302",
        "saturated units",
        Severity.WARNING,
        "A tenth or more of a layer's units are saturated: for every observation the activation is flat, so they don't learn.",
        "Normalise observations (VecNormalize); a smaller critic learning rate; a smaller target_kl. (Some texts advise a "
        "larger trust region: large steps are what saturates units.)",
    ),
    AlarmKind(
        "TR303",
        "dead layer",
        Severity.CRITICAL,
        "Almost a whole layer of the actor is dead or saturated: the policy all but ignores its observations.",
        f"It seldom recovers by itself: go back to a checkpoint from before, or begin anew. {_NEURONS}",
    ),
    AlarmKind(
        "TR304",
        "dead critic layer",
        Severity.WARNING,
        "Almost a whole layer of the critic is dead or saturated: values all but ignore the observations. It may recover by "
        "itself; if the explained variance stays near 0, it has not.",
        "Normalise rewards (VecNormalize): large returns are what drives a critic there; a smaller learning_rate; tanh or "
        "leaky ReLU.",
    ),
    AlarmKind(
        "TR305",
        "units never active",
        Severity.WARNING,
        "A quarter or more of a layer's units have been dead since before the first update: not training is the cause but how "
        "observations lie (ReLU units on inputs of one sign, as a rule).",
        "Centre or normalise observations (VecNormalize), or use tanh or leaky ReLU.",
    ),
    AlarmKind(
        "TR401",
        "failed solves",
        Severity.CRITICAL,
        "Conjugate gradient failed at every damping, again and again: steps follow the plain gradient, or none are taken.",
        "Raise cg_damping, keep adaptive_damping on, use cg_precision='float64'; look for exploding activations or log std.",
    ),
    AlarmKind(
        "TR402",
        "retried solves",
        Severity.WARNING,
        "Conjugate gradient failed in several updates and succeeded with more damping only.",
        "Raise cg_damping; use cg_precision='float64'.",
    ),
    AlarmKind(
        "TR403",
        "starved solve",
        Severity.WARNING,
        "Conjugate gradient is cut off while its gain still grows: the direction is far from the natural gradient.",
        "Raise cg_max_steps or cg_damping, or use cg_preconditioner='kfac'.",
    ),
    AlarmKind(
        "TR404",
        "damping at its bound",
        Severity.WARNING,
        "Damping has stayed at the upper end of its range: it would rise further if it could.",
        "Widen cg_damping_range or raise cg_damping; lower target_kl.",
    ),
    AlarmKind(
        "TR501",
        "critic does not converge",
        Severity.WARNING,
        "In most updates all of the critic's epochs, the extra ones too, left its loss above where it began.",
        "Lower learning_rate; normalise rewards (VecNormalize).",
    ),
    AlarmKind(
        "TR502",
        "critic not finite",
        Severity.CRITICAL,
        "The value loss became non-finite and was undone: the critic does not learn.",
        "Normalise or clip rewards (VecNormalize), lower learning_rate.",
    ),
    AlarmKind(
        "TR503",
        "critic explains nothing",
        Severity.WARNING,
        "For many updates the critic has predicted hardly better than a constant: advantages are mostly noise.",
        "Raise learning_rate or n_critic_updates; normalise rewards; check that observations tell how well things stand.",
    ),
    AlarmKind(
        "TR504",
        "critic degrades",
        Severity.WARNING,
        "The value loss has risen over the last updates, and the critic explains much less of the returns than it did.",
        "Lower target_kl and learning_rate; check whether rewards or the environment changed (a normaliser, a curriculum).",
    ),
    AlarmKind(
        "TR505",
        "flattered critic",
        Severity.WARNING,
        "The critic explains its own targets (V + A) well and the Monte-Carlo returns of finished episodes badly: it is "
        "wrong in a way that bootstrapping hides.",
        "Raise gae_lambda, n_critic_updates or learning_rate; trust train/explained_variance_mc.",
    ),
    AlarmKind(
        "TR601",
        "biased advantages",
        Severity.WARNING,
        "One-step TD residuals have been off zero in the same direction: values lag behind the returns, and so do advantages.",
        "Raise n_critic_updates or learning_rate; lower target_kl, so that the critic keeps up.",
    ),
    AlarmKind(
        "TR602",
        "bias by time",
        Severity.WARNING,
        "TD residuals are biased in one phase of the episode and not overall: the critic can't tell what time it is.",
        "Give the time left as an observation (gymnasium's TimeAwareObservation); declare time limits as truncation.",
    ),
    AlarmKind(
        "TR603",
        "few samples decide",
        Severity.WARNING,
        "One per cent of the samples make most of the advantages' variance: the step follows a handful of events.",
        "Clip or rescale rewards (VecNormalize); larger batches; a smaller target_kl.",
    ),
    AlarmKind(
        "TR604",
        "no signal",
        Severity.CRITICAL,
        "All advantages are equal, or the gradient is zero, update after update: there is nothing to learn from.",
        "Check that rewards vary and depend on the actions, and that the actor depends on the observations.",
    ),
    AlarmKind(
        "TR605",
        "dropped samples",
        Severity.WARNING,
        "Environments give NaN or infinity often enough to matter: on_nonfinite='truncate' drops such steps and ends their "
        "episodes, so that the policy learns least about the states that lead there.",
        "Mend the environment (the first warning names environment and step); let it end such episodes itself, with a reward "
        "that says so; clip actions.",
    ),
)

ALARMS: dict[str, AlarmKind] = {kind.code: kind for kind in _KINDS}
