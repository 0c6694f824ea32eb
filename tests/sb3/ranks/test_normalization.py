"""Moments of parts, merged, are those of the whole; and a part is what it was, taken out again."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext.sb3.ranks.normalization import Moments, merged, moments_of, running_statistics, write_moments
from tests.sb3.spaces import make_env

CUTS = st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(any)


def moments(samples: np.ndarray) -> Moments:
    return Moments(float(len(samples)), samples.mean(axis=0), ((samples - samples.mean(axis=0)) ** 2).sum(axis=0))


def statistics(samples: np.ndarray | None = None) -> RunningMeanStd:
    made = RunningMeanStd(shape=(2,))
    if samples is not None and len(samples):
        made.update(samples)
    return made


@given(cuts=CUTS, offset=st.floats(-1e3, 1e3), seed=st.integers(0, 9))
def test_increments_of_ranks_merge_to_the_statistics_of_everything(cuts: list[int], offset: float, seed: int) -> None:
    before, *parts = (offset + np.random.default_rng(seed).normal(size=(n, 2)) for n in cuts)
    common = Moments.of(statistics(before))
    ranks = []
    for part in parts:
        theirs = statistics(before)
        if len(part):
            theirs.update(part)
        ranks.append([Moments.of(theirs)])
    (found,) = merged([common], ranks)
    whole = statistics(np.concatenate([before, *parts]))
    assert found.count == pytest.approx(whole.count, rel=1e-13)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.squares / found.count, whole.var, rtol=1e-8)


def test_what_was_merged_is_taken_apart_again_also_far_into_a_training() -> None:
    rng = np.random.default_rng(0)
    before, part = moments(3.0 + rng.normal(size=(100_000, 3))), moments(4.0 + rng.normal(size=(64, 3)))
    found = before.with_(part).since(before)
    assert found.count == 64.0
    np.testing.assert_allclose(found.mean, part.mean, rtol=1e-11)
    np.testing.assert_allclose(found.squares, part.squares, rtol=1e-9)


def test_a_rank_that_has_seen_nothing_changes_nothing() -> None:
    common = Moments.of(statistics(np.random.default_rng(0).normal(size=(9, 2))))
    (found,) = merged([common], [[common], [common]])
    assert (found.count, found.mean.tobytes(), found.squares.tobytes()) == (
        common.count,
        common.mean.tobytes(),
        common.squares.tobytes(),
    )


def test_statistics_counted_twice_would_be_seen() -> None:
    """The planted bug: merging what ranks have, instead of what they have added."""
    samples = np.random.default_rng(0).normal(size=(50, 2))
    common = Moments.of(statistics(samples))
    whole = common.with_(common)
    (found,) = merged([common], [[common], [common]])
    assert whole.count > 1.9 * found.count


class Keyed(gym.Env[Any, Any]):
    observation_space = spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Box(-1, 1, (3,))})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


@pytest.mark.parametrize(
    ("env", "n_found"),
    [
        (lambda: make_env(), 0),
        (lambda: VecNormalize(make_env()), 2),
        (lambda: VecNormalize(make_env(), norm_obs=False), 1),
        (lambda: VecNormalize(VecNormalize(make_env())), 4),
        (lambda: VecNormalize(DummyVecEnv([Keyed])), 3),
    ],
    ids=["none", "plain", "returns only", "two layers", "keys"],
)
def test_every_statistic_of_a_stack_is_found_and_written_back(env: Any, n_found: int) -> None:
    made = env()
    assert len(running_statistics(made)) == n_found
    made.reset()
    held = moments_of(made)
    for each in running_statistics(made):
        each.mean, each.var, each.count = each.mean + 1.0, each.var * 3.0, 5.0
    write_moments(made, held)
    for found, expected in zip(moments_of(made), held, strict=True):
        assert found.count == expected.count
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-15)
