"""
Environments in worker processes: workers that leave Ctrl-C to the training, and a clear error when one of them dies.

SB3 waits for a worker's answer on its pipe alone. A worker that dies closes its end, unless it was forked: its siblings then
hold copies of that end, and SB3 waits forever. Here the parent waits for the pipe and for the end of the process at once.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_trpo_ext.sb3.errors import WorkerError

REAPED_WITHIN = 5.0
"""Seconds to wait for the exit code of a dead worker, which a fork server passes on."""

ANSWERS_WITHIN = 5.0
"""Seconds in which a worker has to answer a call that is under way when all are closed; then it counts as hanging."""

CLOSED_WITHIN = 30.0
"""Seconds in which workers have to close their environments (which may write a video) before they are terminated."""

ENDED_WITHIN = 5.0
"""Seconds to wait for the end of a worker after SIGTERM, and again after SIGKILL."""

LOOKS_EVERY = 1_000
"""Milliseconds between checks that a silent worker is alive: a process that it has forked keeps its sentinel open."""

HINTS = {
    -getattr(signal, "SIGKILL", 9): "often the system ran out of memory: use fewer environments, or smaller ones",
    -signal.SIGTERM: "something outside this training ended it",
    0: "SB3's own workers end at Ctrl-C; those of sb3_trpo_ext.sb3.integrity.workers.PatientSubprocVecEnv do not",
    1: "its environment raised an exception; the worker's traceback is printed above",
}
"""What an exit code of a worker usually means (negative: the signal)."""


class PatientSubprocVecEnv(SubprocVecEnv):
    """
    SB3's SubprocVecEnv, whose workers outlive Ctrl-C, so that an update can be finished; they end with the training.

    :param env_fns: make the environments
    :param start_method: of the processes, as in SB3
    :raises WorkerError: if the first environment can't be made
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], start_method: str | None = None):
        try:
            super().__init__([partial(_made_patiently, env_fn) for env_fn in env_fns], start_method)
        except (EOFError, ConnectionError):
            text = _death(0, self.processes[0])
            for process in self.processes:
                process.terminate()
            raise WorkerError(text) from None
        watch_workers(self)


def _made_patiently(env_fn: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """In the worker. (SIGTERM still ends it: that is how Python ends workers when it exits.)"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return env_fn()


class WatchedPipe:
    """
    The pipe to a worker. Where the worker is dead, it raises instead of waiting forever or reporting a broken pipe.

    :param remote: the parent's end
    :param process: the worker
    :param index: of its environment
    """

    def __init__(self, remote: Any, process: Any, index: int):
        self._remote, self._process, self._index = remote, process, index
        self._answers = _waiter(remote, process)
        self.evaluates = False
        self.waiting = False
        """Whether a command was sent that is not answered yet."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._remote, name)

    def send(self, message: Any) -> None:
        """
        Send a command.

        :param message: as in SB3
        :raises WorkerError: if the worker is dead
        """
        try:
            self._remote.send(message)
            self.waiting = True
        except ConnectionError:
            raise self._error() from None

    def recv(self) -> Any:
        """
        Wait for the answer.

        :return: what the worker has sent
        :raises WorkerError: if the worker is dead
        """
        try:
            if self._answers():
                answer = self._remote.recv()
                self.waiting = False
                return answer
        except (EOFError, ConnectionError):
            pass
        raise self._error()

    def _error(self) -> WorkerError:
        return WorkerError(_death(self._index, self._process, " of the evaluation" if self.evaluates else ""))


def _waiter(remote: Any, process: Any) -> Callable[[], bool]:
    """Make a function that waits until an answer is there (True), or the worker is dead without one (False)."""
    if not hasattr(select, "poll"):  # Windows
        return lambda: remote in wait([remote, process.sentinel])
    poller, answer = select.poll(), remote.fileno()
    for descriptor in (answer, process.sentinel):
        poller.register(descriptor, select.POLLIN)

    def answers() -> bool:
        while True:
            ready = poller.poll(LOOKS_EVERY)
            if ready or not process.is_alive():
                return remote.poll() if not ready else any(descriptor == answer for descriptor, _ in ready)

    return answers


def _death(index: int, process: Any, of: str = "") -> str:
    process.join(REAPED_WITHIN)
    code = process.exitcode
    how = f"ended with exit code {code}"
    if code is None:
        how = "closed its connection"
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name if -code in list(signal.Signals) else f'signal {-code}'}"
    hint = f" ({HINTS[code]})" if code in HINTS else ""
    return f"worker {index} (pid {process.pid}){of} {how}{hint}."


def watch_workers(venv: SubprocVecEnv, evaluates: bool = False) -> None:
    """
    Have a VecEnv say which of its workers has died, whatever is called next; done twice it is done once.

    :param venv: the VecEnv
    :param evaluates: whether it is evaluated in, for the message
    """
    processes = getattr(venv, "processes", [])
    if len(processes) != len(venv.remotes):
        return  # a subclass that shares out its environments in another way
    if not isinstance(venv.remotes[0], WatchedPipe):
        pairs = zip(venv.remotes, processes, strict=True)
        venv.remotes = tuple(WatchedPipe(remote, process, index) for index, (remote, process) in enumerate(pairs))
        if type(venv).close is SubprocVecEnv.close:
            venv.close = partial(_close, venv)  # type: ignore[method-assign]
    for pipe in venv.remotes:
        pipe.evaluates = evaluates


def _close(venv: SubprocVecEnv) -> None:
    """As SB3 does, but within a bounded time, whatever a worker does or does not do."""
    if venv.closed:
        return
    left = _countdown(ANSWERS_WITHIN)
    answering = [process.is_alive() and _is_free(remote, left()) for remote, process in _workers(venv)]
    left = _countdown(CLOSED_WITHIN if all(answering) else ANSWERS_WITHIN)
    for (remote, _), answers in zip(_workers(venv), answering, strict=True):
        if answers:
            with suppress(WorkerError, OSError):
                remote.send(("close", None))
    for (remote, process), answers in zip(_workers(venv), answering, strict=True):
        _end(process, left() if answers else 0.0)
        remote.close()
    venv.closed, venv.waiting = True, False


def _workers(venv: SubprocVecEnv) -> list[tuple[WatchedPipe, Any]]:
    return list(zip(venv.remotes, venv.processes, strict=True))  # type: ignore[arg-type]


def _is_free(pipe: WatchedPipe, seconds: float) -> bool:
    """Whether a worker listens: a call that was broken off (by Ctrl-C, or a forced stop) may still be under way there."""
    if not pipe.waiting:
        return True
    try:
        if pipe.poll(seconds):
            pipe.recv()
            return True
    except (WorkerError, OSError):
        pass
    return False


def _end(process: Any, seconds: float) -> None:
    process.join(seconds)
    for end in (process.terminate, process.kill):
        if process.is_alive():
            end()
            process.join(ENDED_WITHIN)


def _countdown(seconds: float) -> Callable[[], float]:
    until = time.monotonic() + seconds
    return lambda: max(0.0, until - time.monotonic())
