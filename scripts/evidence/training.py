"""One training as the RL Zoo does it, watched: the curve on the way and the final evaluation."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from evidence.runs import CURVE_EPISODES, FINAL_EPISODES, OURS, PLAIN_CG, RANDOM_EPISODES, Run, curve_steps

# Start states are the same at each point of a curve, in each implementation, and new in the final evaluation.
CURVE_SEED, FINAL_SEED = 1_000_000, 2_000_000
Row = dict[str, Any]
Progress = Callable[[int], None]


def describe_returns(returns: list[float], lengths: list[int]) -> Row:
    """
    Sum up episodes.

    :param returns: their returns
    :param lengths: their lengths
    :return: columns ``RETURNS`` of a result
    """
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
        "episodes": len(returns),
    }


def evaluate(model: BaseAlgorithm, env: VecEnv, episodes: int, seed: int) -> Row:
    """
    Play deterministic episodes with the training's normalisation statistics and unnormalised rewards.

    :param model: the agent
    :param env: built like the training's, statistics frozen
    :param episodes: how many
    :param seed: of the start states
    :return: columns ``RETURNS``
    """
    sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type]
    env.seed(seed)
    returns, lengths = evaluate_policy(model, env, episodes, deterministic=True, return_episode_rewards=True)
    return describe_returns(returns, lengths)  # type: ignore[arg-type]


class Observer(BaseCallback):
    """
    Watches a training; it draws no random number that training draws from.

    :param run: what is trained
    :param eval_env: environment for evaluations
    :param progress: called with the number of steps done
    """

    reads_step_values = False

    def __init__(self, run: Run, eval_env: VecEnv, progress: Progress):
        super().__init__()
        self.run, self.eval_env, self.progress = run, eval_env, progress
        self.curve: list[Row] = []
        self.evaluation_seconds = 0.0
        self.updates: dict[int, Row] = {}
        self._points = curve_steps(run.steps)
        self._episodes: list[float] = []
        self._rollout: list[float] = []
        self._rollout_means: list[float] = []

    def _on_training_start(self) -> None:
        self._on_step()

    def _on_step(self) -> bool:
        for info in self.locals.get("infos", ()):
            if "episode" in info:
                self._episodes.append(info["episode"]["r"])
                self._rollout.append(info["episode"]["r"])
        while len(self.curve) < len(self._points) and self.num_timesteps >= self._points[len(self.curve)]:
            self._evaluate(self._points[len(self.curve)])
        return True

    def _evaluate(self, steps: int) -> None:
        start = time.perf_counter()
        row = evaluate(self.model, self.eval_env, CURVE_EPISODES, CURVE_SEED + 1_000 * self.run.seed)
        training = {"training_return": float(np.mean(self._episodes)) if self._episodes else None}
        self.curve.append({"steps": steps, **row, **training, "training_episodes": len(self._episodes)})
        self._episodes = []
        self.evaluation_seconds += time.perf_counter() - start

    def _on_rollout_start(self) -> None:
        self._note_update()
        self.progress(self.num_timesteps)

    def _on_rollout_end(self) -> None:
        if self._rollout:
            self._rollout_means.append(float(np.mean(self._rollout)))
        self._rollout = []

    def _on_training_end(self) -> None:
        self._note_update()  # the Zoo calls this twice: an update is noted under its number

    def _note_update(self) -> None:
        """Read what the newest update did: our report, or what sb3-contrib has recorded and not yet dumped."""
        report = getattr(self.model, "last_update", None)
        if report is not None:
            skipped = report.updates_skipped
            ratio = report.kl / report.target_kl
            self.updates[report.n_updates] = {"accepted": report.status == "accepted", "skipped": skipped, "kl": ratio}
            return
        logged = self.model.logger.name_to_value
        if "train/is_line_search_success" in logged:
            accepted = bool(logged["train/is_line_search_success"] == 1.0)
            ratio = logged["train/kl_divergence_loss"] / self.model.target_kl if accepted else 0.0  # type: ignore[attr-defined]
            self.updates[int(logged["train/n_updates"])] = {"accepted": accepted, "skipped": 0, "kl": float(ratio)}

    def summary(self) -> Row:
        """
        Sum up the updates.

        :return: columns of a result; None where the algorithm has no trust region
        """
        means = np.asarray(self._rollout_means)
        updates = [self.updates[number] for number in sorted(self.updates)]
        return {
            "updates": len(updates) or None,
            "updates_accepted": sum(update["accepted"] for update in updates) if updates else None,
            "updates_skipped": updates[-1]["skipped"] if updates else None,
            "largest_kl_ratio": max(update["kl"] for update in updates) if updates else None,
            "updates_lowered_share": float(np.mean(np.diff(means) < 0)) if len(means) > 1 else None,
        }


def make_manager(run: Run, folder: Path) -> ExperimentManager:
    """
    Hand a run over to the Zoo.

    :param run: what to train
    :param folder: where the Zoo may write
    :return: the Zoo's own manager, which reads these settings and no others
    """
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump({run.task: {"n_timesteps": run.steps, **run.entry}}))
    return ExperimentManager(
        Namespace(),
        "ppo" if run.implementation == "ppo-zoo" else "trpo",
        run.task,
        str(folder / "logs"),
        n_timesteps=run.steps,
        eval_freq=-1,
        log_interval=-1,
        seed=run.seed,
        verbose=0,
        device="cpu",
        config=str(config),
    )


def expected_module(run: Run) -> str:
    """
    Say whose class must do the training.

    :param run: a run
    :return: top-level module
    """
    known = {OURS: "sb3_trpo_ext", PLAIN_CG: "sb3_trpo_ext", "ppo-zoo": "stable_baselines3"}
    return known.get(run.implementation, "sb3_contrib")


def use_ours(plain_cg: bool) -> None:
    """
    Put ours in the place of sb3-contrib's, in this process only.

    :param plain_cg: whether its CG is to keep no residual: the recurrence of the textbook
    """
    from sb3_trpo_ext.sb3 import hyperparameters
    from sb3_trpo_ext.zoo.cli import use_fast_wrappers

    use_fast_wrappers()
    if plain_cg:
        hyperparameters.RESIDUALS_MEMORY = 0


def train(run: Run, folder: Path, progress: Progress) -> tuple[Row, list[Row]]:
    """
    Train and evaluate.

    :param run: what to train
    :param folder: where the Zoo may write
    :param progress: called with the number of steps done
    :return: columns of ``runs.csv`` and rows of ``curves.csv``
    :raises RuntimeError: if another class than asked for would train, or training ended early
    """
    if run.implementation in (OURS, PLAIN_CG):
        use_ours(run.implementation == PLAIN_CG)
    manager = make_manager(run, folder)
    trainer = ALGOS[manager.algo].__module__.partition(".")[0]
    if trainer != expected_module(run):
        raise RuntimeError(f"{run.implementation} would be trained by {trainer}")
    set_random_seed(run.seed)  # as rl_zoo3.train does, before anything is made
    model, _ = manager.setup_experiment()  # type: ignore[misc]
    observer = Observer(run, manager.create_envs(CURVE_EPISODES, eval_env=True), progress)
    manager.callbacks.append(observer)
    start, cpu = time.perf_counter(), time.process_time()
    manager.learn(model)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if model.num_timesteps < run.steps:  # the Zoo takes an interrupt for a normal end
        raise RuntimeError(f"training ended after {model.num_timesteps} of {run.steps} steps")
    final = evaluate(model, observer.eval_env, FINAL_EPISODES, FINAL_SEED + 1_000 * run.seed)
    timing = {"seconds": seconds - observer.evaluation_seconds, "evaluation_seconds": observer.evaluation_seconds}
    return {**final, "steps_done": model.num_timesteps, **timing, "cpu_seconds": cpu, **observer.summary()}, observer.curve


def play_randomly(run: Run) -> Row:
    """
    Evaluate the policy that draws its actions from the action space.

    :param run: a run of ``random``
    :return: columns of ``runs.csv``
    """
    start = time.perf_counter()
    env = gym.make(run.task)
    env.action_space.seed(run.seed)
    returns, lengths = [], []
    for episode in range(RANDOM_EPISODES):
        env.reset(seed=run.seed if episode == 0 else None)
        total, length, done = 0.0, 0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, length, done = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    return {**describe_returns(returns, lengths), "seconds": time.perf_counter() - start}
