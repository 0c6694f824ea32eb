"""The choice of a rung: planted wrong ones are found out, and the memory that graphs keep is known."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sb3_trpo_ext.core import fisher, ladder
from sb3_trpo_ext.core.fisher import ChunkMaps, Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.ladder import NoWorkingRungError, bytes_per_sample, choose_rung
from sb3_trpo_ext.core.reduce import Rows, WeightedMean, chunked
from tests.core.problems import FAMILIES, Mlp, actor_of, theta_of

Prepare = Callable[[Curvature, Rows, Tensor], Callable[[Parameters], Tensor]]
N = 100


@pytest.fixture
def curvature() -> Curvature:
    module, observations = Mlp(6).double(), torch.randn(N, 3, dtype=torch.float64)
    mean = WeightedMean(torch.ones(N, dtype=torch.float64), chunked(N, 40))
    return Curvature(actor_of(module, observations), theta_of(module), FAMILIES["gaussian"], 1.0, mean)


GENERAL = [rung for rung in Rung if rung is not Rung.CLOSED_FORM]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def plant(monkeypatch: pytest.MonkeyPatch, rung: Rung, bug: Callable[[int, Tensor], Tensor]) -> None:
    """The rung's i-th product (from 1, of one prepared graph) becomes bug(i, product)."""
    honest = fisher._PREPARE[rung]

    def prepare(curvature: Curvature, rows: Rows, weights: Tensor) -> ChunkMaps:
        maps, calls = honest(curvature, rows, weights), 0

        def wrong(tangent: Parameters) -> Tensor:
            nonlocal calls
            calls += 1
            return bug(calls, maps.product(tangent))

        return replace(maps, product=wrong)

    monkeypatch.setitem(fisher._PREPARE, rung, prepare)


def raises(_: int, __: Tensor) -> Tensor:
    raise RuntimeError("derivative for aten::made_up is not implemented\nwith a second line")


BUGS: dict[str, tuple[Callable[[int, Tensor], Tensor], str]] = {
    "wrong_scale": (lambda i, v: 1.001 * v, "first and third product"),
    "later_wrong": (lambda i, v: v if i == 1 else 1.1 * v, "third product"),
    "one_entry": (lambda i, v: v + 1e-6 * torch.eye(1, len(v), dtype=v.dtype)[0], "first and third product"),
    "nan": (lambda i, v: torch.nan * v, "first and third product"),
    "raises": (raises, "raised RuntimeError: derivative for aten::made_up is not implemented"),
}


def test_without_bugs_the_first_is_taken_and_none_rejected(curvature: Curvature) -> None:
    assert choose_rung(curvature, True, generator()) == RungChoice(Rung.DOUBLE_VJP, True, ())


def test_graphs_are_not_kept_where_they_do_not_fit(curvature: Curvature) -> None:
    choice = choose_rung(curvature, False, generator())
    assert (choice.rung, choice.retained) == (Rung.FORWARD_REVERSE, False)
    assert choice.rejected == ("double_vjp/retained: the batch is evaluated in several chunks",)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_wrong_rung_is_passed_over_with_the_reason(
    curvature: Curvature, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, Rung.DOUBLE_VJP, BUGS[bug][0])
    choice = choose_rung(curvature, True, generator())
    assert choice.rung is Rung.FORWARD_REVERSE
    assert BUGS[bug][1] in choice.rejected[0]
    assert "second line" not in choice.rejected[0]


def test_one_wrong_referee_does_not_condemn_a_right_rung(curvature: Curvature, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Rung.FORWARD_REVERSE, BUGS["wrong_scale"][0])
    assert choose_rung(curvature, True, generator()) == RungChoice(Rung.DOUBLE_VJP, True, ())


def test_a_referee_that_raises_is_no_witness(curvature: Curvature, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Rung.FORWARD_REVERSE, raises)
    assert choose_rung(curvature, True, generator()).rung is Rung.DOUBLE_VJP


def test_a_graph_that_is_only_wrong_when_kept_is_rebuilt(curvature: Curvature, monkeypatch: pytest.MonkeyPatch) -> None:
    """``linearize`` on an LSTM: the first product is right, and the later ones are silently wrong."""
    plant(monkeypatch, Rung.DOUBLE_VJP, BUGS["later_wrong"][0])
    plant(monkeypatch, Rung.FORWARD_REVERSE, raises)
    choice = choose_rung(curvature, True, generator())
    assert choice.name == "double_vjp/recomputed"
    assert len(choice.rejected) == 2


@pytest.mark.parametrize("honest", [None, *GENERAL], ids=str)
def test_a_rung_that_nobody_confirms_is_never_used(
    curvature: Curvature, honest: Rung | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wrong ones don't confirm each other unless they are wrong in the same way."""
    for rung, factor in zip(GENERAL, (1.1, 1.2, 1.3), strict=True):
        if rung is not honest:
            plant(monkeypatch, rung, lambda i, v, factor=factor: factor * v)
    with pytest.raises(NoWorkingRungError, match=r"double_vjp/retained: .*; double_backward/recomputed: "):
        choose_rung(curvature, True, generator())


def test_where_nothing_runs_the_error_says_why(curvature: Curvature, monkeypatch: pytest.MonkeyPatch) -> None:
    for rung in GENERAL:
        plant(monkeypatch, rung, raises)
    with pytest.raises(NoWorkingRungError, match="aten::made_up"):
        choose_rung(curvature, True, generator())


def test_a_single_rung_has_no_witness(curvature: Curvature, monkeypatch: pytest.MonkeyPatch) -> None:
    for rung in (Rung.FORWARD_REVERSE, Rung.DOUBLE_BACKWARD):
        plant(monkeypatch, rung, raises)
    with pytest.raises(NoWorkingRungError, match="no other rung runs to confirm it"):
        choose_rung(curvature, True, generator())


def test_the_probe_does_not_depend_on_the_weights_of_the_first_samples(curvature: Curvature) -> None:
    """The first transitions may all be dropped: the products of none of them are 0 / 0."""
    weights = torch.ones(N, dtype=torch.float64)
    weights[:60] = 0.0
    thinned = replace(curvature, mean=WeightedMean(weights, chunked(N, 40)))
    assert choose_rung(thinned, True, generator()).name == "double_vjp/retained"


def test_the_probe_reads_rows_that_are_indices(curvature: Curvature) -> None:
    seen: list[Rows] = []

    def spying(theta: Parameters, rows: Rows) -> Tensor:
        seen.append(rows)
        return curvature.actor(theta, rows)

    sub = curvature.mean.subsample(torch.arange(60, 100), 40)
    choose_rung(replace(curvature, actor=spying, mean=sub), True, generator())
    assert all(isinstance(rows, Tensor) and rows.min() >= 60 and len(rows) == ladder.PROBE_SAMPLES for rows in seen)


def test_float32_policies_are_judged_by_float32s_rounding(curvature: Curvature) -> None:
    rounded = replace(curvature, theta=tuple(part.float() for part in curvature.theta))
    assert choose_rung(rounded, True, generator()).rejected == ()
    assert FisherOperator(rounded, RungChoice(Rung.DOUBLE_VJP, True)).dtype is torch.float32


class NoForwardMode(torch.autograd.Function):
    """A module that only double backward can confirm."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x.tanh()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * (1.0 - x.tanh().square())


@pytest.mark.parametrize("certainty", [0.0, 25.0, 100.0])
def test_a_nearly_deterministic_categorical_has_a_rung_without_forward_mode(certainty: float) -> None:
    """Its KL cancels when it is differentiated twice: the metric must not hide the Jacobian from the only witness."""
    weight, observations = torch.randn(3, 4, dtype=torch.float64), torch.randn(N, 3, dtype=torch.float64)
    bias = torch.tensor([certainty, 0.0, 0.0, 0.0], dtype=torch.float64)

    def actor(theta: Parameters, rows: Rows) -> Tensor:
        return NoForwardMode.apply(observations[rows] @ theta[0]) + theta[1]

    mean = WeightedMean(torch.ones(N, dtype=torch.float64), chunked(N, N))
    choice = choose_rung(Curvature(actor, (weight, bias), FAMILIES["categorical"], 1.0, mean), True, generator())
    assert choice == RungChoice(Rung.DOUBLE_VJP, True)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("n_samples", [20, 64, 5000])
def test_bytes_per_sample_of_an_mlp(n_samples: int) -> None:
    """Linear layers keep their inputs (11, 64, 64 numbers) and tanh its outputs, which are the same storages."""
    net = nn.Sequential(nn.Linear(11, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 6))
    observations = torch.randn(n_samples, 11)
    counted = bytes_per_sample(lambda rows: net(observations[rows]), [*net.parameters()], n_samples)
    by_hand = 4 * (11 + 64 + 64)
    assert by_hand / 2 <= counted <= 2 * by_hand


def test_bytes_per_sample_is_positive_where_nothing_is_kept() -> None:
    assert bytes_per_sample(lambda rows: torch.zeros(rows.stop - rows.start), [], 10) == 1


def test_bytes_per_sample_of_an_expanded_tensor_are_those_of_its_storage() -> None:
    weight = torch.randn(1, requires_grad=True)
    wide = torch.randn(1).expand(32, 10_000)
    assert bytes_per_sample(lambda rows: (weight * wide).sum(), [weight], 32) <= 4


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_bytes_per_sample_are_those_of_one_where_more_would_be_too_much(limit: int) -> None:
    """Measuring shall not take more than there is: it ends as soon as the limit is passed, and one sample is looked at."""
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    observations, sizes = torch.randn(100, 3), []

    def forward(rows: slice) -> Tensor:
        hidden = net[1](net[0](observations[rows]))
        output = net[2](hidden)
        sizes.append(rows.stop - rows.start)  # a forward pass that went through
        return output

    parameters = [*net.parameters()]
    alone = bytes_per_sample(lambda rows: net(observations[rows]), parameters, 1)
    assert bytes_per_sample(forward, parameters, 100, limit) == alone
    assert sizes == [1]
    assert bytes_per_sample(forward, parameters, 100, 10**9) == pytest.approx(alone, rel=0.1)
    assert sizes == [1, 32]
