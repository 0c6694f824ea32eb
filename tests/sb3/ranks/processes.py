"""Processes that are the ranks of a process group, for as long as one function runs."""

import multiprocessing
import os
import pickle
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = ["sb3_trpo_ext", "torch._dynamo", "sympy", "tests.sb3.ranks.processes", "tests.sb3.ranks.work"]
"""A rank is forked from a process that has imported them: an import takes seconds (of ``torch._dynamo``, which the first
optimiser asks for, most), a fork none."""


def on_ranks(
    size: int, work: Callable[..., Any], *arguments: Any, seconds: float = 100.0, dies: tuple[int, ...] = ()
) -> list[Any]:
    """
    Run a function on each of some ranks.

    :param size: how many
    :param work: called with ``meet`` (which begins the process group; before it the process is like any other) and arguments
    :param arguments: picklable
    :param seconds: after which it is an error
    :param dies: ranks that are not expected to answer
    :return: what it returned on each rank; None of a rank that died
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        common = (size, str(Path(folder, "store")), answers, work, arguments)
        processes = [context.Process(target=_be, args=(rank, *common), daemon=True) for rank in range(size)]
        for process in processes:
            process.start()
        try:
            found = _answers(processes, answers, size - len(dies), time.monotonic() + seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [found.get(rank) for rank in range(size)]


def _answers(processes: list[Any], answers: Any, n_expected: int, end: float) -> dict[int, Any]:
    found: dict[int, Any] = {}
    while len(found) < n_expected:
        try:
            rank, kind, value = answers.get(timeout=0.1)
        except queue.Empty:
            assert time.monotonic() < end, f"only ranks {sorted(found)} have answered: {found}"
            alive = any(process.is_alive() for process in processes)
            assert alive or not answers.empty(), f"all ranks are gone, and only {found} have answered"
            continue
        assert kind != "bug", f"rank {rank}:\n{value}"
        found[rank] = pickle.loads(value)
    return found


def _be(rank: int, size: int, store: str, answers: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp(dir=os.path.dirname(store)))

    def meet() -> None:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)

    try:
        value = work(meet, *arguments)
    except BaseException:
        answers.put((rank, "bug", traceback.format_exc()))
        raise
    # As bytes: torch hands tensors to a queue as open files of a process that is about to end.
    answers.put((rank, "value", pickle.dumps(value)))
