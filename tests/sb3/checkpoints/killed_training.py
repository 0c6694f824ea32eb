"""
A training that is killed, over and over, in an empty folder: ``python -m tests.sb3.checkpoints.killed_training KILLS UPDATES
SEED``.

Everything is imported once; each life is a fork of that process, and runs the real training and writer until it is killed: at
a random time, or at a random operation on a file. After each kill the newest whole checkpoint must be there, and at most one
interval behind the last update that is on record. The last life must end with the numbers of a run that nobody has killed.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch

from sb3_trpo_ext import TRPO, Checkpoints
from sb3_trpo_ext.monitoring import TrustRegionMonitor
from sb3_trpo_ext.sb3.checkpoints.files import newest_whole
from tests.sb3.checkpoints.restorable import BATCH, numbers, trpo, walks

EVERY = 2
WRITING = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
OPERATIONS = 150
"""On files, of about three checkpoints and the logs between them."""


def live(folder: Path, n_updates: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    there = newest_whole(folder)[0] is not None
    env = walks(folder, normalised=True, append=there)
    model = TRPO.resume(folder, env) if there else trpo(env, folder, use_sde=True)
    checkpoints = Checkpoints(every_updates=EVERY, every_seconds=None)
    model.learn(n_updates * BATCH, [TrustRegionMonitor(), checkpoints])
    (folder / "end").write_text(hashlib.sha256(numbers(model).numpy().tobytes()).hexdigest())


def die_at_operation(number: int, half: bool) -> None:
    """At an operation on files, or at one that flushes: there with half of the file written, as a power failure leaves it."""
    counts: Counter[str] = Counter()
    flush = os.fsync

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def seen(event: str, arguments: tuple[object, ...]) -> None:
        if event in WRITING and "run" in str(arguments[0]):
            counts["operations"] += 1
            if counts["operations"] == number and not half:
                die()

    def flushed(descriptor: int) -> None:
        counts["flushes"] += 1
        if half and counts["flushes"] == 1 + number % 15:
            try:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            except OSError:
                pass  # a folder
            die()
        flush(descriptor)

    os.fsync = flushed
    sys.addaudithook(seen)


def one_life(folder: Path, n_updates: int, chance: random.Random) -> tuple[str, int]:
    """How it was to end, and its exit code; negative: the signal that ended it."""
    kind = chance.choice(["time", "operation", "half a file"])
    number, seconds = chance.randint(1, OPERATIONS), chance.uniform(0.0, 0.6)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if kind != "time":
                die_at_operation(number, kind == "half a file")
            live(folder, n_updates)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kind == "time":
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return kind, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def on_record(folder: Path) -> int:
    """Updates that were finished, complete lines."""
    path = folder / "updates.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def newest(folder: Path) -> int:
    found, _ = newest_whole(folder)
    return 0 if found is None else found.n_updates


def check(folder: Path, before: int) -> int:
    now = newest(folder)
    assert now >= before, f"the checkpoint of update {before} is lost"
    lost = on_record(folder) - now
    assert lost <= EVERY, f"{lost} updates are lost"
    return lost


def main(n_kills: int, n_updates: int, seed: int) -> None:
    chance = random.Random(seed)
    ended, lost, rounds, kills = Counter[str](), Counter[int](), 0, 0
    whole = Path("run_whole")
    # Here: what a training imports when it is first needed is then imported.
    live(whole, n_updates)
    while kills < n_kills:
        rounds += 1
        folder = Path(f"run_{rounds}")
        folder.mkdir()
        while not (folder / "end").exists():
            before = newest(folder)
            kind, code = one_life(folder, n_updates, chance if kills < n_kills else random.Random(kills))
            if code == -signal.SIGKILL:
                kills += 1
                ended[kind] += 1
            else:
                assert code == 0, f"a life ended by itself, with code {code}"
            lost[check(folder, before)] += 1
        for name in ("end", "progress.csv", "updates.jsonl", "kl.npy"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), f"{name} differs"
    print(  # noqa: T201  (for the test that has started us)
        f"{kills} kills ({dict(ended)}) in {rounds} runs; updates lost: {dict(sorted(lost.items()))}"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
