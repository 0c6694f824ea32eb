"""
What an environment is in the middle of, layer by layer, so that a resumed run goes on with the same episodes.

Restored are (1) any layer with ``state_dict()`` and ``load_state_dict(state)``: an environment, a wrapper or a VecEnv of a
user's own; (2) gymnasium's classic-control, toy-text and MuJoCo tasks; (3) SB3's and gymnasium's usual wrappers. Where a layer
is none of these, and in worker processes, new episodes begin; statistics and random generators are restored nevertheless.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Number
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

VEC_LAYERS: dict[type, tuple[str, ...]] = {
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_obs", "old_reward"),
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count", "t_start"),
    VecFrameStack: ("stacked_obs",),
    VecCheckNan: ("_observations", "_actions"),
    VecExtractDictObs: (),
    VecTransposeImage: (),
}

LAYERS: dict[type, tuple[str, ...]] = {
    Monitor: ("rewards", "needs_reset", "current_reset_info", "total_steps"),
    wrappers.TimeLimit: ("_elapsed_steps",),
    wrappers.OrderEnforcing: ("_has_reset",),
    wrappers.PassiveEnvChecker: ("checked_reset", "checked_step", "checked_render"),
    wrappers.TransformAction: (),
    wrappers.TransformReward: (),
    wrappers.TransformObservation: (),
}
"""Attributes that change while they run; of subclasses, gymnasium's and ours only. (A Monitor's lists of all its episodes,
which only ``get_episode_rewards`` and the like read, begin anew.)"""

SAME_STATE = {"FastVecNormalize": VecNormalize.__name__}
"""The RL Zoo's runs train in our wrapper; a script that goes on with one may use SB3's."""

TRUSTED_PACKAGES = ("gymnasium.", "stable_baselines3.", "sb3_trpo_ext.", "rl_zoo3.")

PLAIN_TASKS = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")
MUJOCO_TASKS = "gymnasium.envs.mujoco."

SIMPLE_ATTRIBUTES = ("np_random", "t_start")
"""Of each environment, worker processes included: its generator, and when its Monitor file began."""

Layer = tuple[str, Any]


class NotRestorable(ValueError):
    """A layer whose state nobody knows; it says which."""


@dataclass(frozen=True)
class EnvironmentState:
    """
    A training environment between two steps.

    :param vec_layers: name and state of each wrapper of the VecEnv, outermost first
    :param inside: the same of each environment in it, or of a VecEnv that has a state; None if it can't be restored
    :param reason: why not
    :param simple: ``SIMPLE_ATTRIBUTES`` of each environment, where it has them
    :param action_random: generator of the action space
    """

    vec_layers: tuple[Layer, ...]
    inside: Any
    reason: str | None
    simple: dict[str, list[Any]]
    action_random: Any

    @classmethod
    def of(cls, env: VecEnv) -> EnvironmentState:
        """
        Look at an environment, which is not changed. (References: to be pickled before it goes on.)

        :param env: the environment
        :return: its state
        """
        reason, inside, known = None, None, []
        for wrapper in _vec_wrappers(env):
            try:
                known.append((type(wrapper).__name__, _get(wrapper, VEC_LAYERS)))
            except NotRestorable as error:
                known.append((type(wrapper).__name__, None))
                reason = reason or str(error)
        try:
            inside = _look_inside(env.unwrapped)
        except NotRestorable as error:
            reason = reason or str(error)
        return cls(tuple(known), None if reason else inside, reason, simple_attributes(env), env.action_space._np_random)

    def restore(self, env: VecEnv) -> str | None:
        """
        Bring an environment to this state.

        :param env: another, made in the same way
        :return: None if its episodes go on; else why they can't: the caller begins new ones with ``env.reset()``
        """
        reason = self._restore_inside(env)
        self.restore_layers(env)
        # At last: generators have been drawn from.
        set_simple_attributes(env, self.simple)
        env.action_space._np_random = self.action_random
        return reason

    def restore_layers(self, env: VecEnv, kind: type[VecEnvWrapper] = VecEnvWrapper) -> None:
        """
        Set what the wrappers of a VecEnv hold; episodes and random generators stay as they are.

        :param env: an environment with wrappers of the same names, perhaps among others
        :param kind: only wrappers of this class
        """
        # Copies: an environment changes its statistics in place, and this may be done again.
        held = [(_known_as(name), state) for name, state in copy.deepcopy(self.vec_layers)]
        for wrapper in _vec_wrappers(env):
            names = [name for name, _ in held]
            if isinstance(wrapper, kind) and _name(wrapper) in names:
                _, state = held.pop(names.index(_name(wrapper)))
                if state is not None:
                    _set(wrapper, VEC_LAYERS, state)

    def _restore_inside(self, env: VecEnv) -> str | None:
        now = [_name(wrapper) for wrapper in _vec_wrappers(env)]
        then = [_known_as(name) for name, _ in self.vec_layers]
        if now != then:
            return f"its wrappers are {now or 'none'}, and were {then or 'none'}"
        if self.inside is None:
            return self.reason
        # Some layers refuse a step before the first reset.
        env.unwrapped.reset()
        return _restore_inside(env.unwrapped, self.inside)


def simple_attributes(env: VecEnv) -> dict[str, list[Any]]:
    """
    Read what can be read of any environment.

    :param env: the environment
    :return: values of each environment in it, by name
    """
    return {name: env.get_attr(name) for name in SIMPLE_ATTRIBUTES if _has(env, name)}


def set_simple_attributes(env: VecEnv, values: dict[str, list[Any]]) -> None:
    """
    Set the same.

    :param env: an environment
    :param values: by name, as they were read
    """
    for name, of_each in values.items():
        if _has(env, name) and len(of_each) == env.num_envs:
            # A seed that waits for the next reset would begin the generators anew.
            env.unwrapped._reset_seeds()
            for index, value in enumerate(of_each):
                # set_attr would put it on the outermost wrapper, where nobody looks.
                env.env_method("set_wrapper_attr", name, value, indices=[index])


def _has(env: VecEnv, name: str) -> bool:
    """A VecEnv of somebody's own may know no single environments."""
    try:
        return env.has_attr(name)
    except (AttributeError, NotImplementedError, TypeError):
        return False


def _name(wrapper: VecEnvWrapper) -> str:
    return _known_as(type(wrapper).__name__)


def _known_as(name: str) -> str:
    return SAME_STATE.get(name, name)


def _vec_wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _has_protocol(layer: Any) -> bool:
    """By its class: a VecEnvWrapper shows the attributes of what it wraps."""
    return all(callable(getattr(type(layer), name, None)) for name in ("state_dict", "load_state_dict"))


def _attributes(layer: Any, table: dict[type, tuple[str, ...]]) -> tuple[str, ...]:
    """Names that a table has for a layer: of its class, or of one that it derives from in a package that we know."""
    if type(layer).__module__.startswith(TRUSTED_PACKAGES):
        for kind, names in table.items():
            if isinstance(layer, kind):
                return names
    raise NotRestorable(f"{type(layer).__name__} has no state_dict() and load_state_dict(state)")


def _get(layer: Any, table: dict[type, tuple[str, ...]]) -> Any:
    if _has_protocol(layer):
        return layer.state_dict()
    return {name: getattr(layer, name) for name in _attributes(layer, table) if hasattr(layer, name)}


def _set(layer: Any, table: dict[type, tuple[str, ...]], state: Any) -> None:
    if _has_protocol(layer):
        layer.load_state_dict(state)
        return
    for name in _attributes(layer, table):
        if name in state:
            setattr(layer, name, state[name])


def _look_inside(base: Any) -> Any:
    if _has_protocol(base):
        return base.state_dict()
    if not isinstance(base, DummyVecEnv):
        raise NotRestorable(f"a {type(base).__name__} can't be looked into")
    return [[(type(layer).__name__, _get_layer(layer)) for layer in _layers(env)] for env in base.envs]


def _restore_inside(base: Any, inside: Any) -> str | None:
    if _has_protocol(base):
        base.load_state_dict(inside)
        return None
    if not isinstance(base, DummyVecEnv) or len(base.envs) != len(inside):
        return f"it is now a {type(base).__name__} of {base.num_envs} environments"
    for env, states in zip(base.envs, inside, strict=True):
        names = [type(layer).__name__ for layer in _layers(env)]
        if names != [name for name, _ in states]:
            return f"an environment is now made of {names}, and was of {[name for name, _ in states]}"
    for env, states in zip(base.envs, inside, strict=True):
        for layer, (_, state) in zip(_layers(env), states, strict=True):
            _set_layer(layer, state)
    return None


def _get_layer(layer: gym.Env[Any, Any]) -> Any:
    if isinstance(layer, gym.Wrapper) or _has_protocol(layer):
        return _get(layer, LAYERS)
    module = type(layer).__module__
    if module.startswith(PLAIN_TASKS):
        return {name: value for name, value in vars(layer).items() if _is_plain(value)}
    if module.startswith(MUJOCO_TASKS) and hasattr(layer, "data"):
        # All of it, also what the last step has derived: some tasks read that before they simulate.
        return {"data": pickle.dumps(layer.data)}
    return _get(layer, {})


def _set_layer(layer: gym.Env[Any, Any], state: Any) -> None:
    module = type(layer).__module__
    if isinstance(layer, gym.Wrapper) or _has_protocol(layer):
        _set(layer, LAYERS, state)
    elif module.startswith(MUJOCO_TASKS):
        import mujoco

        inner: Any = layer
        mujoco.mj_copyData(inner.data, inner.model, pickle.loads(state["data"]))
    else:
        vars(layer).update(state)


def _is_plain(value: Any) -> bool:
    """Numbers, arrays and sequences of them: what a simple simulation consists of, and neither its window nor its spaces."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (Number, str, np.ndarray, np.generic))
