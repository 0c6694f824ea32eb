"""What one update is asked to do: read from the model as it is now, checked, and in plain numbers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from tests.sb3.spaces import collect, make_model


def drawn(generator: torch.Generator | None) -> list[float]:
    assert generator is not None
    return torch.rand(4, generator=generator).tolist()


def test_an_attribute_that_was_set_to_something_impossible_is_refused_by_the_update() -> None:
    model = collect(make_model())
    model.cg_max_steps = 0
    with pytest.raises(ValueError, match=r"cg_max_steps=0 is impossible: it must be an integer >= 1"):
        model.train()
    assert model._n_updates == 0


def test_they_are_read_anew_for_each_update_and_then_frozen() -> None:
    model = make_model(target_kl=0.01, kl_reduction="joint")
    first = model.hyperparameters()
    model.target_kl = np.float32(0.5)
    assert (first.max_kl, model.hyperparameters().max_kl) == (0.01, 0.5)
    assert type(model.hyperparameters().max_kl) is float
    with pytest.raises(FrozenInstanceError):
        first.max_kl = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(("unit", "scale"), [(None, 1 / 3), ("mean", 1 / 3), ("joint", 1.0)])
def test_the_unit_of_the_bound(unit: str | None, scale: float) -> None:
    asked = make_model("box", kl_reduction=unit).hyperparameters()
    assert (asked.kl_unit, asked.kl_scale) == (unit or "mean", scale)


def test_the_update_draws_from_generators_of_its_own_which_a_resumed_run_repeats() -> None:
    model = make_model(seed=3, cg_preconditioner="kfac", sub_sampling_factor=4)
    asked, again = model.hyperparameters(), model.hyperparameters()
    n_kept, generator = asked.sub_sample(64) or (0, None)
    assert n_kept == 16
    samples, scores = drawn(generator), drawn(asked.scores())
    assert (drawn((again.sub_sample(64) or (0, None))[1]), drawn(again.scores())) == (samples, scores)
    model._n_updates = 1
    assert drawn(model.hyperparameters().scores()) != scores
    model._n_updates, model.seed = 0, None
    assert drawn(model.hyperparameters().scores()) != scores


def test_without_preconditioner_or_sub_sample_nothing_is_drawn() -> None:
    asked = make_model().hyperparameters()
    assert asked.sub_sample(64) is None
    assert asked.scores() is None


def test_the_critics_epochs() -> None:
    model = make_model(n_critic_updates=3)
    assert (model.hyperparameters().critic_settings.min_epochs, model.hyperparameters().critic_settings.max_epochs) == (3, 6)
    model.max_critic_updates = 4
    assert model.hyperparameters().critic_settings.max_epochs == 4
