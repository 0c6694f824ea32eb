"""
When a trial is given up.

A trial trains its first seed and is looked at after each quarter, then seed after seed. At each of these rungs it must belong
to the better share of all trials that came as far. That is successive halving with a share of its own for each rung, because
the rungs differ in what they know: a quarter of a training says little about its end (curves cross, large steps are fast
first), so there only plain failures go; after a whole seed the better half goes on. Optuna's median pruner judges by a trial's
*best* value so far, its successive halving keeps a half or less at every rung: with the noise between seeds, that would
mostly select lucky seeds.
"""

from __future__ import annotations

import numpy as np
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

QUARTERS = 4
SHARES = {1: 0.8, 2: 0.65, 3: 0.65, 4: 0.5, 5: 0.5}
"""By rung: quarters of the first seed, then the mean of two seeds; all further rungs keep a half. If all trials were
alike, one of them would cost 0.9 trainings, and 8 % of them would reach the third seed."""
LATER_SHARE = 0.5
FEWEST_PEERS = 4


class RungPruner(BasePruner):
    """
    Keeps the better share of the trials that reached a rung.

    :param control: trials whose user attribute ``point`` says so are never pruned
    """

    def __init__(self, control: str):
        self.control = control

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """
        Decide.

        :param study: the study
        :param trial: a trial that has just reported
        :return: whether to give it up
        """
        rung = trial.last_step
        if rung is None or trial.user_attrs.get("point") == self.control:
            return False
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        peers = [other.intermediate_values[rung] for other in others if rung in other.intermediate_values]
        if len(peers) < FEWEST_PEERS:
            return False
        share = SHARES.get(rung, LATER_SHARE)
        return bool(trial.intermediate_values[rung] < np.quantile(peers, 1 - share))
