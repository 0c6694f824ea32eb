"""The search space: what ``-optimize`` samples is what ``--trial-id`` gives back."""

import warnings
from typing import Any

import optuna
import pytest
from rl_zoo3.hyperparams_opt import sample_trpo_params as zoos_sampler
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo.search_space import convert_trpo_params, sample_trpo_params

optuna.logging.set_verbosity(optuna.logging.WARNING)

FIXED: dict[str, Any] = {
    "n_steps_pow": 8,
    "batch_size_pow": 6,
    "one_minus_gamma": 0.01,
    "one_minus_gae_lambda": 0.05,
    "learning_rate": 1e-3,
    "n_critic_updates": 10,
    "cg_max_steps": 10,
    "cg_damping": 0.3,
    "target_kl": 0.03,
    "cg_preconditioner": "none",
    "pi_width": 64,
    "vf_width": 128,
    "activation_fn": "tanh",
    "log_std_init": -0.5,
    "ortho_init": False,
}


def test_a_fixed_trial_gives_these_hyperparameters() -> None:
    trial = optuna.trial.FixedTrial(FIXED)
    hyperparams = sample_trpo_params(trial, 3, 2, {})
    assert hyperparams.pop("policy_kwargs") == {
        "net_arch": {"pi": [64, 64], "vf": [128, 128]},
        "activation_fn": nn.Tanh,
        "log_std_init": -0.5,
        "ortho_init": False,
    }
    assert hyperparams == {
        "kl_reduction": "joint",
        "n_steps": 256,
        "batch_size": 64,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "learning_rate": 1e-3,
        "n_critic_updates": 10,
        "cg_max_steps": 10,
        "cg_damping": 0.3,
        "cg_preconditioner": "none",
        "target_kl": 0.03,
    }
    assert trial.user_attrs == {"gamma": 0.99, "gae_lambda": 0.95, "n_steps": 256, "batch_size": 64}


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.RandomSampler(seed=0), optuna.samplers.TPESampler(seed=0, multivariate=True)]
)
def test_the_converter_gives_back_what_was_sampled(sampler: optuna.samplers.BaseSampler, tmp_path: Any) -> None:
    sampled: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        sampled.append(sample_trpo_params(trial, 3, 2, {}))
        return float(trial.number % 7)

    def storage() -> optuna.storages.JournalStorage:
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))

    optuna.create_study(sampler=sampler, storage=storage(), study_name="s").optimize(objective, n_trials=30)
    # Read from disk, as the Zoo does in another process
    loaded = optuna.load_study(storage=storage(), study_name="s")
    assert [convert_trpo_params(trial.params) for trial in loaded.trials] == sampled


def test_no_sample_is_risky() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(200):
        hyperparams = sample_trpo_params(study.ask(), 3, 2, {})
        assert hyperparams["target_kl"] <= 0.1
        assert min(hyperparams["cg_max_steps"], hyperparams["n_critic_updates"]) >= 10
        assert hyperparams["n_steps"] % hyperparams["batch_size"] == 0
        assert "normalize_advantage" not in hyperparams


@pytest.mark.parametrize("kl", [0.002, 0.1])
def test_the_constructor_takes_a_sample_without_a_word(kl: float) -> None:
    hyperparams = sample_trpo_params(optuna.trial.FixedTrial({**FIXED, "target_kl": kl}), 1, 1, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TRPO("MlpPolicy", "Pendulum-v1", device="cpu", **hyperparams)
    assert (model.kl_unit, model.target_kl) == ("joint", kl)


def test_a_trial_of_the_zoos_sampler_is_refused_not_misread() -> None:
    trial = optuna.create_study().ask()
    zoos_sampler(trial, 3, 2, {})
    with pytest.raises(ValueError, match="cg_damping is missing"):
        convert_trpo_params(trial.params)
