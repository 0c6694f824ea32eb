"""``cg_preconditioner="kfac"``, from the constructor to the report."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core.preconditioner import KroneckerPreconditioner
from sb3_trpo_ext.sb3 import hyperparameters
from sb3_trpo_ext.sb3.problem import kfac as layers
from tests.sb3.spaces import ACTIONS, OBSERVATIONS, collect, make_model, state_of


def updated(model: Any) -> Any:
    collect(model)
    model.train()
    return model


@pytest.mark.parametrize(("action", "observation"), [*((a, "vector") for a in ACTIONS), *(("box", o) for o in OBSERVATIONS)])
def test_every_space_takes_a_verified_step(action: str, observation: str) -> None:
    model = updated(make_model(action, observation, cg_preconditioner="kfac"))
    report = model.last_update
    assert (report.status, report.direction, report.cg_preconditioner) == ("accepted", "cg", "kfac")
    assert report.kl <= model.target_kl
    assert report.cg_preconditioned is not None
    gsde = action.startswith("sde")
    assert (0.3 < report.cg_preconditioned < 1.0) if gsde else report.cg_preconditioned == 1.0


@pytest.mark.parametrize("precision", ["float64", "mixed", "float32"])
@pytest.mark.parametrize("thinning", [1, 4])
def test_it_goes_with_every_precision_and_a_sub_sample(precision: str, thinning: int) -> None:
    model = updated(make_model(cg_preconditioner="kfac", cg_precision=precision, sub_sampling_factor=thinning))
    assert model.last_update.status == "accepted"


def test_the_solution_is_that_of_the_plain_solve_and_comes_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solved to the end, both give the same step; on the way there, K-FAC is ahead."""
    monkeypatch.setattr(hyperparameters, "SETTLED_PROGRESS", 0.0)
    model = make_model(n_steps=256, cg_max_steps=120, cg_damping=1e-3, cg_rtol=1e-9, adaptive_damping=False)
    before = state_of(collect(model))
    solves = []
    for name in ("none", "kfac"):
        model.policy.load_state_dict(before["policy"])
        model.cg_preconditioner = name
        model.train()
        solves.append(model.session.update_inputs.result.solve)
    one, two = (solve.result for solve in solves)
    assert (one.status.value, two.status.value) == ("converged", "converged")
    torch.testing.assert_close(one.solution, two.solution, rtol=1e-4, atol=1e-7 * float(one.solution.norm()))
    assert two.iterations < one.iterations
    assert two.model_history[4] < one.model_history[4]


def test_a_settled_solve_is_no_failure() -> None:
    report = updated(make_model(n_steps=256, cg_max_steps=60, cg_preconditioner="kfac")).last_update
    assert report.cg_status == "settled"
    assert report.cg_iterations < 60
    assert report.status == "accepted"


def test_scores_depend_on_seed_and_update_only() -> None:
    """So a run that is resumed draws what it would have drawn."""
    model = make_model(cg_preconditioner="kfac")
    before = state_of(collect(model))
    steps = []
    for _ in range(2):
        model.policy.load_state_dict(before["policy"])
        model._n_updates = 7
        torch.manual_seed(len(steps))
        model.train()
        steps.append(model.session.update_inputs.result.solve.direction.vector)
    assert torch.equal(*steps)
    model.policy.load_state_dict(before["policy"])
    model.train()
    assert not torch.equal(steps[0], model.session.update_inputs.result.solve.direction.vector)


def indefinite(r: Tensor) -> Tensor:
    return -r


def lopsided(r: Tensor) -> Tensor:
    """Positive definite, but not symmetric: CG goes astray, and can't tell why."""
    return r + 3.0 * torch.cat([r[1:], torch.zeros_like(r[:1])])


@pytest.mark.parametrize("wrong", [indefinite, lopsided])
def test_a_preconditioner_with_which_cg_fails_is_dropped_and_the_report_says_so(
    wrong: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(n_steps=128, cg_damping=1e-3)
    before = state_of(collect(model))
    model.train()
    plain = model.session.update_inputs.result.solve.direction.vector
    model.policy.load_state_dict(before["policy"])
    model._adapted_damping = None
    model.cg_preconditioner = "kfac"
    monkeypatch.setattr(KroneckerPreconditioner, "inverse", lambda self, damping, like: wrong)
    model.train()
    report = model.last_update
    assert (report.status, report.cg_preconditioner, report.cg_preconditioned) == ("accepted", "none", None)
    assert report.cg_retries == 0, "more damping would not have helped"
    assert [note for note in report.notes if note.startswith("kfac was not used: ")]
    assert torch.equal(model.session.update_inputs.result.solve.direction.vector, plain), "nor does its early stop stay behind"


def spoil(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    honest = layers.layer_factors

    def spoilt(*args: Any) -> Any:
        found = list(honest(*args))
        found[place] = replace(found[place], inputs=found[place].inputs * torch.nan)
        return tuple(found)

    monkeypatch.setattr(layers, "layer_factors", spoilt)


def test_layers_that_are_left_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, -1)
    report = updated(make_model(cg_preconditioner="kfac")).last_update
    assert (report.status, report.cg_preconditioner) == ("accepted", "kfac")
    assert report.cg_preconditioned < 1.0
    assert report.notes[0].startswith("kfac, action_net: A factor is not finite")


def test_one_that_knows_too_little_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 0)
    report = updated(make_model(cg_preconditioner="kfac")).last_update
    assert (report.status, report.cg_preconditioner) == ("accepted", "none")
    assert report.notes[-1] == "kfac was not used: only 35% of the parameters have Kronecker factors"


def test_eigenvalues_that_do_not_converge_cost_a_layer_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Tensor) -> Any:
        raise torch.linalg.LinAlgError("linalg.eigh: failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    report = updated(make_model(cg_preconditioner="kfac")).last_update
    assert report.status == "accepted"
    assert "eigenvalues of a factor did not converge" in report.notes[0]
