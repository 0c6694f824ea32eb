"""Several ranks with a share of the batch each compute what one process computes with all of it."""

from functools import cache
from typing import Any

import pytest
import torch

from sb3_trpo_ext.core.status import UpdateStatus
from tests.sb3.ranks.processes import on_ranks
from tests.sb3.ranks.work import KINDS, N_SAMPLES, critics, policy_steps, shares, whole_critics, whole_steps

CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS),
    ("box", {"kl_reduction": "joint", "fisher_chunk_size": 7}),
    ("discrete", {"policy_kwargs": {"share_features_extractor": False}, "cg_max_steps": 40}),
]
ROUNDED: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"cg_precision": "mixed"}) for kind in KINDS),
    ("box", {"cg_precision": "float32"}),
    ("box", {"cg_preconditioner": "kfac"}),
]
"""Float32 products round otherwise in other chunks, and scores are drawn for each rank's own samples."""

CRITICS: list[tuple[str, dict[str, Any]]] = [
    ("box", {}),  # in closed form
    ("sde", {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}}),
    ("box", {"policy_kwargs": {"optimizer_class": torch.optim.Adamax}}),  # by autograd
]


@cache
def one_process() -> list[dict[str, Any]]:
    return whole_steps(CASES)


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_the_policy_step_is_that_of_one_process(size: int) -> None:
    cuts = [shares(size, equal) for equal in (True, False)]
    every = on_ranks(size, policy_steps, cuts, CASES)
    for case, expected in enumerate(one_process()):
        assert expected["decisions"][0] is UpdateStatus.ACCEPTED
        for cut in range(len(cuts)):
            first = every[0][case][cut]
            for found in every:
                # Vectors of all ranks are the same to the last bit: CG's dot products need no communication.
                assert torch.equal(found[case][cut]["solve"]["direction"], first["solve"]["direction"])
                assert torch.equal(found[case][cut]["after"], first["after"])
                assert torch.equal(found[case][cut]["judged"], first["judged"])
            assert first["decisions"] == expected["decisions"]
            n_products, n_parameters = first["statistics"]["products"].shape
            # One all-reduce a product, and nothing else.
            assert first["sent"] == ((n_products, n_products * n_parameters * 8) if size > 1 else (0, 0))
            for name, value in expected["statistics"].items():
                assert gap(first["statistics"][name], value) <= 1e-12, (CASES[case], name)
            for name, value in expected["solve"].items():
                assert gap(first["solve"][name], value) <= 1e-10, (CASES[case], name)
            one_ulp = torch.nextafter(expected["after"].abs(), torch.tensor(torch.inf)) - expected["after"].abs()
            assert bool(((first["after"] - expected["after"]).abs() <= one_ulp).all())


def test_where_products_are_rounded_verdicts_are_those_of_one_process_and_ranks_the_same() -> None:
    every = on_ranks(2, policy_steps, [shares(2, equal=False)], ROUNDED)
    for case, expected in enumerate(whole_steps(ROUNDED)):
        (first,), (second,) = (found[case] for found in every)
        assert first["decisions"] == second["decisions"] == expected["decisions"]
        assert torch.equal(first["after"], second["after"])
        assert gap(first["solve"]["direction"], expected["solve"]["direction"]) <= 2e-3, ROUNDED[case]


def test_the_critic_is_that_of_one_process_with_full_batches_and_the_same_on_all_ranks() -> None:
    cut = shares(2, equal=False)
    full, small = (on_ranks(2, critics, cut, batch_size, CRITICS) for batch_size in (N_SAMPLES, 32))
    for case, (losses, parameters) in enumerate(whole_critics(CRITICS)):
        for every in (full, small):
            of_first, of_second = (each[case] for each in every)
            assert torch.equal(of_first[0], of_second[0])
            assert torch.equal(of_first[1], of_second[1])
        assert gap(full[0][case][0], losses) <= 1e-6
        assert gap(full[0][case][1], parameters) <= 1e-5
