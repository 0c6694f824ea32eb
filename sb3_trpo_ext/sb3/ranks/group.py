"""
One training on several processes, "ranks", by torch.distributed.

``torchrun`` starts the processes and says in their environment who they are (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); a
default process group that the user has initialised says so, too. Each training has a group of its own, from the begin of
``learn`` to its end: what ends it on one rank closes that rank's connections, so that the others do not wait, and leaves the
cause in the store, where they find it.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from sb3_trpo_ext.core.flat import assign, flatten, unflatten
from sb3_trpo_ext.core.reduce import Reducer, single_process
from sb3_trpo_ext.sb3.errors import RanksError
from sb3_trpo_ext.sb3.ranks.launch import TIMEOUT_VARIABLE, backend, of_this_start, place, timeout_seconds

LOOK_UP_SECONDS = 5.0
"""Looking up why another rank has failed may take so long: the store may be gone with it."""

T = TypeVar("T")


@dataclass
class Traffic:
    """
    What a rank has sent so far.

    :param collectives: calls of torch.distributed
    :param bytes: payload that this rank gave to them
    :param seconds: spent in them, waiting for others included
    """

    collectives: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass
class Ranks:
    """
    The ranks of one training; alone, every method gives its argument back.

    :param rank: this process's number, from 0
    :param size: how many there are
    :param group: torch.distributed's; None: alone
    :param name: of the group in the store
    :param traffic: what was sent
    :param waiting: whether this rank waits for others, which it does for a bounded time
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    name: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    waiting: bool = False

    @classmethod
    def join(cls) -> Self:
        """
        Begin a training together with the other ranks, each of which must come here.

        :return: the ranks
        :raises RanksError: if they don't come
        """
        rank, size = place()
        if size == 1:
            return cls()
        within = timedelta(seconds=timeout_seconds())
        try:
            if not dist.is_initialized():
                store, rank, size = next(dist.rendezvous("env://", timeout=within))
                dist.init_process_group(backend(), store=of_this_start(store), timeout=within, rank=rank, world_size=size)
            group = dist.new_group(timeout=within, backend=backend())
        except RuntimeError as error:
            raise RanksError(f"TRPO: rank {rank} can't meet the other {size - 1}: {described(error)}") from error
        return cls(rank, size, group, f"trpo/{group.group_name}")

    @property
    def reducer(self) -> Reducer:
        """For ``core``'s means."""
        return Reducer(self.reduce) if self.size > 1 else single_process

    def reduce(self, partial: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """
        Reduce elementwise over ranks.

        :param partial: this rank's sum or maximum, any shape
        :param op: how to combine; a maximum is NaN where any rank's is
        :return: the same on every rank
        """
        if self.size == 1:
            return partial
        if op == "max":
            # gloo's own maximum loses a NaN; and these are small.
            return torch.stack(self._all(partial)).amax(dim=0)
        total = partial.detach().clone(memory_format=torch.contiguous_format)
        self._call(lambda: dist.all_reduce(total, group=self.group), total.nbytes)
        return total

    def _all(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self._call(lambda: dist.all_gather(parts, tensor.detach().contiguous(), group=self.group), tensor.nbytes)
        return parts

    def gather(self, thing: T) -> list[T]:
        """
        Give everybody everything.

        :param thing: this rank's, picklable
        :return: one of each rank, in their order
        """
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        self._call(lambda: dist.all_gather_object(found, thing, group=self.group), len(pickle.dumps(thing)), calls=2)
        return found

    def from_first(self, thing: T) -> T:
        """
        Take rank 0's.

        :param thing: rank 0's, picklable; of the others it is not looked at
        :return: rank 0's
        """
        if self.size == 1:
            return thing
        box = [thing if self.rank == 0 else None]
        n_bytes = len(pickle.dumps(thing)) if self.rank == 0 else 0
        self._call(lambda: dist.broadcast_object_list(box, group_src=0, group=self.group), n_bytes, calls=2)
        return box[0]  # type: ignore[return-value]

    def overwrite(self, tensors: Sequence[Tensor]) -> None:
        """
        Write rank 0's values into tensors, with one broadcast for each dtype.

        :param tensors: parameters or buffers, the same on each rank
        """
        if self.size == 1:
            return
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            same = [tensor for tensor in tensors if tensor.dtype is dtype]
            flat = flatten(tensor.detach() for tensor in same)
            self._call(lambda flat=flat: dist.broadcast(flat, group_src=0, group=self.group), flat.nbytes)  # type: ignore[misc]
            assign(same, unflatten(flat, same))

    @contextmanager
    def together(self, phase: str) -> Iterator[None]:
        """
        Agree that all have come through a phase without communication: what one rank can't do, none goes on from.

        :param phase: for messages
        :yields: nothing
        :raises RanksError: if another rank raised
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except RanksError:
            raise
        except Exception as problem:
            error = problem
        if float(self.reduce(torch.tensor(float(error is not None)), "max")) == 0.0:
            return
        stories = self.gather(None if error is None else described(error))
        if error is not None:
            raise error
        told = [f"rank {rank}: {story}" for rank, story in enumerate(stories) if story is not None]
        raise RanksError(f"TRPO: rank {self.rank} stops, since {phase} failed elsewhere: {'; '.join(told)}")

    def compare(self, checksums: Mapping[str, int]) -> None:
        """
        Compare what must be the same everywhere.

        :param checksums: by name, the same names on each rank; below 2**62
        :raises RanksError: on every rank, naming what differs and where
        """
        if self.size == 1:
            return
        rows = torch.stack(self._all(torch.tensor(list(checksums.values()), dtype=torch.int64)))
        if bool((rows == rows[0]).all()):
            return
        unlike = {name: (rows[:, i] != rows[0, i]).nonzero().flatten().tolist() for i, name in enumerate(checksums)}
        told = "; ".join(f"{name} (rank {', '.join(map(str, ranks))})" for name, ranks in unlike.items() if ranks)
        raise RanksError(
            f"TRPO: the ranks have diverged: not what rank 0 has: {told}. Nothing of this update was kept. Causes: a callback "
            "or module that changes the policy or a setting on some ranks only, unlike processors, faulty memory."
        )

    def _call(self, collective: Callable[[], Any], n_bytes: int, calls: int = 1) -> None:
        if self.group is None:
            # torch.distributed would take None for the group of all processes, and wait there for ranks that never come.
            raise RanksError(
                f"TRPO: rank {self.rank} is no longer in a training: what is reduced over ranks can be had only while all of "
                "them learn."
            )
        begin = time.perf_counter()
        self.waiting = True
        try:
            collective()
        except RuntimeError as error:  # DistError and its kin
            raise RanksError(self._why(error)) from error
        finally:
            self.waiting = False
        self.traffic.collectives += calls
        self.traffic.bytes += n_bytes
        self.traffic.seconds += time.perf_counter() - begin

    def _why(self, error: Exception) -> str:
        told: list[tuple[int, str | None]] = _bounded(
            lambda: [(rank, _read(f"{self.name}/{rank}")) for rank in range(self.size)], []
        )
        causes = [f"rank {rank}: {cause}" for rank, cause in told if cause]
        reason = "; ".join(causes) or (
            f"another rank has ended, hangs, or can't be reached ({TIMEOUT_VARIABLE}={timeout_seconds():g} s): "
            f"{described(error)}"
        )
        return f"TRPO: rank {self.rank} stops, since the ranks can't go on together: {reason}"

    def leave(self, error: BaseException | None = None) -> None:
        """
        End: close the connections, so that nobody waits for this rank.

        :param error: what this rank dies of, for the others to read; None: the training is over
        """
        if self.group is None:
            return
        if error is not None and not isinstance(error, RanksError):
            _bounded(lambda: _store().set(f"{self.name}/{self.rank}", described(error)), None)
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group(self.group)
        self.group = None


def of_first_rank(thing: T) -> T:
    """
    Take rank 0's, outside a training; each rank must come here.

    :param thing: rank 0's, picklable; of the others it is not looked at
    :return: rank 0's; alone, the thing itself
    """
    ranks = Ranks.join()
    try:
        return ranks.from_first(thing)
    finally:
        ranks.leave()


def described(error: BaseException) -> str:
    """
    Say in a line what went wrong.

    :param error: the error
    :return: its class and its first line
    """
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:400]}"


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _read(key: str) -> str | None:
    store = _store()
    return store.get(key).decode() if store.check([key]) else None


def _bounded(action: Callable[[], T], otherwise: T) -> T:
    """The store may be gone, or not answer."""
    found = [otherwise]

    def attempt() -> None:
        with suppress(Exception):
            found[0] = action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(LOOK_UP_SECONDS)
    return found[0]
