"""
A search for hyperparameters with Optuna, in our space: units of the joint KL, ranges that have a reason.

Start it as often as there are idle cores, on any machine that sees the journal: all work on one study, and it can be
stopped and started again. The RL Zoo does the same without a script (docs/many_machines.md), and
W&B's sweeps are in docs/wandb.md.

    python examples/sweep.py --steps 50000 --trials 50
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo.search_space import convert_trpo_params, sample_trpo_params


def objective(trial: optuna.Trial, steps: int) -> float:
    """Train with what the trial has chosen. Two seeds: one is luck."""
    settings = sample_trpo_params(trial, n_actions=1, n_envs=2, additional_args={})
    scores = [score(settings, steps, seed) for seed in (1, 2)]
    return float(np.mean(scores))


def score(settings: dict, steps: int, seed: int) -> float:
    """Evaluate one training."""
    model = TRPO("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=seed), seed=seed, warn_on_risky=False, **settings)
    model.learn(steps)
    return evaluate_policy(model, make_vec_env("CartPole-v1", 4, seed=1000 + seed), n_eval_episodes=10)[0]


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--trials", type=int, default=4, help="of this process")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="cartpole",
        storage=JournalStorage(JournalFileBackend("sweep.log")),
        sampler=optuna.samplers.TPESampler(seed=os.getpid()),  # workers with one seed would try the same
        direction="maximize",
        load_if_exists=True,
    )
    # A combination that can't work is a ValueError: the trial fails, the study goes on.
    study.optimize(lambda trial: objective(trial, args.steps), n_trials=args.trials, catch=(ValueError,))
    print(
        f"trials so far: {len(study.trials)}; best: number {study.best_trial.number}, mean return {study.best_value:.1f}, with"
    )
    for name, value in convert_trpo_params(study.best_params).items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
