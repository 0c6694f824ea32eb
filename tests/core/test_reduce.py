"""One mean, however the batch is cut: into unequal chunks, with dropped transitions, over processes."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.objective import Surrogate
from sb3_trpo_ext.core.reduce import Reducer, Rows, WeightedMean, chunked, everywhere, single_process
from tests.core.problems import FAMILIES, make_case, with_surrogate

N = 23


def unequal_chunks() -> tuple[Rows, ...]:
    return (slice(0, 1), slice(1, 12), torch.tensor([22, 20, 21]), slice(12, 20))


@given(n_samples=st.integers(1, 200), size=st.integers(1, 250))
def test_chunks_cover_the_batch_once_and_in_order(n_samples: int, size: int) -> None:
    chunks = chunked(n_samples, size)
    assert [i for rows in chunks for i in range(n_samples)[rows]] == list(range(n_samples))
    assert all(0 < rows.stop - rows.start <= size for rows in chunks)


@given(
    weights=st.lists(st.floats(0.0, 1e3), min_size=N, max_size=N).filter(lambda w: sum(w) > 1e-3),
    values=st.lists(st.floats(-1e6, 1e6), min_size=N, max_size=N),
)
def test_weighted_mean_and_maximum_over_unequal_chunks(weights: list[float], values: list[float]) -> None:
    w, x = (torch.tensor(numbers, dtype=torch.float64) for numbers in (weights, values))
    mean, largest = WeightedMean(w, unequal_chunks()).with_maximum(lambda rows: x[rows].unsqueeze(-1))
    assert float(mean) == pytest.approx(float((w * x).sum() / w.sum()), rel=1e-9, abs=1e-12 * float((w * x).abs().max()))
    assert float(largest) == float(x[w > 0].max())


def test_dropping_transitions_is_the_mean_over_the_others() -> None:
    x, keep = torch.randn(N, 2, dtype=torch.float64), torch.rand(N) > 0.4
    dropped = WeightedMean(keep.double(), chunked(N, 5)).with_maximum(lambda rows: x[rows])
    torch.testing.assert_close(dropped[0], x[keep].mean(dim=0), rtol=1e-14, atol=1e-15)
    assert torch.equal(dropped[1], x[keep].amax(dim=0))


def test_samples_in_no_chunk_take_no_part() -> None:
    x = torch.arange(N, dtype=torch.float64)
    assert float(WeightedMean(torch.ones_like(x), (slice(3, 6),)).of(lambda rows: x[rows])) == 4.0


def test_a_nan_shows_in_mean_and_maximum() -> None:
    x = torch.zeros(N, 1, dtype=torch.float64)
    x[17] = torch.nan
    mean, largest = WeightedMean(torch.ones(N, dtype=torch.float64), unequal_chunks()).with_maximum(lambda rows: x[rows])
    assert bool(mean.isnan())
    assert bool(largest.isnan())


def test_where_every_sample_is_dropped_nothing_is_a_number() -> None:
    x = torch.randn(N, 1, dtype=torch.float64)
    mean, largest = WeightedMean(torch.zeros(N, dtype=torch.float64), chunked(N, 5)).with_maximum(lambda rows: x[rows])
    assert bool(mean.isnan())
    assert float(largest) == -torch.inf


def test_a_subsample_has_the_weights_of_its_rows() -> None:
    w, x = torch.rand(N, dtype=torch.float64), torch.randn(N, dtype=torch.float64)
    rows = torch.tensor([3, 19, 0, 7, 8])
    thinned = WeightedMean(w, chunked(N, 10)).subsample(rows, 2)
    assert [len(chunk) for chunk in thinned.chunks if isinstance(chunk, Tensor)] == [2, 2, 1]
    torch.testing.assert_close(thinned.of(lambda chunk: x[chunk]), (w * x)[rows].sum() / w[rows].sum(), rtol=1e-14, atol=0)


# ---------------------------------------------------------------- processes


class OtherProcesses:
    """Stands in for a collective: adds what the other process contributed at the same call."""

    def __init__(self) -> None:
        self.recorded: list[Tensor] = []
        self.replaying = False

    def __call__(self, partial: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        if not self.replaying:
            self.recorded.append(partial.clone())
            return partial
        other = self.recorded.pop(0)
        return partial + other if op == "sum" else torch.maximum(partial, other)


def over_two_processes(halves: tuple[Rows, ...], weights: Tensor, compute: Callable[[WeightedMean], Any]) -> Any:
    """What the second process sees, if no partial result depends on an earlier reduction."""
    collective = OtherProcesses()
    compute(WeightedMean(weights, halves[:1], Reducer(collective)))
    collective.replaying = True
    result = compute(WeightedMean(weights, halves[1:], Reducer(collective)))
    assert not collective.recorded, "both processes must reduce equally often"
    return result


COMPUTATIONS: dict[str, Callable[[Surrogate, WeightedMean], Any]] = {
    "mean": lambda s, mean: mean.of(lambda rows: s.advantages[rows]),
    "maximum": lambda s, mean: mean.with_maximum(lambda rows: s.phi[rows])[1],
    "rounding": lambda s, mean: torch.tensor(
        Surrogate(s.actor, s.distribution, s.actions, s.advantages, s.phi, s.log_prob, mean, 1.0).rounding_of_improvement()
    ),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_two_processes_of_unequal_size_give_the_answer_of_one(name: str) -> None:
    surrogate = make_case(FAMILIES["gaussian"]).problem.surrogate
    weights = torch.rand(48, dtype=torch.float64)
    compute = COMPUTATIONS[name]
    alone = compute(surrogate, WeightedMean(weights, chunked(48, 48)))
    together = over_two_processes((slice(0, 11), slice(11, 48)), weights, lambda mean: compute(surrogate, mean))
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_fisher_product_and_evaluation_over_two_processes(family: str) -> None:
    problem = make_case(FAMILIES[family]).problem
    weights = torch.rand(48, dtype=torch.float64)
    vector = torch.randn(sum(part.numel() for part in problem.theta), dtype=torch.float64)
    candidate = tuple(part + 0.05 * torch.randn_like(part) for part in problem.theta)

    def compute(mean: WeightedMean) -> list[Tensor]:
        surrogate = with_surrogate(problem, mean=mean).surrogate
        curvature = Curvature(surrogate.actor, problem.theta, surrogate.distribution, surrogate.kl_scale, mean)
        fisher = FisherOperator(curvature, RungChoice(Rung.DOUBLE_VJP, retained=True))
        judged = surrogate.evaluate(candidate)
        numbers = torch.tensor([judged.kl, judged.kl_reverse, judged.kl_max, judged.improvement], dtype=torch.float64)
        return [fisher.gradient(surrogate.slopes), fisher.product(vector), numbers]

    alone = compute(WeightedMean(weights, chunked(48, 48)))
    together = over_two_processes((slice(0, 11), slice(11, 48)), weights, compute)
    for one, two in zip(alone, together, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_a_decision_holds_if_it_does_on_every_process(first: bool, second: bool) -> None:
    def compute(mean: WeightedMean) -> bool:
        return everywhere(second if mean.chunks[0] == slice(11, 48) else first, mean.reducer)

    weights = torch.ones(48, dtype=torch.float64)
    assert over_two_processes((slice(0, 11), slice(11, 48)), weights, compute) is (first and second)
    assert everywhere(first, single_process) is first
