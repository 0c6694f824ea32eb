"""
The choice of a rung: the first way to Fisher-vector products that works on a policy, and that another one confirms.

Its first *and third* product are compared with fresh ones of another rung, on a few samples: a kept graph may be right the
first time and wrong later. Chosen once for all updates of a model, unless its circumstances change, and reported with the
reasons against earlier rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sb3_trpo_ext.core.distributions import Metric
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import Parameters
from sb3_trpo_ext.core.reduce import WeightedMean, chunked

AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Two rungs give the same matrix if their products differ by no more than this share of their norm."""

PROBE_SAMPLES = 32
"""Samples on which rungs are compared: enough to see a wrong rule of differentiation, cheap also on images."""

LADDER = (
    RungChoice(Rung.CLOSED_FORM, retained=True),
    RungChoice(Rung.CLOSED_FORM, retained=False),
    RungChoice(Rung.DOUBLE_VJP, retained=True),
    RungChoice(Rung.FORWARD_REVERSE, retained=False),
    RungChoice(Rung.DOUBLE_VJP, retained=False),
    RungChoice(Rung.DOUBLE_BACKWARD, retained=False),
)


class _Euclidean:
    """A unit Gaussian over phi itself: rungs differ in J only, and a saturated metric would hide J from some of them."""

    def kl(self, new: Tensor, old: Tensor) -> Tensor:
        return 0.5 * (new - old).square().sum(dim=-1)

    def metric_at(self, phi: Tensor) -> Metric:
        return lambda tangent: tangent


class NoWorkingRungError(RuntimeError):
    """No rung gives Fisher products that another one confirms."""


def choose_rung(
    curvature: Curvature, fits_memory: bool, generator: torch.Generator, ladder: Sequence[RungChoice] = LADDER
) -> RungChoice:
    """
    Take the first rung whose first and third product a fresh product of another rung confirms.

    :param curvature: actor, parameters, distribution and mean
    :param fits_memory: whether the graphs of the whole batch may be kept (it is one chunk)
    :param generator: source of the probe vectors
    :param ladder: rungs, the preferred first
    :return: the choice, with the reasons against the earlier ones
    :raises NoWorkingRungError: if none is confirmed
    """
    probe = _probe(curvature)
    vectors = [_random_tangent(curvature.theta, generator) for _ in range(3)]
    rejected: list[str] = []
    for choice in ladder:
        if choice.rung is Rung.CLOSED_FORM and curvature.mlp is None:
            continue  # no failure: most kinds of networks have none
        if choice.retained and not fits_memory:
            rejected.append(f"{choice.name}: the batch is evaluated in several chunks")
            continue
        problem = _disagreement(probe, choice, vectors)
        if problem is None:
            return RungChoice(choice.rung, choice.retained, tuple(rejected))
        rejected.append(f"{choice.name}: {problem}")
    raise NoWorkingRungError(
        f"no way to compute Fisher-vector products of this policy works: {'; '.join(rejected)}. Likely causes: an "
        "autograd.Function whose backward is not finite, not differentiable, or not the derivative of its forward; a module "
        "whose derivative is another one at each call. Nothing was changed."
    )


def _probe(curvature: Curvature) -> Curvature:
    first = curvature.mean.chunks[0]
    rows = torch.arange(first.start, min(first.stop, first.start + PROBE_SAMPLES)) if isinstance(first, slice) else first
    # Of weight one each: these transitions may all be dropped from the batch.
    weights = torch.ones_like(curvature.mean.weights)
    mean = WeightedMean(weights, (rows[:PROBE_SAMPLES].to(weights.device),))
    return replace(curvature, distribution=_Euclidean(), mean=mean)


def _random_tangent(theta: Parameters, generator: torch.Generator) -> Tensor:
    n_parameters = sum(parameter.numel() for parameter in theta)
    return torch.randn(n_parameters, generator=generator, dtype=torch.float64).to(theta[0])


def _disagreement(probe: Curvature, choice: RungChoice, vectors: Sequence[Tensor]) -> str | None:
    """None if the rung's first and third products are confirmed, else what is wrong with it."""
    try:
        operator = FisherOperator(probe, choice)
        products = [operator.product(vector) for vector in vectors]
    except (RuntimeError, NotImplementedError) as error:
        return f"raised {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    verdicts = []
    for rung in (Rung.FORWARD_REVERSE, Rung.DOUBLE_BACKWARD):
        if rung is choice.rung:
            continue
        try:
            references = [FisherOperator(probe, RungChoice(rung, retained=False)).product(vectors[i]) for i in (0, 2)]
        except (RuntimeError, NotImplementedError):
            continue
        differing = [
            which
            for which, product, reference in zip(("first", "third"), (products[0], products[2]), references, strict=True)
            if not _agree(product, reference)
        ]
        if not differing:
            return None
        verdicts.append(f"its {' and '.join(differing)} product differs from {rung.value}'s")
    return "; ".join(verdicts) or "no other rung runs to confirm it"


def _agree(product: Tensor, reference: Tensor) -> bool:
    gap, size = torch.linalg.vector_norm(product - reference), torch.linalg.vector_norm(reference)
    return bool(gap <= AGREEMENT[product.dtype] * size)


def bytes_per_sample(forward: Callable[[slice], Tensor], parameters: Sequence[Tensor], n_samples: int) -> int:
    """
    Memory that autograd keeps for one sample, measured on a few.

    :param forward: evaluates some samples with a graph
    :param parameters: the parameters, which are not counted
    :param n_samples: size of the batch
    :return: bytes, >= 1
    """
    rows = chunked(n_samples, PROBE_SAMPLES)[0]
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # A view of the batch's observations keeps no more than its own part; an expanded tensor only its storage.
            kept[storage.data_ptr()] = max(kept.get(storage.data_ptr(), 0), min(storage.nbytes(), tensor.nbytes))
        # Not the tensor itself: saved by the node that made it, it would be a cycle that no collector frees.
        return tensor.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(rows)
    n_probed: int = rows.stop - rows.start
    return max(1, sum(kept.values()) // n_probed)
