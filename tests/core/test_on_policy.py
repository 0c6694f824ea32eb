"""Whether a batch is from this policy: fresh, stale, stale in one environment of eight, or impossible to tell."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core.distributions import DiagonalGaussian
from sb3_trpo_ext.core.objective import OnPolicyCheck, check_on_policy, likelihood_divergence
from sb3_trpo_ext.core.reduce import Reducer, WeightedMean, chunked
from sb3_trpo_ext.core.status import OnPolicyStatus

N_ENVS, N_STEPS, MAX_KL = 8, 128, 0.01
N = N_ENVS * N_STEPS
CELLS = torch.arange(N_ENVS).repeat(N_STEPS)
FAMILY = DiagonalGaussian(2)


def check(
    evidence: Tensor, noise: Tensor | float = 0.0, cells: Tensor | None = CELLS, weights: Tensor | None = None
) -> OnPolicyCheck:
    noise = noise if isinstance(noise, Tensor) else torch.full_like(evidence, noise)
    mean = WeightedMean(torch.ones(N, dtype=torch.float64) if weights is None else weights, chunked(N, 100))
    return check_on_policy(evidence, noise, cells, mean, MAX_KL)


def column(value: float) -> Tensor:
    return torch.full((N, 1), value, dtype=torch.float64)


def one_version_old(share_of_samples: Tensor, sigma: float = 0.3) -> tuple[Tensor, Tensor]:
    """Evidence where some samples come from a policy that was one step of size delta away, and the noise of float32."""
    old = torch.cat([torch.randn(N, 2), torch.full((N, 2), sigma).log()], dim=-1).double()
    shift = torch.zeros_like(old)
    shift[:, :2] = sigma * MAX_KL**0.5
    behaviour = torch.where(share_of_samples.unsqueeze(-1), old - shift, old)
    actions = behaviour[:, :2] + behaviour[:, 2:].exp() * torch.randn(N, 2, dtype=torch.float64)
    log_prob = FAMILY.log_prob(old, actions)
    # SB3's buffer holds float32 log-probabilities computed in float32.
    stored = FAMILY.log_prob(behaviour.float(), actions.float()).double()
    evidence = likelihood_divergence(stored, log_prob)
    noise = likelihood_divergence(FAMILY.log_prob(old.float(), actions.float()).double(), log_prob)
    return evidence.unsqueeze(-1), noise.unsqueeze(-1)


@pytest.mark.parametrize("sigma", [0.3, 1e-2, 1e-4])
def test_a_fresh_batch_is_on_policy(sigma: float) -> None:
    evidence, noise = one_version_old(torch.zeros(N, dtype=torch.bool), sigma)
    assert check(evidence, noise).status is OnPolicyStatus.ON_POLICY


def test_the_previous_policys_batch_is_stale_overall() -> None:
    evidence, noise = one_version_old(torch.ones(N, dtype=torch.bool))
    for cells in (None, CELLS):
        result = check(evidence, noise, cells)
        assert result.status is OnPolicyStatus.STALE
        assert 0.5 * MAX_KL < result.divergence < 2.0 * MAX_KL
    assert check(evidence, noise, None).worst_cell is None


@pytest.mark.parametrize("stale", [0, 5, 7])
def test_one_stale_environment_of_eight_is_found_and_named(stale: int) -> None:
    evidence, noise = one_version_old(stale == CELLS)
    result = check(evidence, noise)
    assert (result.status, result.worst_cell) == (OnPolicyStatus.STALE, stale)
    assert result.worst > 5.0 * result.divergence


def test_cells_see_what_the_overall_mean_hides() -> None:
    evidence = column(0.0)
    evidence[CELLS == 3] = 5e-3 * MAX_KL
    assert check(evidence, cells=None).status is OnPolicyStatus.ON_POLICY, "an eighth of it is below the threshold"
    assert check(evidence).status is OnPolicyStatus.STALE


@pytest.mark.parametrize(("share", "status"), [(0.999e-3, OnPolicyStatus.ON_POLICY), (1.001e-3, OnPolicyStatus.STALE)])
def test_the_threshold_is_a_thousandth_of_delta(share: float, status: OnPolicyStatus) -> None:
    result = check(column(share * MAX_KL))
    assert result.status is status
    assert result.threshold == pytest.approx(1e-3 * MAX_KL, rel=1e-12)


@pytest.mark.parametrize(("floors", "status"), [(99.0, OnPolicyStatus.ON_POLICY), (101.0, OnPolicyStatus.STALE)])
def test_or_a_hundred_noise_floors_where_that_is_more(floors: float, status: OnPolicyStatus) -> None:
    floor = 1e-4 * MAX_KL
    result = check(column(floors * floor), floor)
    assert result.status is status
    assert result.threshold == pytest.approx(100.0 * floor, rel=1e-12)
    assert result.noise_floor == pytest.approx(floor, rel=1e-12)


@pytest.mark.parametrize(
    ("share", "status"), [(0.99e-2, OnPolicyStatus.ON_POLICY), (1.01e-2, OnPolicyStatus.TOO_DETERMINISTIC)]
)
@pytest.mark.parametrize("cells", [None, CELLS], ids=["overall", "cells"])
def test_a_floor_above_a_hundredth_of_delta_hides_staleness(
    share: float, status: OnPolicyStatus, cells: Tensor | None
) -> None:
    assert check(column(0.0), share * MAX_KL, cells).status is status


def test_one_noisy_cell_does_not_make_the_policy_too_deterministic() -> None:
    """Its own threshold rises; the other cells keep theirs."""
    noise, evidence = column(1e-6 * MAX_KL), column(0.0)
    noise[CELLS == 1] = 5e-2 * MAX_KL
    evidence[CELLS == 1] = 5e-2 * MAX_KL
    assert check(evidence, noise).status is OnPolicyStatus.ON_POLICY
    evidence[CELLS == 6] = 1.5 * MAX_KL
    assert check(evidence, noise).status is OnPolicyStatus.STALE


def test_a_nearly_deterministic_policy_is_told_apart_from_a_stale_one() -> None:
    evidence, noise = one_version_old(torch.zeros(N, dtype=torch.bool), sigma=1e-7)
    assert check(evidence, noise).status is OnPolicyStatus.TOO_DETERMINISTIC


def test_a_cell_that_agreed_by_luck_has_the_batchs_floor() -> None:
    noise, evidence = column(1e-4 * MAX_KL), column(0.0)
    noise[CELLS == 2] = 0.0
    evidence[CELLS == 2] = 5e-3 * MAX_KL
    assert check(evidence, noise).status is OnPolicyStatus.ON_POLICY


def test_the_cell_that_exceeds_its_own_threshold_most_is_the_worst() -> None:
    """Not the one of the largest divergence: that one may be all noise."""
    noise, evidence = column(0.0), column(0.0)
    noise[CELLS == 1], evidence[CELLS == 1] = 5e-3 * MAX_KL, 0.1 * MAX_KL
    evidence[CELLS == 6] = 0.09 * MAX_KL
    result = check(evidence, noise)
    assert (result.status, result.worst_cell) == (OnPolicyStatus.STALE, 6)


def test_any_kind_of_evidence_is_enough() -> None:
    evidence = torch.zeros(N, 3, dtype=torch.float64)
    evidence[:, 1] = MAX_KL
    assert check(evidence).status is OnPolicyStatus.STALE


def test_dropped_transitions_are_no_evidence() -> None:
    evidence, weights = column(0.0), torch.ones(N, dtype=torch.float64)
    evidence[CELLS == 4], weights[CELLS == 4] = 1.0, 0.0
    assert check(evidence, weights=weights).status is OnPolicyStatus.ON_POLICY


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["evidence", "noise"])
@pytest.mark.parametrize("cells", [None, CELLS], ids=["overall", "cells"])
def test_what_is_not_finite_is_never_on_policy(bad: float, which: str, cells: Tensor | None) -> None:
    evidence, noise = column(0.0), column(0.0)
    (evidence if which == "evidence" else noise)[37] = bad
    assert check(evidence, noise, cells).status is not OnPolicyStatus.ON_POLICY


def test_the_cell_of_a_nan_is_named() -> None:
    evidence = column(0.0)
    evidence[8 * 10 + 5] = torch.nan
    assert check(evidence).worst_cell == 5


class Threads:
    """A collective between two threads."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=10.0)
        self.held: dict[int, Tensor] = {}

    def of(self, rank: int) -> Reducer:
        def reduce(partial: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
            self.held[rank] = partial
            self.barrier.wait()
            both = torch.stack([self.held[0], self.held[1]])
            self.barrier.wait()
            return both.sum(dim=0) if op == "sum" else both.amax(dim=0)

        return Reducer(reduce)


@pytest.mark.parametrize("bad", [torch.nan, MAX_KL])
@pytest.mark.parametrize("on", [0, 1])
def test_a_stale_cell_of_one_process_is_the_verdict_of_both(on: int, bad: float) -> None:
    collective = Threads()
    evidence = [column(0.0), column(0.0)]
    evidence[on][CELLS == 5] = bad

    def of(rank: int) -> OnPolicyCheck:
        mean = WeightedMean(torch.ones(N, dtype=torch.float64), chunked(N, 100), collective.of(rank))
        return check_on_policy(evidence[rank], column(0.0), CELLS, mean, MAX_KL)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(of, (0, 1)))
    assert [result.status for result in found] == [OnPolicyStatus.STALE] * 2
    if bad == MAX_KL:
        assert found[0].worst == found[1].worst == pytest.approx(MAX_KL)
        assert [result.worst_cell for result in found] == [5 if rank == on else None for rank in (0, 1)]
