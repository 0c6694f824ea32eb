"""
Do runs, several at a time, each in a process of its own.

A run begins in a folder of its own below the work folder and ends as rows in the store. Whenever this process is killed,
its workers end too; the next runner keeps what they had finished and starts the others again from their beginning: a run
takes minutes. Several runners may work at once: a run is claimed by a lock, which ends with the process that holds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from evidence.provenance import provenance
from evidence.runs import Run
from evidence.store import Store

SCRIPTS = Path(__file__).resolve().parents[1]
WORKER = (sys.executable, "-m", "evidence.worker")
POLL_SECONDS = 0.2


class Display(Protocol):
    """Who is told what happens."""

    def started(self, run: Run) -> None:
        """
        A run has begun.

        :param run: the run
        """

    def advanced(self, run: Run, steps: int) -> None:
        """
        A run has advanced.

        :param run: the run
        :param steps: steps done
        """

    def ended(self, run: Run, error: str | None, log: str) -> None:
        """
        A run has ended.

        :param run: the run
        :param error: None if it has succeeded; then its row is in the store
        :param log: the end of what it printed
        """


@dataclass
class Active:
    """
    A run that a worker does.

    :param run: the run
    :param folder: its folder
    :param process: its worker
    :param claim: its lock
    """

    run: Run
    folder: Path
    process: subprocess.Popen[bytes]
    claim: FileLock

    def steps(self) -> int:
        """Steps done so far."""
        try:
            return int((self.folder / "progress").read_text() or 0)
        except (OSError, ValueError):
            return 0

    def log(self) -> str:
        """What the worker has printed."""
        return (self.folder / "log.txt").read_text(errors="replace")


@dataclass
class Runner:
    """
    Does runs.

    :param store: where results go
    :param jobs: runs at a time
    :param display: who is told
    :param command: starts a worker; the run's folder is appended
    :param active: runs that workers do now
    """

    store: Store
    jobs: int
    display: Display
    command: tuple[str, ...] = WORKER
    active: list[Active] = field(default_factory=list)

    def do(self, runs: list[Run]) -> list[Run]:
        """
        Do runs that are not finished; a run that fails is recorded, and the others go on.

        :param runs: what is wanted
        :return: those that failed
        """
        self._collect_left_behind()
        waiting, failed = deque(runs), []
        try:
            while waiting or self.active:
                self._start(waiting)
                time.sleep(POLL_SECONDS)
                failed += self._look()
        finally:
            for active in self.active:
                active.process.kill()
                active.process.wait()
                self._forget(active.folder, active.claim)
        return failed

    def _start(self, waiting: deque[Run]) -> None:
        for _ in range(len(waiting)):
            if len(self.active) >= self.jobs:
                return
            run = waiting.popleft()
            claim = self._claim(run.id)
            if claim is None:  # another runner does it: look again later
                waiting.append(run)
            elif run.id in self.store.finished():
                claim.release()
                self.display.ended(run, None, "")
            else:
                self.active.append(self._launch(run, claim))
                self.display.started(run)

    def _claim(self, run_id: str) -> FileLock | None:
        claim = FileLock(self.store.work / f"{run_id}.lock", timeout=0)
        try:
            claim.acquire()
        except Timeout:
            return None
        return claim

    def _launch(self, run: Run, claim: FileLock) -> Active:
        # A name of its own, so that a worker that is just dying can't write here.
        folder = self.store.work / f"{run.id}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        (folder / "run.json").write_text(run.to_json())
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [*self.command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **threads, "PYTHONPATH": path, "WANDB_MODE": "offline"},
                start_new_session=True,  # Ctrl-C is for the runner, which then ends its workers
            )
        return Active(run, folder, process, claim)

    def _look(self) -> list[Run]:
        failed = []
        for active in list(self.active):
            code = active.process.poll()
            if code is None:
                self.display.advanced(active.run, active.steps())
                continue
            error = self._keep(active.run, active.folder, code)
            log = active.log()
            if error is not None:
                failed.append(active.run)
                self.store.add_failure(active.run, error, provenance())
            self.active.remove(active)
            self._forget(active.folder, active.claim)
            self.display.ended(active.run, error, log)
        return failed

    def _keep(self, run: Run, folder: Path, code: int) -> str | None:
        """Move a result into the store; else say in one line why there is none."""
        try:
            done = json.loads((folder / "result.json").read_text())
            self.store.add(run, done["result"], done["curve"])
        except FileNotFoundError:
            last = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
            return f"exit code {code}: {last[-1].strip() if last else 'it printed nothing'}"
        return None

    def _collect_left_behind(self) -> None:
        """Keep what the workers of a killed runner had finished, and remove the rest."""
        for folder in sorted(self.store.work.glob("*-????????")):
            claim = self._claim(folder.name.rpartition("-")[0])
            if claim is None:
                continue
            if (folder / "run.json").exists() and (folder / "result.json").exists():
                self._keep(Run.from_json((folder / "run.json").read_text()), folder, 0)
            self._forget(folder, claim)

    def _forget(self, folder: Path, claim: FileLock) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        claim.release()
