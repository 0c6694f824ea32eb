"""What a person is told when a batch is not on-policy: what, where, how much, and what is likely behind it."""

from __future__ import annotations

import math

from sb3_trpo_ext.core.objective import OnPolicyCheck
from sb3_trpo_ext.core.status import OnPolicyStatus
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch
from sb3_trpo_ext.sb3.problem.evaluation import Evaluated


def stale_batch_message(check: OnPolicyCheck, batch: RolloutBatch, evaluated: Evaluated, max_kl: float) -> str:
    """
    Explain a batch that failed the on-policy check.

    :param check: the check
    :param batch: the rollout
    :param evaluated: the same, evaluated
    :param max_kl: the trust region delta
    :return: one sentence or a few
    """
    if evaluated.choice is None:
        return (
            "the policy gives different distributions for the same observations in eval mode, so no batch can be checked "
            "against it. Likely cause: dropout or noise that ignores eval mode."
        )
    if math.isnan(check.noise_floor):
        largest = float(evaluated.problem.surrogate.phi.abs().max())
        return (
            f"the policy's distributions can't be compared: with parameters as large as {largest:.3g}, their KL divergence is "
            "NaN. Likely causes: weights or logits that have exploded; an action mask of minus infinity (use -1e8). Load the "
            "last good checkpoint."
        )
    if check.status is OnPolicyStatus.TOO_DETERMINISTIC:
        dtype = str(evaluated.problem.parameters[0].dtype).removeprefix("torch.")
        return (
            f"the policy is too deterministic for {dtype}: rounding alone makes a divergence of {check.noise_floor:.3g}, more "
            f"than 1 % of the bound {max_kl:.3g}, so neither staleness nor the trust region can be verified. Raise the "
            "policy's std (log_std_init, a floor) or target_kl (final_target_kl), or stop here."
        )
    # A cell that is worse than the whole and has no name here is another process's.
    elsewhere = "another rank's share" if check.worst > check.divergence else "the whole batch"
    where = batch.cell_name(check.worst_cell) or elsewhere
    return (
        f"this batch was not collected by the policy that is updated: it diverges by {check.worst:.3g} in {where} "
        f"({check.divergence:.3g} overall), above {check.threshold:.3g}; the bound of a step is {max_kl:.3g}. Likely causes: "
        "train() called twice on one rollout; the policy changed while or after it collected (a callback, set_parameters, "
        "another worker); the buffer was filled by another model; dropout or batch norm that act differently on other batch "
        "sizes."
    )
