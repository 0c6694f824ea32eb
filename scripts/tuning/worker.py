"""
One training in a process of its own: memory is given back, and a crash ends one trial.

It reads a run from standard input, writes a line of JSON for each quarter, and goes on when it is answered with a line. When
its input ends, as it does with its parent, it ends at the next quarter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from evidence.runs import Run

SCRIPTS = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "tuning.worker")
REASON_CHARACTERS = 300


class BadSettings(Exception):
    """A training refused its settings, or something in it became non-finite; the message is its error."""


class WorkerDied(Exception):
    """A worker ended in no way that it should; the message is its last words."""


def quarters(run: Run, command: tuple[str, ...] = COMMAND) -> Iterator[float]:
    """
    Train; closing the iterator ends the training.

    :param run: what to train
    :param command: starts a worker
    :yield: the score of each quarter
    :raises BadSettings: if the training did not like its settings
    :raises WorkerDied: if it ended otherwise, too early
    """
    path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env={**os.environ, **threads, "PYTHONPATH": path, "WANDB_MODE": "offline"},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its worker
        )
        try:
            yield from _conversation(run, process)
            if process.wait() != 0:
                log.seek(0)
                lines = [line for line in log.read().splitlines() if line.strip()]
                raise WorkerDied(f"exit code {process.returncode}: {lines[-1] if lines else 'it printed nothing'}")
        finally:
            process.kill()
            process.communicate()


def _conversation(run: Run, process: subprocess.Popen[str]) -> Iterator[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(run.to_json() + "\n")
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if "refused" in said:
                raise BadSettings(said["refused"])
            yield said["score"]
            process.stdin.write("go on\n")
            process.stdin.flush()
    except BrokenPipeError:
        return  # it has ended, and its exit code says how


def main() -> int:
    """
    Be the worker.

    :return: exit code
    """
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    run = Run.from_json(sys.stdin.readline())

    def say(**answer: object) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    def tell(score: float) -> bool:
        say(score=score)
        if not sys.stdin.readline():
            os._exit(1)  # nobody waits for more
        return True

    import torch

    from tuning.training import train

    torch.set_num_threads(1)
    try:
        train(run, tell)
    except (AssertionError, ValueError) as error:  # what the Zoo prunes a trial for; NonFiniteError is a ValueError
        say(refused=f"{type(error).__name__}: {' '.join(str(error).split())}"[:REASON_CHARACTERS])
    return 0


if __name__ == "__main__":
    sys.exit(main())
