"""
How the ranks of a training stay in step: one policy, one damping, one count of steps, one verdict on whether it goes on.

Each rank has its own environments and random streams. Rank 0's policy is everybody's when a training begins; after each
rollout they exchange episodes, normalisation statistics and whether to go on; after each policy step rank 0's parameters are
everybody's, and after each update checksums of all that must be the same are compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo_ext.core.flat import Snapshot, flatten
from sb3_trpo_ext.core.update import PolicyResult
from sb3_trpo_ext.records.signals import GracefulStop
from sb3_trpo_ext.sb3.arguments.validation import LARGEST_SEED
from sb3_trpo_ext.sb3.problem.actor import map_tensors
from sb3_trpo_ext.sb3.ranks.comparison import checksum, checksums_of, circumstances_of, refuse_unlike
from sb3_trpo_ext.sb3.ranks.group import Ranks
from sb3_trpo_ext.sb3.ranks.normalization import Moments, merged, moments_of, write_moments

ULPS = 8.0
"""A rank's accepted parameters may be so far from rank 0's: another processor rounds in another way."""

Episodes = tuple[deque[Any], deque[Any]]
"""Of the newest episodes what SB3 shows, and whether they were successful: ``ep_info_buffer`` and ``ep_success_buffer``."""


@dataclass(frozen=True)
class Common:
    """
    What the ranks had in common when they last exchanged.

    :param steps_at_once: environments of all ranks: environment steps that one step of each is
    :param moments: of VecNormalize
    """

    steps_at_once: int
    moments: list[Moments]


@dataclass
class RankTraining(Ranks):
    """
    A training on several ranks; alone, nothing here does anything.

    :param common: what they have in common; None: they have not met
    :param earlier: episodes before this rollout
    :param ended: episodes that have ended in it here, with their step
    """

    common: Common | None = None
    earlier: tuple[list[Any], list[Any]] = ([], [])
    ended: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def meet(self, policy: ActorCriticPolicy, env: VecEnv, settings: Mapping[str, str], counts: Mapping[str, Any]) -> None:
        """
        Make rank 0's policy everybody's, once settings and counts are found to be the same; done twice it is done once.

        :param policy: the policy with its optimiser
        :param env: the environment, reset
        :param settings: what decides about an update, by name
        :param counts: of steps and updates, by name
        :raises RanksError: naming what differs
        """
        if self.size == 1 or self.common is not None:
            return
        refuse_unlike(self.gather(circumstances_of(policy, env, settings, counts)))
        self.overwrite([*policy.parameters(), *policy.buffers()])
        optimizer = map_tensors(lambda tensor: tensor.cpu(), policy.optimizer.state_dict())
        optimizer, moments = self.from_first((optimizer, moments_of(env)))
        if self.rank > 0:
            policy.optimizer.load_state_dict(optimizer)
            write_moments(env, moments)
        self.common = Common(sum(self.gather(env.num_envs)), moments_of(env))

    def steps_at_once(self, env: VecEnv) -> int:
        """
        Count the environment steps that one step of every environment is, of all ranks.

        :param env: this rank's
        :return: at least 1
        """
        return env.num_envs if self.common is None else self.common.steps_at_once

    def any_signal(self, own: int | None) -> int | None:
        """
        Ask whether any rank was asked to stop: a signal to one is one to all.

        :param own: number of the signal that this one has received; None: none
        :return: the same on each rank
        """
        return int(self.reduce(torch.tensor(float(own or 0)), "max")) or None

    def begin_rollout(self, shown: Episodes) -> None:
        """
        Remember the episodes so far.

        :param shown: the model's
        """
        self.ended.clear()
        self.earlier = list(shown[0]), list(shown[1])

    def note(self, step: int, infos: list[dict[str, Any]], dones: np.ndarray | None) -> None:
        """
        Note the episodes that have ended.

        :param step: of the rollout
        :param infos: one of each environment
        :param dones: whether each environment's episode is over; None: nobody knows
        """
        if self.size > 1 and dones is not None:
            over = [info for info, done in zip(infos, dones, strict=True) if done]
            self.ended.extend((step, _of_episode(info)) for info in over)

    def exchange(
        self, filled: bool, num_timesteps: int, env: VecEnv, settings: Mapping[str, str], shown: Episodes
    ) -> tuple[bool, int]:
        """
        Exchange what came of a rollout: afterwards all show all episodes, and have the same normalisation statistics.

        :param filled: whether this rank's buffer was filled
        :param num_timesteps: environment steps so far
        :param env: this rank's
        :param settings: what decides about the update that follows, by name
        :param shown: the model's episodes
        :return: whether all were filled, and rank 0's count of steps
        :raises RanksError: naming a setting that differs
        """
        if self.size == 1:
            return filled, num_timesteps
        assert self.common is not None, "the ranks have met before the rollout"
        mark = checksum(repr(settings).encode())
        shares = self.gather((mark, filled, num_timesteps, self.ended, moments_of(env)))
        if any(theirs != mark for theirs, *_ in shares):
            # Before the update: other settings are other decisions, and ranks that wait for one another in vain.
            refuse_unlike(self.gather(dict(settings)))
        _show_all(shown, self.earlier, [ended for *_, ended, _ in shares])
        moments = merged(self.common.moments, [theirs for *_, theirs in shares])
        write_moments(env, moments)
        self.common = Common(self.common.steps_at_once, moments)
        return all(theirs for _, theirs, *_ in shares), shares[0][2]

    def agree(self, result: PolicyResult, parameters: Iterable[Tensor]) -> int:
        """
        Give every rank the parameters that rank 0 has accepted.

        :param result: of this rank's policy step
        :param parameters: the actor's
        :return: for ``verify``: the same on each rank if all took the same step, up to rounding
        """
        if self.size == 1:
            return 0
        live = list(parameters)
        own = flatten(part.double() for part in Snapshot.take(live).copies)
        self.overwrite(live)
        theirs = flatten(part.detach().double() for part in live)
        rounding = ULPS * torch.finfo(live[0].dtype).eps * theirs.abs().max()
        same = bool((own - theirs).abs().max() <= rounding)
        trials = () if result.search is None else [trial.status.value for trial in result.search.trials]
        # A step that is not rank 0's differs from whatever the others say.
        return checksum(repr((result.status.value, *trials)).encode()) if same else self.rank

    def verify(self, step: int, policy: ActorCriticPolicy, env: VecEnv | None, counts: tuple[int, ...]) -> None:
        """
        Compare what must be the same on all ranks after an update.

        :param step: of ``agree``
        :param policy: the policy with its optimiser
        :param env: the environment; None: there is none
        :param counts: of steps
        :raises RanksError: naming what differs
        """
        if self.size > 1:
            # Statistics of batch norm in the critic are of each rank's own samples.
            self.overwrite(list(policy.buffers()))
            self.compare({"the policy step": step, **checksums_of(policy, env, counts)})


@contextmanager
def on_this_rank(stop: Callable[[int], None]) -> Iterator[RankTraining]:
    """
    Be one of the ranks; those after rank 0 leave it to rank 0 to answer signals.

    :param stop: called with the number of a signal that asks for an end
    :yields: the ranks
    :raises RanksError: if the others don't come
    """
    ranks = RankTraining.join()
    signals = GracefulStop(stop, "all ranks stop once this update is finished")
    try:
        if ranks.rank > 0:
            signals.install()
        yield ranks
    except BaseException as error:
        ranks.leave(error)
        raise
    finally:
        signals.remove()
        ranks.leave()


def seed_of_rank(seed: int | None, rank: int, n_envs: int) -> int | None:
    """
    Choose a rank's seed: its environments get the seeds that they would have in one process with the environments of all.

    :param seed: the training's
    :param rank: of the process
    :param n_envs: environments of each rank
    :return: the seed; None for None
    """
    return None if seed is None else (int(seed) + rank * n_envs) % (LARGEST_SEED + 1)


def callbacks_of(rank: int, callback: Any) -> Any:
    """
    Choose who observes: on rank 0 all; on others those callbacks whose attribute ``every_rank`` is True.

    :param rank: of the process
    :param callback: what was given to ``learn``
    :return: what this rank calls
    """
    if rank == 0:
        return callback
    if isinstance(callback, BaseCallback) and getattr(callback, "every_rank", False):
        return [callback]
    parts = callback if isinstance(callback, list) else getattr(callback, "callbacks", [])
    return [each for part in parts for each in callbacks_of(rank, part)]


def _of_episode(info: dict[str, Any]) -> dict[str, Any]:
    """What SB3 shows of an episode."""
    return {name: info[name] for name in ("episode", "is_success") if name in info}


def _show_all(shown: Episodes, earlier: tuple[list[Any], list[Any]], found: list[list[tuple[int, Any]]]) -> None:
    """The newest episodes of all ranks, in the order in which they ended."""
    for buffer, before in zip(shown, earlier, strict=True):
        buffer.clear()
        buffer.extend(before)
    infos = [info for _, info in sorted((each for ended in found for each in ended), key=lambda each: each[0])]
    # As SB3's _update_info_buffer does it.
    shown[0].extend(info["episode"] for info in infos if info.get("episode") is not None)
    shown[1].extend(info["is_success"] for info in infos if info.get("is_success") is not None)
