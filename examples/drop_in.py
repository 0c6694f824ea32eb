"""
The same script with sb3_contrib.TRPO and with ours: only the import differs.

    python examples/drop_in.py --steps 50000
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the threads of a small network only wait for one another

import sb3_contrib
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_trpo_ext


def train(trpo: type[sb3_contrib.TRPO], steps: int) -> sb3_contrib.TRPO:
    """Whatever you have: nothing in here knows whose TRPO it is."""
    env = make_vec_env("CartPole-v1", n_envs=4, seed=1)
    model = trpo("MlpPolicy", env, n_steps=512, batch_size=256, gamma=0.98, learning_rate=1e-3, seed=1)
    return model.learn(steps)


def main() -> None:
    """Train both, and compare what there is to see."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    for package in (sb3_contrib, sb3_trpo_ext):
        model = train(package.TRPO, args.steps)
        mean, _ = evaluate_policy(model, make_vec_env("CartPole-v1", 4, seed=100), n_eval_episodes=20)
        print(f"{package.__name__}: mean return {mean:.1f}")
        model.save(f"{package.__name__}.zip")

    # What only ours has: a report of every update.
    report = model.last_update
    print(f"last update: {report.status}, KL {report.kl:.5f} of at most {report.target_kl}")
    # And the zips are each other's.
    there_and_back = sb3_contrib.TRPO.load("sb3_trpo_ext.zip"), sb3_trpo_ext.TRPO.load("sb3_contrib.zip")
    print("loaded by the other:", *(type(each).__module__.split(".")[0] for each in there_and_back))


if __name__ == "__main__":
    main()
