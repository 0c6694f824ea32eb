"""
Soak: a training of millions of steps with everything on, to see that nothing leaks, fills the disk or slows down.

``python scripts/soak.py --steps 5000000 --write`` trains on a cheap vectorised task in this process, with all monitors, the
flight recorder, the run folder, TensorBoard, Monitor files and checkpoints, and looks every 100,000 steps at its resident
memory, CPU time and files. Updates are all recorded up to 64, instead of 10,000, so that the run is twenty times as long as
that. ``--write`` puts the figures in ``results/soak.csv``. Linux.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import os
import resource
import sys
import tempfile
import time
import tracemalloc
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from evidence.provenance import provenance
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.core import NUMERICS_VERSION
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.records import thinning
from sb3_trpo_ext.sb3.checkpoints.files import write_checkpoint
from sb3_trpo_ext.sb3.checkpoints.state import about, checkpoint_files

RESULTS = Path(__file__).resolve().parents[1] / "results" / "soak.csv"

N_ENVS, N_STEPS, EPISODE = 16, 256, 200

WARM_UP = 0.2
"""Share of the run before which memory and speed do not count: buffers fill, and the policy finds its way."""

REPETITIONS = 20

MAX_GROWTH, MAX_SLOWER = 1.0, 0.05
"""MiB per million steps; share of the throughput."""

EVERY_UPDATE_UNTIL = 64

ROW_KIB = 10
"""Of a recorded update, in all files; measured: 8.2."""

OTHERS_MIB = 1.0
"""By which checkpoints, dumps and alarms, bounded in number, may differ in size between two looks."""

COLUMNS = ("steps", "updates", "seconds", "cpu_seconds", "rss_mib", "python_mib", "files_mib", "monitor_mib", "n_files")


class Points(VecEnv):
    """Point masses on a line that are to be brought to rest at 0: as cheap as an environment can be."""

    def __init__(self) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        super().__init__(N_ENVS, box, spaces.Box(-1.0, 1.0, (1,), np.float32))
        self._random = np.random.default_rng(0)
        self._state = np.zeros((N_ENVS, 2))
        self._age = np.arange(N_ENVS) * EPISODE // N_ENVS

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"state": self._state, "age": self._age, "random": self._random}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For checkpoints."""
        self._state, self._age, self._random = state["state"], state["age"], state["random"]

    def _observe(self) -> np.ndarray:
        return np.column_stack([self._state, self._age / EPISODE]).astype(np.float32)

    def reset(self) -> np.ndarray:
        """As in SB3."""
        self._state = self._random.normal(size=(N_ENVS, 2))
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """As in SB3."""
        self._actions = actions[:, 0]

    def step_wait(self) -> Any:
        """As in SB3."""
        position, speed = self._state.T
        speed = 0.95 * speed + 0.1 * self._actions
        self._state = np.column_stack([position + 0.1 * speed, speed])
        self._age += 1
        rewards = -np.square(self._state).sum(1) - 0.01 * np.square(self._actions)
        dones = self._age >= EPISODE
        observations, infos = self._observe(), [{} for _ in range(N_ENVS)]
        if dones.any():
            for index in dones.nonzero()[0]:
                infos[index] = {"terminal_observation": observations[index].copy(), "TimeLimit.truncated": True}
            self._state[dones], self._age[dones] = self._random.normal(size=(dones.sum(), 2)), 0
            observations = self._observe()
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """As in SB3."""
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """As in SB3."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """As in SB3."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """As in SB3."""
        return [False] * N_ENVS


class Watch(BaseCallback):
    """
    Looks at the process now and then.

    :param every: steps between two looks
    :param folder: whose files are counted
    :param rows: gets what is seen
    """

    reads_step_values = False

    def __init__(self, every: int, folder: Path, rows: list[dict[str, float]]):
        super().__init__()
        self.every, self.folder, self.rows = every, folder, rows
        self._next = 0
        self._began = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._look()

    def _on_training_end(self) -> None:
        self._look()

    def _look(self) -> None:
        if self.num_timesteps < self._next:
            return
        self._next += self.every
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        sizes = {path: path.stat().st_size / 2**20 for path in self.folder.rglob("*") if path.is_file()}
        theirs = sum(size for path, size in sizes.items() if path.name.endswith(Monitor.EXT))
        used = resource.getrusage(resource.RUSAGE_SELF)
        values = (
            *(self.num_timesteps, self.model._n_updates, time.perf_counter() - self._began, used.ru_utime + used.ru_stime),
            *(resident_mib(), tracemalloc.get_traced_memory()[0] / 2**20),
            *(sum(sizes.values()) - theirs, theirs, len(sizes)),
        )
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        print("  ".join(f"{name} {value:,.10g}" for name, value in self.rows[-1].items()), flush=True)


def resident_mib() -> float:
    """
    Read the resident memory.

    :return: MiB
    """
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def train(steps: int, every: int, folder: Path) -> list[dict[str, float]]:
    """
    Train with everything on.

    :param steps: how many
    :param every: steps between two looks
    :param folder: the run's
    :return: a row a look
    """
    rows: list[dict[str, float]] = []
    folder.mkdir(parents=True, exist_ok=True)
    env = VecNormalize(VecMonitor(Points(), str(folder / "0")))
    model = TRPO(
        "MlpPolicy",
        env,
        n_steps=N_STEPS,
        batch_size=1024,
        n_critic_updates=5,
        gae_lambda=0.9,
        policy_kwargs={"net_arch": [32, 32]},
        kl_reduction="joint",
        seed=0,
        device="cpu",
        log_folder=str(folder),
        tensorboard_log=str(folder / "tensorboard"),
    )
    checkpoints = Checkpoints()
    model.learn(steps, [TrustRegionMonitor(), checkpoints, Watch(every, folder, rows)])
    cost = checkpoint_milliseconds(model, checkpoints.locals["callback"], folder / "cost")
    print(f"a checkpoint takes {cost[0]:.1f} ms of CPU time, {cost[1]:.1f} ms by the clock (medians of {REPETITIONS})")
    return rows


def checkpoint_milliseconds(model: TRPO, root: BaseCallback, folder: Path) -> tuple[float, float]:
    """
    Time a checkpoint, flushed to the disk.

    :param model: that was trained
    :param root: of its callbacks
    :param folder: where
    :return: medians of CPU time and of the clock
    """
    times = []
    for _ in range(REPETITIONS):
        cpu, clock = time.process_time(), time.perf_counter()
        write_checkpoint(folder, model._n_updates, checkpoint_files(model, root, folder), about(model, root))
        times.append((time.process_time() - cpu, time.perf_counter() - clock))
    return tuple(float(value) for value in 1e3 * np.median(times, axis=0))  # type: ignore[return-value]


def growth(rows: list[dict[str, float]], column: str) -> float:
    """
    Fit a line behind the warm-up.

    :param rows: what was seen
    :param column: of MiB
    :return: MiB per million steps, least squares
    """
    steps, values = (np.array([row[name] for row in _warm(rows)]) for name in ("steps", column))
    return float(np.polyfit(steps / 1e6, values, 1)[0])


def slower(rows: list[dict[str, float]], clock: str) -> float:
    """
    Compare the throughput at the end with that at the start.

    :param rows: what was seen
    :param clock: which column counts
    :return: by which share it is lower (negative: higher): medians of the first and the last fifth behind the warm-up
    """
    rows = _warm(rows)
    pairs = pairwise(rows)
    speeds = [(after["steps"] - before["steps"]) / (after[clock] - before[clock]) for before, after in pairs]
    fifth = max(1, len(speeds) // 5)
    return 1.0 - float(np.median(speeds[-fifth:]) / np.median(speeds[:fifth]))


def files_grown(rows: list[dict[str, float]]) -> tuple[float, float]:
    """
    Compare the files at the end with those when the run was half as long.

    :param rows: what was seen
    :return: MiB by which all but SB3's Monitor file have grown, and the bound: as many rows as any doubling adds
    """
    half = next(row for row in rows if row["updates"] >= rows[-1]["updates"] / 2)
    bound = (thinning.EVERY_UPDATE_UNTIL / 2 + 1) * ROW_KIB / 1024 + OTHERS_MIB
    return rows[-1]["files_mib"] - half["files_mib"], bound


def _warm(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [row for row in rows if row["steps"] >= WARM_UP * rows[-1]["steps"]]


def largest_files(folder: Path) -> list[tuple[str, float]]:
    """
    List what takes space.

    :param folder: the run's
    :return: names and MiB of the ten largest
    """
    files = [(str(path.relative_to(folder)), path.stat().st_size / 2**20) for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda each: -each[1])[:10]


def main() -> int:
    """
    Run from the command line.

    :return: 0 if all bounds held, 1 if not
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000_000)
    parser.add_argument("--every", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="of the run (default: a temporary one)")
    parser.add_argument("--record-until", type=int, default=EVERY_UPDATE_UNTIL, help="updates that are all recorded")
    parser.add_argument("--tracemalloc", action="store_true", help="show which lines hold more memory at the end (slow)")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    thinning.EVERY_UPDATE_UNTIL = arguments.record_until
    if arguments.tracemalloc:
        tracemalloc.start(5)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary, "run")
        rows = train(arguments.steps, arguments.every, folder)
        for name, mib in largest_files(folder):
            print(f"{mib:10.3f} MiB  {name}")
    if arguments.tracemalloc:
        for line in tracemalloc.take_snapshot().statistics("lineno")[:25]:
            print(line)
    grown, (files, most) = growth(rows, "rss_mib"), files_grown(rows)
    by_cpu, by_wall = slower(rows, "cpu_seconds"), slower(rows, "seconds")
    print(f"memory: {grown:+.3f} MiB per million steps (bound {MAX_GROWTH:g})")
    print(f"files: {files:+.2f} MiB in the second half (bound {most:.2f})")
    print(f"SB3's Monitor file: {growth(rows, 'monitor_mib'):+.2f} MiB per million steps")
    print(f"throughput at the end: {-by_cpu:+.1%} by CPU time, {-by_wall:+.1%} by the clock (bound -{MAX_SLOWER:.0%})")
    if arguments.write:
        origin = {"numerics_version": NUMERICS_VERSION, **provenance(), "command": "python " + " ".join(sys.argv)}
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *origin], lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: f"{value:.10g}" for name, value in row.items()} | origin for row in rows)
    return int(grown > MAX_GROWTH or by_cpu > MAX_SLOWER or files > most)


if __name__ == "__main__":
    sys.exit(main())
