"""The main job (``make run``): train through the RL Zoo, evaluate before and after, and say where everything lies."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import rl_zoo3.import_envs  # noqa: F401  (registers the Zoo's own environments)
import yaml
from huggingface_sb3 import EnvironmentName
from rich import box
from rich.console import Console
from rich.table import Table
from rl_zoo3.utils import create_test_env, get_latest_run_id, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import set_random_seed

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.doctor.page import PAGE_NAME, write_page
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.text import show

EPISODES = 10
LOGS = Path("logs")
# How a training that Ctrl-C ended early exits: caught by our command line, or not yet
INTERRUPTED = (130, -signal.SIGINT)


@dataclass(frozen=True)
class Run:
    """
    One training run and what it left behind.

    :param env: environment id
    :param folder: the Zoo's save path
    :param wandb_id: id of its W&B run
    """

    env: str
    folder: Path
    wandb_id: str

    @property
    def params(self) -> Path:
        """Folder of its configuration and normalisation statistics."""
        return self.folder / EnvironmentName(self.env)

    @property
    def model(self) -> Path:
        """The trained agent."""
        return self.folder / f"{EnvironmentName(self.env)}.zip"

    @property
    def wandb_folder(self) -> Path | None:
        """Folder of its W&B run, if it was tracked."""
        return next(Path(os.environ.get("WANDB_DIR", "."), "wandb").glob(f"*run-*-{self.wandb_id}"), None)

    def arguments(self) -> dict[str, Any]:
        """Command line that the Zoo has saved."""
        return dict(yaml.unsafe_load((self.params / "args.yml").read_text()))  # written by the Zoo a moment ago

    def updates(self) -> list[dict[str, Any]]:
        """Reports of its updates; a line that was cut off is left out."""
        file = self.folder / "updates.jsonl"
        reports = []
        for line in file.read_text().splitlines() if file.is_file() else []:
            try:
                reports.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return reports


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """
    Read the command line; a bad one ends here, with one line and before anything is made.

    :param argv: arguments; None for the process's own
    :return: ``env``, ``steps``, ``seed``
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Hopper-v5", help="environment id (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.steps < 1 or not 0 <= args.seed < 2**32:
        fail(f"steps must be at least 1 and the seed in [0, 2**32), not {args.steps} and {args.seed}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gym.make(args.env).close()
    except Exception as error:  # whatever a third party's environment raises
        fail(f"{args.env}: {' '.join(str(error).split())}")
    return args


def fail(message: str) -> None:
    """
    End with one line.

    :param message: what is wrong
    """
    print(f"main_job: {message}", file=sys.stderr)
    sys.exit(2)


def train(env: str, steps: int, seed: int) -> tuple[Run, int]:
    """
    Train in a process of its own, so that W&B and the progress bar have closed before the closing screen.

    :param env: environment id
    :param steps: environment steps
    :param seed: random seed
    :return: the run, and the exit code of the training
    """
    # Not before the command line is known to be good: it chooses the mode of W&B, for the training too, and says so
    importlib.import_module("sb3_trpo_ext.zoo")
    name = EnvironmentName(env)
    run = Run(env, LOGS / "trpo" / f"{name}_{get_latest_run_id(str(LOGS / 'trpo'), name) + 1}", uuid.uuid4().hex[:8])
    command = [sys.executable, "-m", "sb3_trpo_ext", "train", "--env", env, "-n", str(steps), "--seed", str(seed)]
    command += ["-f", str(LOGS), "--progress", "--verbose", "0"]
    tracked = importlib.util.find_spec("wandb") is not None
    command += ["--track"] if tracked else ["--tensorboard-log", "runs"]
    environ = {**os.environ, "WANDB_RUN_ID": run.wandb_id}
    if os.environ.get("WANDB_MODE") == "offline":
        environ.setdefault("WANDB_SILENT", "true")  # the closing screen says what wandb would
    # Ctrl-C reaches the training too: there the Zoo saves what it has, and here we wait for it
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = subprocess.run(command, env=environ, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return run, code


def untrained_policy(model: TRPO, seed: int) -> BasePolicy:
    """
    Build the policy that training began with, as SB3 does it: seed, then build.

    :param model: the trained model
    :param seed: the run's seed
    :return: a policy with its initial weights
    """
    set_random_seed(seed)
    return model.policy_class(
        model.observation_space, model.action_space, model.lr_schedule, use_sde=model.use_sde, **model.policy_kwargs
    ).to(model.device)


def evaluate(run: Run) -> dict[str, tuple[float, float]]:
    """
    Play the policy before and after training, with deterministic actions and the trained normalisation for both, so
    that nothing but the weights differs.

    :param run: a finished run
    :return: mean and standard deviation of the (unnormalised) return, by "before" and "after"
    """
    seed = run.arguments()["seed"]
    model = TRPO.load(run.model, device="cpu")
    returns = {}
    for name, policy in {"before": untrained_policy(model, seed), "after": model.policy}.items():
        hyperparams, statistics = get_saved_hyperparams(str(run.params))
        hyperparams.pop("env_kwargs", None)
        with contextlib.redirect_stdout(io.StringIO()):
            env = create_test_env(run.env, stats_path=statistics, seed=seed, should_render=False, hyperparams=hyperparams)
        mean, std = evaluate_policy(policy, env, n_eval_episodes=EPISODES, deterministic=True)
        env.close()
        returns[name] = (float(mean), float(std))
    return returns


def trust_region(run: Run) -> list[tuple[str, str]]:
    """
    Sum up the updates.

    :param run: a run
    :return: rows for the closing screen
    """
    reports = run.updates()
    taken = [report for report in reports if report.get("status") == "accepted"]
    if not reports:
        return [("updates", "no reports (updates.jsonl) found")]
    rows = [("updates", f"{len(taken)} accepted of {len(reports)}")]
    if taken:
        largest = max(taken, key=lambda report: report["kl"] / report["target_kl"])
        unit = "joint"
        if largest["kl_reduction"] == "mean":
            unit = f"mean over action dimensions; joint: {max(report['kl_joint'] for report in taken):.4g}"
        rows.append(("largest KL", f"{largest['kl']:.4g}, bound {largest['target_kl']:.4g} ({unit})"))
    return rows


def closing_screen(run: Run, returns: dict[str, tuple[float, float]], console: Console) -> None:
    """
    Show the result, the files and the next commands.

    :param run: a run
    :param returns: what ``evaluate`` found
    :param console: where to
    """
    rows = [(f"return {name}", f"{mean:.1f} ± {std:.1f}") for name, (mean, std) in returns.items()]
    table = Table(box=box.ROUNDED, show_header=False)
    for row in [*rows, *trust_region(run)]:
        table.add_row(*row)
    console.print(f"\n{run.env}, {EPISODES} deterministic episodes before and after training", highlight=False)
    console.print(table)

    board = run.arguments().get("tensorboard_log") or "runs"
    places = {
        "run folder": run.folder,
        "a row an update": run.folder / "progress.csv",
        "TensorBoard": Path(board),
        "W&B": run.wandb_folder,
    }
    for name, place in places.items():
        if place is not None and place.exists():
            console.print(f"{name:<16}{_shown(place)}", soft_wrap=True, highlight=False)
    for title, command in next_commands(run, board).items():
        console.print(f"\n{title}\n  {command}", soft_wrap=True, highlight=False, markup=False)


def next_commands(run: Run, board: str) -> dict[str, str]:
    """
    Say what to do with the result.

    :param run: a run
    :param board: folder of its TensorBoard files
    :return: command lines by title
    """
    from sb3_trpo_ext.zoo import screen  # not at the top: see `train`

    python = _python()
    advantages = run.folder / "advantages.npy"
    agent = f"--env {run.env} --exp-id {run.folder.name.rsplit('_', 1)[-1]}"
    watch, film = f"{python} -m sb3_trpo_ext enjoy {agent}", f"{python} -m sb3_trpo_ext record_video {agent} -n 400"
    if screen.has_screen(run.env):
        commands = {"Watch it:": watch, "Film it:": film}
    elif screen.uses_mujoco(run.env) and screen.renderer() is None:
        commands = {f"Its returns ({screen.no_renderer()}, to film it):": f"{watch} --no-render"}
    else:
        commands = {"Film it (there is no screen for a window):": film, "Its returns:": f"{watch} --no-render"}
    commands["Learning curves:"] = f"{python} -m tensorboard.main --logdir {_shown(board)}"
    if advantages.is_file():
        look = f"import numpy as np; print(np.load('{advantages}'))"
        commands["Advantages of each update (mean, std, min, 5 %, 50 %, 95 %, max):"] = f'{python} -c "{look}"'
    return commands


def diagnose(run: Run, console: Console) -> None:
    """
    Let the doctor look at the run: its verdict on the screen, its page in the run's folder.

    :param run: a run
    :param console: where to
    """
    console.print("\nDoctor")
    try:
        examined = read_run(run.folder)
    except Exception as error:  # it looks at what is done: nothing that it stumbles over makes the run a failure
        console.print(f"The doctor could not look at it: {error!r}", markup=False)
        return
    show(examined, console)
    page = run.folder / PAGE_NAME
    try:
        write_page([examined], page)
    except OSError as error:
        console.print(f"The page can't be written: {error}", markup=False)
        return
    console.print(f"{'its page':<16}{_shown(page)}", soft_wrap=True, highlight=False)
    console.print(f"{'again':<16}{_python()} -m sb3_trpo_ext doctor {_shown(run.folder)}", soft_wrap=True, highlight=False)


def _python() -> str:
    """
    Name the interpreter as a person would type it.

    :return: its path if it is below the working directory, as that of ``make run`` is, which need not be activated
    """
    shown = _shown(sys.executable)
    return "python" if shown.startswith("/") else shown


def _shown(path: Path | str) -> str:
    """
    Shorten a path.

    :param path: a path
    :return: relative to the working directory if below it
    """
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def main() -> int:
    """
    Run the main job.

    :return: exit code
    """
    args = parse_arguments()
    console = Console()
    run, code = train(args.env, args.steps, args.seed)
    if not run.model.is_file():
        console.print("\nNothing was trained" + (": interrupted too early." if code in INTERRUPTED else ": see above."))
        return abs(code) or 1
    returns = {}
    # Ctrl-C here skips the evaluation: the run and its files are there all the same
    with console.status(f"Playing {EPISODES} episodes before and after training"), contextlib.suppress(KeyboardInterrupt):
        returns = evaluate(run)
    closing_screen(run, returns, console)
    diagnose(run, console)
    return code


if __name__ == "__main__":
    sys.exit(main())
