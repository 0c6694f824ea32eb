"""A training on two ranks: one policy, one count of steps, one set of statistics; and one end, whatever ends it."""

from typing import Any

import numpy as np
import pytest
import torch

from sb3_trpo_ext import NonFiniteError, RanksError, UpdateReport
from tests.sb3.ranks.processes import on_ranks
from tests.sb3.ranks.trainings import N_ENVS, UPDATE, death, scenarios

HEALTHY = ("plain", "again", "sde by SB3's loop", "discrete, thinned", "one rank writes", "dropped", "resumed")
SAME = ("num_timesteps", "n_updates", "episodes", "returns", "moments")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(2, scenarios, str(tmp_path_factory.mktemp("run")))


def of_both(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [of_rank[name] for of_rank in found]


@pytest.mark.parametrize("name", HEALTHY)
def test_all_ranks_are_left_with_the_same(found: list[dict[str, Any]], name: str) -> None:
    first, second = of_both(found, name)
    assert first["error"] is second["error"] is None
    assert torch.equal(first["policy"], second["policy"])
    for what in SAME:
        np.testing.assert_equal(first[what], second[what])


def test_steps_and_samples_of_all_ranks_count(found: list[dict[str, Any]]) -> None:
    for name in ("plain", "sde by SB3's loop"):
        first, _ = of_both(found, name)
        report = UpdateReport.from_json(first["report"])
        assert (first["num_timesteps"], first["n_updates"]) == (3 * 2 * UPDATE, 3)
        assert (report.num_timesteps, report.n_samples) == (3 * 2 * UPDATE, 2 * UPDATE)


def test_reports_agree_in_what_is_reduced(found: list[dict[str, Any]]) -> None:
    first, second = (UpdateReport.from_json(each["report"]) for each in of_both(found, "plain"))
    for name in ("status", "kl_mean", "grad_norm", "entropy", "value_loss_after", "explained_variance", "adv_mean"):
        assert getattr(first, name, None) == getattr(second, name, None)


def test_ranks_see_other_episodes_and_the_same_ones_when_run_again(found: list[dict[str, Any]]) -> None:
    first, second = of_both(found, "plain")
    assert not np.isin(first["observed"], second["observed"]).any()
    assert first["noise"] != second["noise"]
    for before, after in zip(of_both(found, "plain"), of_both(found, "again"), strict=True):
        np.testing.assert_equal(before["observed"], after["observed"])
        assert torch.equal(before["policy"], after["policy"])


def test_normalisation_is_that_of_all_observations(found: list[dict[str, Any]]) -> None:
    first, second = of_both(found, "plain")
    # SB3 begins with 1e-4 of a sample of mean 0 and variance 1; a training begins with what rank 0 has.
    seen = np.concatenate([first["first"], first["observed"], second["observed"]]).astype(np.float64)
    count, mean, var = first["moments"]
    total = 1e-4 + len(seen)
    expected = seen.sum(axis=0) / total
    squares = ((seen - expected) ** 2).sum(axis=0) + 1e-4 * (1.0 + expected**2)
    assert count == pytest.approx(total, rel=1e-14)
    np.testing.assert_allclose(mean, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(var, squares / total, rtol=1e-12)
    assert first["returns"][0] == pytest.approx(1e-4 + N_ENVS + len(first["observed"]) + len(second["observed"]), abs=N_ENVS)


def test_episodes_are_those_of_all_ranks(found: list[dict[str, Any]]) -> None:
    first, _ = of_both(found, "plain")
    steps = sum(length for _, length in first["episodes"])
    # All but those that have not ended yet.
    assert 3 * 2 * UPDATE - 2 * N_ENVS * 40 <= steps <= 3 * 2 * UPDATE


def test_only_rank_0_writes_prints_and_calls_back(found: list[dict[str, Any]]) -> None:
    first, second = of_both(found, "one rank writes")
    assert {"run", "tb"} <= set(first["files"])
    assert second["files"] == []
    assert (first["calls"], second["calls"]) == (2 * UPDATE // N_ENVS, 0)
    assert (first["outputs"] > 0, second["outputs"]) == (True, 0)
    assert second["folder"] is None


def test_a_rank_with_bad_data_ends_all_before_the_policy_has_seen_it(found: list[dict[str, Any]]) -> None:
    first, second = of_both(found, "bad data")
    assert isinstance(second["error"], NonFiniteError)
    assert isinstance(first["error"], RanksError)
    assert "a rollout failed elsewhere: rank 1: NonFiniteError: " in str(first["error"])
    assert first["n_updates"] == second["n_updates"] == 1
    assert torch.equal(first["policy"], second["policy"])


def test_samples_dropped_on_one_rank_are_counted_on_all(found: list[dict[str, Any]]) -> None:
    first, second = (UpdateReport.from_json(each["report"]) for each in of_both(found, "dropped"))
    assert first.samples_dropped == second.samples_dropped
    assert first.samples_dropped is not None
    assert first.samples_dropped > 0
    assert first.n_samples == second.n_samples == 2 * UPDATE - first.samples_dropped


def test_a_callback_that_stops_one_rank_stops_all(found: list[dict[str, Any]]) -> None:
    for each in of_both(found, "a callback stops"):
        assert each["error"] is None
        assert each["n_updates"] == 1


@pytest.mark.parametrize(
    ("name", "message", "n_updates"),
    [
        ("another setting at first", "target_kl is '0.01' on rank 0 and '0.02' on rank 1", 0),
        ("another setting later", "target_kl is '0.01' on rank 0 and '0.02' on rank 1", 1),
        ("another critic", "the policy \\(rank 1\\)", 1),
        ("another actor", "the policy step \\(rank 1\\)", 1),
        ("other statistics", "VecNormalize's statistics \\(rank 1\\)", 0),
        ("another optimiser", "the optimiser's state \\(rank 1\\)", 1),
    ],
)
def test_ranks_that_differ_end_all_and_say_in_what(
    found: list[dict[str, Any]], name: str, message: str, n_updates: int
) -> None:
    for each in of_both(found, name):
        assert isinstance(each["error"], RanksError)
        with pytest.raises(RanksError, match=message):
            raise each["error"]
        assert each["n_updates"] == n_updates


def test_a_rank_that_hangs_ends_all_after_the_time_out(found: list[dict[str, Any]]) -> None:
    first, second = of_both(found, "hang")
    assert isinstance(first["error"], RanksError)
    assert "TRPO_RANK_TIMEOUT=2 s" in str(first["error"])
    assert 2.0 <= first["seconds"] < 5.0
    assert isinstance(second["error"], RanksError)


def test_a_resumed_training_goes_on_from_rank_0s_checkpoint(found: list[dict[str, Any]]) -> None:
    for each in of_both(found, "resumed"):
        assert each["at_first"] == 2
        assert (each["n_updates"], each["num_timesteps"]) == (4, 4 * 2 * UPDATE)
    assert all("no whole checkpoint" in str(each["error"]) for each in of_both(found, "resumed from nothing"))


def test_a_rank_that_dies_ends_all_promptly() -> None:
    survivor, _ = on_ranks(2, death, dies=(1,))
    assert isinstance(survivor["error"], RanksError)
    assert "rank 0 stops" in str(survivor["error"])
    assert survivor["seconds"] < 10.0
    assert survivor["n_updates"] == 1
