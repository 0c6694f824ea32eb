"""
How the ranks of a training stay in step: one policy, one damping, one count of steps, one verdict on whether it goes on.

Each rank has its own environments and random streams. Rank 0's policy is everybody's when a training begins; after each
rollout they exchange episodes, normalisation statistics and whether to go on; after each policy step rank 0's parameters are
everybody's, and after each update checksums of all that must be the same are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sb3_contrib
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo_ext.core.flat import Snapshot, flatten
from sb3_trpo_ext.core.update import PolicyResult
from sb3_trpo_ext.records.signals import GracefulStop
from sb3_trpo_ext.sb3.arguments.validation import LARGEST_SEED
from sb3_trpo_ext.sb3.problem.actor import map_tensors
from sb3_trpo_ext.sb3.ranks.comparison import checksum, circumstances_of, refuse_unlike, settings_of
from sb3_trpo_ext.sb3.ranks.group import ALONE, join
from sb3_trpo_ext.sb3.ranks.normalization import Moments, merged, moments_of, write_moments

if TYPE_CHECKING:
    from sb3_trpo_ext.sb3.trpo import TRPO

ULPS = 8.0
"""A rank's accepted parameters may be so far from rank 0's: another processor rounds in another way."""


@dataclass(frozen=True)
class Common:
    """
    What the ranks had in common when they last exchanged.

    :param steps_at_once: environments of all ranks: environment steps that one step of each is
    :param moments: of VecNormalize
    """

    steps_at_once: int
    moments: list[Moments]


def seed_of_rank(seed: int | None, rank: int, n_envs: int) -> int | None:
    """
    Choose a rank's seed: its environments get the seeds that they would have in one process with the environments of all.

    :param seed: the training's
    :param rank: of the process
    :param n_envs: environments of each rank
    :return: the seed; None for None
    """
    return None if seed is None else (int(seed) + rank * n_envs) % (LARGEST_SEED + 1)


def begin(model: TRPO, env: VecEnv) -> Common:
    """
    Make rank 0's model everybody's, once settings and counts are found to be the same.

    :param model: the model, its environments reset
    :param env: its environment
    :return: what is common from now on
    :raises RanksError: naming what differs
    """
    ranks = model.session.ranks
    refuse_unlike(ranks.gather(circumstances_of(model, env)))
    ranks.overwrite([*model.policy.parameters(), *model.policy.buffers()])
    optimizer = map_tensors(lambda tensor: tensor.cpu(), model.policy.optimizer.state_dict())
    optimizer, moments = ranks.from_first((optimizer, moments_of(env)))
    if ranks.rank > 0:
        model.policy.optimizer.load_state_dict(optimizer)
        write_moments(env, moments)
    return Common(sum(ranks.gather(env.num_envs)), moments_of(env))


def collect(model: TRPO, env: VecEnv, own: Callable[[], bool]) -> bool:
    """
    Collect a rollout on each rank, and exchange what came of it.

    :param model: the model
    :param env: its environment
    :param own: collects this rank's share: whether it was filled
    :return: whether all were
    :raises RanksError: if another rank could not
    """
    ranks = model.session.ranks
    if model.session.common is None:
        model.session.common = begin(model, env)
    number = int(ranks.reduce(torch.tensor(float(model.session.stop_signal or 0)), "max"))
    if number:
        # A signal to one is one to all, and rank 0 takes a checkpoint.
        model.session.stop_signal = number
        for goes_on in model.session.between_updates:
            goes_on()
        return False
    assert model.ep_info_buffer is not None
    assert model.ep_success_buffer is not None
    earlier = list(model.ep_info_buffer), list(model.ep_success_buffer)
    model.session.episodes.clear()
    filled = False
    with ranks.together("a rollout"):
        filled = own()
    settings = settings_of(model)
    mark = checksum(repr(settings).encode())
    shares = ranks.gather((mark, filled, model.num_timesteps, model.session.episodes, moments_of(env)))
    if any(theirs != mark for theirs, *_ in shares):
        # Before the update: other settings are other decisions, and ranks that wait for one another in vain.
        refuse_unlike(ranks.gather(settings))
    _show_all_episodes(model, earlier, [episodes for *_, episodes, _ in shares])
    moments = merged(model.session.common.moments, [theirs for *_, theirs in shares])
    write_moments(env, moments)
    model.session.common = Common(model.session.common.steps_at_once, moments)
    model.num_timesteps = shares[0][2]
    return all(filled for _, filled, *_ in shares)


def agree_on_step(model: TRPO, result: PolicyResult, parameters: Iterable[Tensor]) -> int:
    """
    Give every rank the parameters that rank 0 has accepted.

    :param model: the model
    :param result: of this rank's policy step
    :param parameters: the actor's
    :return: for ``verify``: the same on each rank if all took the same step, up to rounding
    """
    live = list(parameters)
    own = [flatten(part.double() for part in Snapshot.take(live).copies)]
    model.session.ranks.overwrite(live)
    theirs = flatten(part.detach().double() for part in live)
    rounding = ULPS * torch.finfo(live[0].dtype).eps * theirs.abs().max()
    same = bool((own[0] - theirs).abs().max() <= rounding)
    trials = () if result.search is None else [trial.status.value for trial in result.search.trials]
    # A step that is not rank 0's differs from whatever the others say.
    return checksum(repr((result.status.value, *trials)).encode()) if same else model.session.ranks.rank


@contextmanager
def on_this_rank(model: TRPO) -> Iterator[None]:
    """
    Be one of the ranks while a model learns; those behind rank 0 are quiet, and leave it to rank 0 to answer signals.

    :param model: the model
    :yields: nothing
    :raises RanksError: if the others don't come
    """
    model.session.ranks, model.session.common = join(), None
    promise = "all ranks stop once this update is finished"
    signals = GracefulStop(lambda number: setattr(model, "stop_signal", number), promise)
    try:
        if model.session.ranks.rank > 0:
            model.set_logger(Logger(None, []))
            signals.install()
        yield
    except BaseException as error:
        model.session.ranks.leave(error)
        raise
    finally:
        signals.remove()
        model.session.ranks.leave()
        model.session.ranks, model.session.common = ALONE, None


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


def of_episode(info: dict[str, Any]) -> dict[str, Any]:
    """
    Keep what SB3 shows of an episode.

    :param info: of its last step
    :return: what the other ranks are told
    """
    return {name: info[name] for name in ("episode", "is_success") if name in info}


def _show_all_episodes(model: TRPO, earlier: tuple[list[Any], list[Any]], found: list[list[tuple[int, Any]]]) -> None:
    """The newest episodes of all ranks, in the order in which they ended."""
    assert model.ep_info_buffer is not None
    assert model.ep_success_buffer is not None
    for buffer, before in zip((model.ep_info_buffer, model.ep_success_buffer), earlier, strict=True):
        buffer.clear()
        buffer.extend(before)
    infos = [info for _, info in sorted((each for episodes in found for each in episodes), key=lambda each: each[0])]
    sb3_contrib.TRPO._update_info_buffer(model, infos, np.ones(len(infos), dtype=bool))
