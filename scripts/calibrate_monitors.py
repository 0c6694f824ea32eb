"""
What the monitors' figures are in ordinary runs: where their thresholds come from.

Tasks and seeds are others than those that the tests take for healthy. Every update of every run is a row of
``results/monitor_figures.csv``; printed are, for each figure, the largest and the smallest value of each run, and the alarms
that the present thresholds raise.

    python scripts/calibrate_monitors.py                    # all runs that are not in the CSV yet
    python scripts/calibrate_monitors.py --tables           # the tables again, from the CSV
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import warnings
from argparse import Namespace
from typing import Any

import torch
from evidence.provenance import REPO
from rich.console import Console
from rich.table import Table
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed

from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.zoo import config_file

CSV = REPO / "results" / "monitor_figures.csv"
TASKS = (
    "Acrobot-v1",
    "MountainCarContinuous-v0",
    "LunarLander-v3",
    "InvertedPendulum-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
    "HalfCheetah-v5",
)
SEEDS = (101, 102)
STEPS = 49_152

FIGURES = (
    "kl_share",
    "kl_max_share",
    "kl_max_spike",
    "drift_share",
    "backtracks",
    "rejected_share",
    "exploration_left",
    "exploration_lost",
    "kl_joint",
    "actor_inactive",
    "critic_inactive",
    "cg_growth",
    "cg_retries",
    "explained_variance",
    "flattery",
    "value_loss_rise",
    "explained_variance_fall",
    "td_bias_share",
    "td_bias_share_by_time",
    "advantage_top_weight",
)
COLUMNS = ("task", "seed", "n_updates", "num_timesteps", *FIGURES, "alarms")
Row = dict[str, Any]


class Observer(BaseCallback):
    """
    Takes down what the monitors look at. Stands behind them, so that they have looked.

    :param monitor: all of them
    """

    reads_step_values = False

    def __init__(self, monitor: TrustRegionMonitor):
        super().__init__()
        self.monitor = monitor
        self.rows: list[Row] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._take_down()

    def _on_training_end(self) -> None:
        self._take_down()

    def _take_down(self) -> None:
        report: Any = self.model.last_update  # type: ignore[attr-defined]
        if report is None or (self.rows and self.rows[-1]["n_updates"] == report.n_updates):
            return
        known: Row = {"n_updates": report.n_updates, "num_timesteps": report.num_timesteps}
        for name in ("kl_joint", "actor_inactive", "critic_inactive", "explained_variance", "advantage_top_weight"):
            known[name] = getattr(report, name)
        for monitor in self.monitor.monitors:
            known |= {name: value for name, value in monitor.figures().items() if name in FIGURES}
        known["alarms"] = " ".join(alarm.code for alarm in self.monitor.alarms if alarm.n_updates == report.n_updates)
        self.rows.append(known)


def run(task: str, seed: int) -> list[Row]:
    """
    Train by our YAML.

    :param task: environment id
    :param seed: its seed
    :return: a row an update
    """
    monitor = TrustRegionMonitor()
    observer = Observer(monitor)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = ExperimentManager(
            Namespace(),
            "trpo",
            task,
            folder,
            n_timesteps=STEPS,
            eval_freq=-1,
            log_interval=-1,
            seed=seed,
            verbose=0,
            device="cpu",
            config=str(config_file()),
        )
        set_random_seed(seed)
        model, _ = manager.setup_experiment()  # type: ignore[misc]
        manager.callbacks[:] = [monitor, observer]
        manager.learn(model)
    return [{"task": task, "seed": seed, **row} for row in observer.rows]


def read() -> list[Row]:
    """
    Read what has been measured.

    :return: rows of text
    """
    if not CSV.exists():
        return []
    with CSV.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(rows: list[Row]) -> None:
    """
    Add a run to the CSV.

    :param rows: its rows
    """
    begins = not CSV.exists()
    with CSV.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if begins:
            writer.writeheader()
        writer.writerows(
            {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
        )


def tables(rows: list[Row], console: Console) -> None:
    """
    Print the range of every figure in every run, and the alarms.

    :param rows: of the CSV
    :param console: where
    """
    runs = list(dict.fromkeys((row["task"], row["seed"]) for row in rows))
    shown = Table(title="least … largest of a run", title_justify="left")
    shown.add_column("figure")
    for task, seed in runs:
        shown.add_column(f"{task} {seed}", overflow="fold")
    for figure in FIGURES:
        cells = []
        for one in runs:
            values = [float(row[figure]) for row in rows if (row["task"], row["seed"]) == one and row[figure]]
            cells.append(f"{min(values):.2g} … {max(values):.2g}" if values else "-")
        shown.add_row(figure, *cells)
    raised = [" ".join(row["alarms"] for row in rows if (row["task"], row["seed"]) == one and row["alarms"]) for one in runs]
    shown.add_row("alarms", *raised)
    console.print(shown)


def main(argv: list[str] | None = None) -> int:
    """
    Do what was asked for.

    :param argv: arguments; None for the process's own
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console(highlight=False, width=240)
    done = {(row["task"], int(row["seed"])) for row in read()}
    for task in () if args.tables else TASKS:
        for seed in SEEDS:
            if (task, seed) not in done:
                append(run(task, seed))
                console.print(f"{task} {seed}: done")
    tables(read(), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
