"""What the RL Zoo's ``-optimize`` searches for TRPO, in joint units of the KL."""

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_onpolicy_params

# The Zoo hands the sampler over as (trial, n_actions, n_envs, additional_args); only the trial matters here.
# Ranges: every value is one that the constructor takes without a warning (joint KL <= 0.1, at least 10 CG steps and
# critic epochs), and batch_size always divides n_steps. Damping spans the Zoo's 0.001 to 0.1 times ten action dimensions.


def sample_trpo_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Sample one set of hyperparameters.

    :param trial: the Optuna trial
    :param n_actions: action dimensions, unused: joint units need no rescaling
    :param n_envs: number of environments, unused
    :param additional_args: what the Zoo tells samplers of off-policy algorithms, unused
    :return: arguments for the constructor of TRPO
    """
    sampled = {
        "n_steps_pow": trial.suggest_int("n_steps_pow", 8, 12),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 5, 8),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.0001, 0.1, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 0.002, log=True),
        "n_critic_updates": trial.suggest_int("n_critic_updates", 10, 30),
        "cg_max_steps": trial.suggest_int("cg_max_steps", 10, 40),
        "cg_damping": trial.suggest_float("cg_damping", 0.001, 1.0, log=True),
        "target_kl": trial.suggest_float("target_kl", 0.002, 0.1, log=True),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }
    hyperparams = convert_trpo_params(sampled)
    # What the powers and differences stand for, for people who read the study
    for name in ("gamma", "gae_lambda", "n_steps", "batch_size"):
        trial.set_user_attr(name, hyperparams[name])
    return hyperparams


def convert_trpo_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into hyperparameters; the Zoo's ``--trial-id`` calls it on ``trial.params`` alone.

    :param sampled_params: names and values as the trial stores them
    :return: arguments for the constructor of TRPO
    :raises ValueError: for a trial that our sampler did not make: its ``target_kl`` is in another unit
    """
    if "cg_damping" not in sampled_params:
        raise ValueError(
            "cg_damping is missing in this trial, so it comes from the RL Zoo's own TRPO sampler, whose target_kl is a mean "
            "over action dimensions: load it without sb3_trpo_ext.zoo, or run the search again with it."
        )
    return {**convert_onpolicy_params(sampled_params), "kl_reduction": "joint"}
