"""Spaces that TRPO can't learn in, or not with the policy that was chosen: said in one line, before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import filterfalse
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from sb3_trpo_ext.sb3.arguments.naming import shown

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
FLATTEN = "flatten it with a wrapper (gymnasium.wrappers.FlattenObservation, or an ActionWrapper of your own)"

FROM_ZERO = "it must have start=0: shift it in a wrapper"


class SpaceError(ValueError, AssertionError):
    """The environment's spaces are none that TRPO can learn in. (SB3 asserts some of this.)"""


def refuse_spaces(observations: spaces.Space, actions: spaces.Space, policy: Any) -> None:
    """
    Refuse an environment by its spaces.

    :param observations: the observation space
    :param actions: the action space
    :param policy: name of one of SB3's, with its own extractor; None, or a class: not judged
    :raises SpaceError: naming the space, what is valid and what to do
    """
    for problem in (*_of_actions(actions), *_of_observations(observations), *_of_policy(observations, policy)):
        raise SpaceError(f"TRPO: {problem}")


def _of_actions(space: spaces.Space) -> Iterator[str]:
    what = f"the action space {shown(space)} is impossible"
    if not isinstance(space, LEAVES):
        yield f"{what}: it must be Box, Discrete, MultiDiscrete or MultiBinary; {FLATTEN}"
    elif isinstance(space, spaces.Box):
        if not np.issubdtype(space.dtype, np.floating):
            yield (
                f"{what}: SB3 would store the integers and not the actions that were drawn; it must have a floating dtype "
                "(round in an ActionWrapper), or be MultiDiscrete"
            )
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            yield f"{what}: its bounds must be finite; give it some, such as those of gymnasium.wrappers.RescaleAction"
        if 0 in space.shape:
            yield f"{what}: it has no dimension"
    elif isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) and len(space.shape) != 1:
        yield f"{what}: it must have one axis; {FLATTEN}"
    if _starts_elsewhere(space):
        yield f"{what}: SB3 would give it the actions from 0 on; {FROM_ZERO}"


def _of_observations(space: spaces.Space) -> Iterator[str]:
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    for part in parts:
        what = f"the observation space {shown(part)} is impossible"
        if not isinstance(part, LEAVES):
            where = " in a Dict" if isinstance(space, spaces.Dict) else ", or a Dict of these"
            yield f"{what}: it must be Box, Discrete, MultiDiscrete or MultiBinary{where}; {FLATTEN}"
        elif isinstance(part, spaces.Box) and (np.isnan(part.low).any() or np.isnan(part.high).any()):
            yield f"{what}: its bounds are NaN; they may be infinite"
        elif 0 in (part.shape or ()):
            yield f"{what}: it is empty"
        elif _starts_elsewhere(part):
            yield f"{what}: SB3 takes it to begin with 0; {FROM_ZERO}"
    if not parts:
        yield "the observation space is an empty Dict"


def _starts_elsewhere(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and bool(np.any(space.start != 0))


def _of_policy(space: spaces.Space, policy: Any) -> Iterator[str]:
    what = f"policy={policy!r} does not fit the observation space {shown(space)}"
    is_dict = isinstance(space, spaces.Dict)
    if policy in ("MlpPolicy", "CnnPolicy") and is_dict:
        yield f"{what}: for a Dict it must be 'MultiInputPolicy'"
    elif policy == "MultiInputPolicy" and not is_dict:
        yield f"{what}, which is no Dict: it must be 'MlpPolicy', or 'CnnPolicy' for images"
    elif isinstance(space, spaces.Dict) and policy == "MultiInputPolicy":
        for key in filterfalse(_names_a_layer, space.spaces):
            yield f"{what}: torch can name no layer {key!r}; rename that key in an ObservationWrapper"
    elif isinstance(space, spaces.Box) and isinstance(policy, str) and not space.shape:
        yield f"{what}, which has no axis: gymnasium.wrappers.ReshapeObservation gives it one"
    elif policy == "CnnPolicy" and len(space.shape or ()) != 3:
        yield f"{what}, which is no image: it must be 'MlpPolicy'"


def _names_a_layer(key: str) -> bool:
    """SB3 keeps an extractor for each key of a Dict in torch's ModuleDict: no "." in it, and no name of its own."""
    try:
        nn.ModuleDict({key: nn.Identity()})
    except KeyError:
        return False
    return True
