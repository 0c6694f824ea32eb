"""One Fisher product: ours in each precision and rung, and sb3-contrib's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import torch
from stable_baselines3.common.distributions import kl_divergence
from torch import Tensor

from benchmarks.cells import DAMPING, Batch
from benchmarks.measure import Row, row, run_once
from benchmarks.sb3_sides import CONTRIB, OURS, ContribSide, OurSide
from benchmarks.watch import DifferentWork
from sb3_trpo_ext.core.fisher import Curvature, FisherOperator
from sb3_trpo_ext.core.ladder import LADDER

PRODUCT = "Fisher product"
AGREEMENT = 1e-3
"""All sides give the same matrix to this: sb3-contrib's is float32."""
IN_A_ROW = 5
Product = Callable[[Tensor], Tensor]


def contrib_product(side: ContribSide, batch: Batch) -> Product:
    """
    Build sb3-contrib's product, as its ``train`` does.

    :param side: sb3-contrib
    :param batch: the data
    :return: v -> (F + damping) v
    """
    side.reset()
    model = side.model
    with torch.no_grad():
        old = copy.copy(model.policy.get_distribution(batch.observations))
    distribution = model.policy.get_distribution(batch.observations)
    kl = kl_divergence(distribution, old).mean()
    objective = (batch.advantages * (distribution.log_prob(batch.actions) - batch.log_prob).exp()).mean()
    parameters, _, grad_kl, _ = model._compute_actor_grad(kl, objective)
    return lambda vector: model.hessian_vector_product(parameters, grad_kl, vector)


def our_curvature(side: OurSide) -> Curvature:
    """
    Catch what the products of an update are made of.

    :param side: ours
    :return: actor, parameters, distribution and mean
    """
    seen: list[FisherOperator] = []
    product = FisherOperator.product

    def seeing(operator: FisherOperator, vector: Tensor) -> Tensor:
        seen.append(operator)
        return product(operator, vector)

    with mock.patch.object(FisherOperator, "product", seeing):
        run_once(side)
    return seen[-1].curvature


def our_products(curvature: Curvature, say: Callable[[str], None]) -> dict[str, Product]:
    """
    Build a product in each precision and rung.

    :param curvature: from ``our_curvature``
    :param say: gets a line for each rung that can't serve this policy
    :return: by name: v -> (F + damping) v
    """
    found: dict[str, Product] = {}
    for dtype in (torch.float64, torch.float32):
        rounded = replace(curvature, theta=tuple(part.to(dtype) for part in curvature.theta))
        for choice in LADDER:
            operator = FisherOperator(rounded, choice)
            name = f"{OURS}, {str(dtype).removeprefix('torch.')}, {choice.name}"
            try:
                operator.product(torch.ones(sum(part.numel() for part in rounded.theta)))
            except (RuntimeError, NotImplementedError) as error:
                say(f"{name}: left out: {error}")
                continue
            found[name] = lambda vector, operator=operator: operator.damped_product(vector, DAMPING)  # type: ignore[misc]
    return found


def product_rows(contrib: ContribSide, ours: OurSide, batch: Batch, repetitions: int, say: Callable[[str], None]) -> list[Row]:
    """
    Time products in turn, kept graphs made before.

    :param contrib: sb3-contrib
    :param ours: ours, in float64
    :param batch: the data
    :param repetitions: of each, ``IN_A_ROW`` products a time
    :param say: gets a line for each rung that can't serve this policy
    :return: a row for each product
    :raises DifferentWork: if one gives another matrix
    """
    products = {CONTRIB: contrib_product(contrib, batch), **our_products(our_curvature(ours), say)}
    vector = torch.randn(sum(part.numel() for part in batch.actor), generator=torch.Generator().manual_seed(0))
    reference = products[CONTRIB](vector)
    for name, product in products.items():
        gap = float((product(vector) - reference).norm() / reference.norm())
        if not gap < AGREEMENT:
            raise DifferentWork(f"{name}: its product differs from sb3-contrib's by {gap:.1e}")
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(repetitions):
        for name, product in products.items():
            start = time.perf_counter()
            for _ in range(IN_A_ROW):
                product(vector)
            times[name].append(1e3 * (time.perf_counter() - start) / IN_A_ROW)
    return [row(PRODUCT, name, values, times[CONTRIB], "ms") for name, values in times.items()]
