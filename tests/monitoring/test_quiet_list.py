"""Callbacks that a step says nothing to: once a rollout they see all that others see, and their answer holds."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_trpo_ext.monitoring.quiet_list import QuietList
from tests.sb3.spaces import make_model


class Counts(BaseCallback):
    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.seen: list[tuple[int, Any]] = []
        self.ends = 0

    def _on_step(self) -> bool:
        self.seen.append((self.num_timesteps, self.locals["n_steps"]))
        return self.stop_at is None or self.num_timesteps < self.stop_at

    def _on_rollout_end(self) -> None:
        self.ends += 1


def test_one_step_of_each_rollout_is_shown() -> None:
    quiet, loud = Counts(), Counts()
    make_model(n_steps=32).learn(192, callback=CallbackList([QuietList([quiet]), loud]))
    assert quiet.seen == [(2, 0), (66, 0), (130, 0)]
    assert len(loud.seen) == 96
    assert (quiet.ends, loud.ends) == (3, 3)


def test_what_one_of_them_stops_is_stopped() -> None:
    quiet = Counts(stop_at=60)
    model = make_model(n_steps=32).learn(1000, callback=QuietList([Counts(), quiet]))
    # Asked at the first step of the second rollout.
    assert model.num_timesteps == 66
