"""The model of what ranks cost: it finds constants that were planted, and the page says what the CSV holds."""

from dataclasses import replace
from pathlib import Path

import benchmark_scaling
import pytest
from scaling.model import Case, Network, fit
from scaling.page import WIDTHS, collectives_of, held_out, measured_row, section, speed_of

PLANTED = Network("planted", 80e-6, 5e8)


def case(ranks: int, samples: int, width: int = 64) -> Case:
    collectives = 50.0 + 10 * samples / 256 if ranks > 1 else 0.0
    n_bytes = 2e4 * collectives * width / 64
    seconds = (1.4 if ranks > 1 else 1.0) * (samples * (150e-6 + 40e-6) + 0.05) + PLANTED.seconds(ranks, collectives, n_bytes)
    return Case(ranks, samples, width, 10_000, seconds, samples * 150e-6, 0.0, collectives, n_bytes)


CASES = [case(ranks, samples, width) for width in WIDTHS for samples in (1024, 2048, 4096) for ranks in (1, 2)]


def test_planted_constants_are_found_and_the_largest_case_predicted() -> None:
    models, slowness, largest, predicted = held_out(CASES)
    assert slowness == pytest.approx(1.4, rel=1e-6)
    assert (largest.ranks, largest.samples, largest.width) == (2, 4096, max(WIDTHS))
    assert predicted == pytest.approx(largest.seconds, rel=1e-6)
    for model in models.values():
        assert model.collect == pytest.approx(150e-6, rel=1e-6)
        assert model.update == pytest.approx(40e-6, rel=1e-6)
        assert model.fixed == pytest.approx(0.05, rel=1e-6)


def test_no_constant_is_below_zero() -> None:
    models, slowness = fit([replace(each, seconds=each.samples * 1e-3 / each.ranks) for each in CASES])
    assert slowness >= 0.0
    for found in models.values():
        assert min(found.collect, found.update, found.fixed, found.network.latency) >= 0.0


def test_one_rank_says_nothing_a_ring_pays_for_each_rank_and_a_tree_for_each_doubling() -> None:
    ring, tree = Network("ring", 1e-6, 1e9), Network("tree", 1e-6, 1e9, tree=True)
    assert ring.seconds(1, 100, 1e6) == tree.seconds(1, 100, 1e6) == 0.0
    assert ring.seconds(11, 100, 0.0) == pytest.approx(100 * 20e-6)
    assert tree.seconds(1024, 100, 0.0) == pytest.approx(100 * 20e-6)
    assert ring.seconds(10**6, 0.0, 1e9) == pytest.approx(2.0, rel=1e-5)


def test_collectives_of_another_size_are_those_that_were_counted() -> None:
    assert collectives_of(CASES, 64, 4096)[0] == pytest.approx(case(2, 4096).collectives)
    assert collectives_of(CASES, 64, 4096, 4096) == pytest.approx(collectives_of(CASES, 64, 16))


def test_speeds_are_against_one_rank() -> None:
    models, *_ = held_out(CASES)
    free = Network("free", 0.0, float("inf"))
    assert speed_of(CASES, 64, models[64], 16, free, 2048) == pytest.approx(16.0)
    strong = speed_of(CASES, 64, models[64], 16, free, None)
    assert 10.0 < strong < 16.0  # the fixed part is not shared
    weak, halves = measured_row(case(2, 2048), CASES)[-2:]
    assert float(weak) < 2.0
    assert float(halves) < 2.0


def test_the_page_is_that_of_the_csv_and_the_largest_case_was_predicted_within_a_quarter(repo: Path) -> None:
    cases, machine = benchmark_scaling.read()
    assert (repo / "docs" / "scaling.md").read_text().endswith(f"\n\n{section(cases, machine).rstrip()}\n")
    *_, largest, predicted = held_out(cases)
    assert abs(predicted / largest.seconds - 1.0) <= 0.25
