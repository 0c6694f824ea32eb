"""Errors of a training. Those of an update are ValueErrors: the RL Zoo prunes a trial on these, and ends a study on others."""


class StaleBatchError(ValueError):
    """The batch was not collected by exactly the policy that is to be updated; nothing was changed."""


class NonFiniteError(ValueError):
    """A NaN or an infinity in the rollout or in the parameters; nothing was changed."""


class RanksError(RuntimeError):
    """A training on several ranks can't go on: one of them has failed, hangs or holds something else than the others."""
