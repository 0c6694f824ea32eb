"""
How far one update moves the policy: PPO beside TRPO, each with the settings that it is used with.

The KL of each update is taken by the same instrument on both sides, on the batch that the update was made from: of the policy
after it from the policy before it, a sum over action dimensions, mean and largest over states. PPO clips a probability ratio
and bounds no KL; SB3's PPO has ``target_kl``, which ends an update's epochs early, and the RL Zoo sets it nowhere.

    python scripts/compare_with_ppo.py            # the runs that results/update_sizes.csv lacks, then the page's table
    python scripts/compare_with_ppo.py --check    # train nothing; fail if that table is not up to date
"""

from __future__ import annotations

import copy
import csv
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
from evidence.configurations import make_run
from evidence.provenance import REPO, provenance
from evidence.runs import OURS, Run
from evidence.training import make_manager, use_ours
from generated_page import parser, with_block, write_or_check
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from torch.distributions import kl_divergence

CSV = REPO / "results" / "update_sizes.csv"
PAGE = REPO / "docs" / "trpo_or_ppo.md"
BEGIN, END = "<!-- sizes: python scripts/compare_with_ppo.py -->\n", "<!-- /sizes -->\n"
PPO = "ppo-zoo"
TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
SEEDS = (0, 1, 2)
STEPS = 100_000
NAMES = {OURS: "TRPO", PPO: "PPO"}
Row = dict[str, Any]


class UpdateSizes(BaseCallback):
    """Takes the KL of each update on the observations of its rollout; it draws no random number and changes nothing."""

    reads_step_values = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self._before: tuple[torch.Tensor, Any] | None = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        observations = model.rollout_buffer.observations.copy()
        flat = torch.as_tensor(observations.reshape(-1, *model.observation_space.shape), device=model.device)
        self._before = flat, copy.deepcopy(model.policy)

    def _on_rollout_start(self) -> None:
        self._take()

    def _on_training_end(self) -> None:
        self._take()

    def _take(self) -> None:
        if self._before is None:
            return
        (observations, before), self._before = self._before, None
        model: Any = self.model
        with torch.no_grad():
            old, new = (policy.get_distribution(observations).distribution for policy in (before, model.policy))
            kl = kl_divergence(new, old).double().reshape(len(observations), -1).sum(dim=1)
        row = {"num_timesteps": model.num_timesteps, "samples": len(kl), "kl": kl.mean().item(), "kl_max": kl.max().item()}
        self.rows.append({"update": len(self.rows) + 1, **row})


def measure(run: Run) -> list[Row]:
    """
    Train, and take the size of every update.

    :param run: what to train
    :return: a row an update
    """
    if run.implementation == OURS:
        use_ours(plain_cg=False)
    sizes = UpdateSizes()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = make_manager(run, Path(folder))
        set_random_seed(run.seed)
        model, _ = manager.setup_experiment()  # type: ignore[misc]
        manager.callbacks.append(sizes)
        manager.learn(model)
    bound = getattr(model, "target_kl", None) if run.implementation == OURS else None
    known: Row = {"task": run.task, "implementation": run.implementation, "seed": run.seed, "config_hash": run.config_hash}
    known["numerics_version"] = run.numerics_version
    return [{**known, "bound": bound, **row, **provenance()} for row in sizes.rows]


def append(rows: list[Row], path: Path) -> None:
    """
    Add a finished run.

    :param rows: of ``measure``
    :param path: the CSV
    """
    begins = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerows({key: f"{one:.5g}" if isinstance(one, float) else one for key, one in row.items()} for row in rows)


def table(rows: pd.DataFrame) -> str:
    """
    Sum up the runs of each task and side.

    :param rows: of the CSV
    :return: Markdown
    """
    lines = [
        f"| task | | updates in {STEPS:,} steps | KL of an update: median | 95 % are below | largest | largest in one state |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, of_task in rows.groupby("task"):
        for implementation, name in NAMES.items():
            of = of_task[of_task.implementation == implementation]
            if of.empty:
                continue
            each = of.groupby("seed").size().mean()
            bound = "" if of.bound.isna().all() else f" (bound {of.bound.max():g})"
            kl = f"{of.kl.median():.2g} | {of.kl.quantile(0.95):.2g} | {of.kl.max():.2g}{bound}"
            lines.append(f"| {task} | {name} | {each:,.0f} | {kl} | {of.kl_max.max():.3g} |")
    return "\n".join(lines) + "\n"


def key(run: Run) -> tuple[str, str, int, str, int]:
    """
    Name a run by what makes two of them the same.

    :param run: a run
    :return: columns of the CSV
    """
    return run.task, run.implementation, run.seed, run.config_hash, run.numerics_version or 0


def keys(rows: pd.DataFrame) -> list[tuple[str, str, int, str, int]]:
    """
    Name the run of each row.

    :param rows: of the CSV
    :return: their ``key``
    """
    versions = rows.numerics_version.fillna(0).astype(int)
    return list(zip(rows.task, rows.implementation, rows.seed, rows.config_hash, versions, strict=True))


def wanted() -> list[Run]:
    """
    List the runs of today's settings, seed by seed.

    :return: runs
    """
    runs = (make_run(side, task, seed, STEPS) for seed in SEEDS for task in TASKS for side in NAMES)
    return [run for run in runs if run is not None]


def measured() -> pd.DataFrame:
    """
    Read the rows of today's settings; those of older ones stay in the file.

    :return: rows of the CSV
    """
    rows, known = pd.read_csv(CSV), {key(run) for run in wanted()}
    return rows[[each in known for each in keys(rows)]]


def missing() -> list[Run]:
    """
    Find what the CSV lacks.

    :return: runs
    """
    done = set(keys(pd.read_csv(CSV))) if CSV.exists() else set()
    return [run for run in wanted() if key(run) not in done]


def main(argv: list[str] | None = None) -> int:
    """
    Measure what is missing, and write the table.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    args = parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    for run in missing():
        if args.check:
            print(f"{run.title} was not measured: run python scripts/compare_with_ppo.py", file=sys.stderr)
            return 1
        append(measure(run), CSV)
        print(f"{run.title}: done", flush=True)
    page = with_block(PAGE.read_text(encoding="utf-8"), BEGIN, table(measured()), END)
    return write_or_check("compare_with_ppo.py", {PAGE: page}, args.check)


if __name__ == "__main__":
    sys.exit(main())
