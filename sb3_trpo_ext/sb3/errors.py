"""Errors with names. Most are ValueErrors: the RL Zoo prunes a trial on ValueError, anything else ends its study."""


class StaleBatchError(ValueError):
    """The batch was not collected by exactly the policy that is to be updated; nothing was changed."""


class NonFiniteError(ValueError):
    """A NaN or an infinity in the rollout or in the parameters; nothing was changed."""


class CheckpointError(ValueError):
    """A training can't go on from a checkpoint, or can't begin where another writes its own."""


class EpisodeError(ValueError):
    """A wrapper outside the Monitor ends every episode of an evaluation, so the evaluation would never end."""


class WorkerError(EOFError):
    """
    A worker process of a SubprocVecEnv has died. (SB3 lets an EOFError or a ConnectionError through there, or waits forever.)

    :param text: which worker, and what it died of
    """

    def __init__(self, text: str):
        super().__init__(text)
        # How the run is resumed: filled in by whoever writes its checkpoints.
        self.remedy = ""

    def __str__(self) -> str:
        return f"{self.args[0]} {self.remedy}".rstrip()


class RanksError(RuntimeError):
    """A training on several ranks can't go on: one of them has failed, hangs or holds something else than the others."""


class TooEarlyError(RuntimeError):
    """A callback has read something of a rollout before it was computed."""
