"""
On-policy collection: at each step only the actor runs; values and log-probabilities of the whole rollout come at the end.

The actions are SB3's for the same seed, bit for bit. Differences from ``OnPolicyAlgorithm.collect_rollouts``:

1. Values, log-probabilities and the bootstrap values of timed-out episodes are computed in one batch after the last step.
   Until then nobody can read them, nor the buffer's rewards, to which the bootstraps are added: ``late``.
2. Log-probabilities come from the distributions that the actions were sampled from, kept at each step.
3. An observation that is not finite is refused before it reaches the network.

Whatever needs more than that is collected by SB3's own loop: ``why_sb3_loop`` says so.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo_ext.sb3.collect.acting import ActorAlone, why_not_alone
from sb3_trpo_ext.sb3.collect.callback_needs import what_needs_sb3_loop
from sb3_trpo_ext.sb3.collect.late import Late, late
from sb3_trpo_ext.sb3.collect.values import map_arrays, predict_values
from sb3_trpo_ext.sb3.integrity.finiteness import refuse_non_finite
from sb3_trpo_ext.sb3.integrity.guard import Fingerprint, Mark
from sb3_trpo_ext.sb3.problem.action_distributions import with_parameters
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder

BUFFER_METHODS = ("add", "reset")
"""What our loop does in a buffer's place."""

LATE_LOCALS = {name: Late(f"{name} of a step") for name in ("values", "log_probs")}
"""Stand-ins for local variables that SB3's loop shows to callbacks."""


class Learner(Protocol):
    """What SB3's loop reads of its algorithm, and writes so that callbacks see where it is."""

    policy: ActorCriticPolicy
    device: torch.device
    gamma: float
    use_sde: bool
    sde_sample_freq: int
    num_timesteps: int
    _last_obs: Any
    _last_episode_starts: np.ndarray | None

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None: ...


def why_sb3_loop(
    policy: ActorCriticPolicy, recorder: BehaviourRecorder, callback: BaseCallback, buffer: RolloutBuffer, n_steps: int
) -> str | None:
    """
    Find out whether a rollout must be collected by SB3's own loop.

    :param policy: what acts
    :param recorder: has seen earlier rollouts
    :param callback: what is called at each step
    :param buffer: what is filled
    :param n_steps: steps of each environment
    :return: the reason, in words; None if there is none
    """
    methods = [getattr(type(buffer), name) for name in BUFFER_METHODS]
    sb3s = [[getattr(cls, name) for name in BUFFER_METHODS] for cls in (RolloutBuffer, DictRolloutBuffer)]
    if methods not in sb3s or any(name in vars(buffer) for name in BUFFER_METHODS):
        return f"the buffer, {type(buffer).__name__}, collects in its own way"
    if n_steps != buffer.buffer_size:
        return "the rollout does not fill the buffer"
    if recorder.changed is not None:
        return f"{recorder.changed} changed while an earlier rollout was collected"
    return why_not_alone(policy) or what_needs_sb3_loop(callback)


def collect_rollout(
    learner: Learner,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    recorder: BehaviourRecorder,
    steps_at_once: int,
    computing: Mark,
) -> bool:
    """
    Fill a rollout buffer, for which ``why_sb3_loop`` gave no reason.

    :param learner: the algorithm
    :param env: its environment
    :param callback: called as SB3's loop calls it
    :param buffer: the buffer
    :param recorder: keeps the distribution of each step
    :param steps_at_once: environment steps that one step of every environment is
    :param computing: on while values are computed
    :return: whether the buffer was filled; False if the callback ended it
    :raises NonFiniteError: at an observation or a reward that is not finite
    """
    policy = learner.policy
    policy.set_training_mode(False)
    buffer.reset()
    if learner.use_sde:
        policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    fingerprint = Fingerprint.of(policy)
    with late(buffer) as arrays:
        rollout = Rollout(learner, env, buffer, arrays, recorder, steps_at_once)
        going_on = rollout.fill(callback)
        recorder.changed = fingerprint.changed(policy) if learner.policy is policy else "the policy itself"
        with computing:
            rollout.evaluate()
    if recorder.changed is not None:
        warnings.warn(
            f"TRPO: {recorder.changed} changed while the policy collected (by a callback, or a module that "
            "keeps state): this rollout's values are those of the policy at its end. From now on SB3's own loop collects, "
            "which computes values at each step.",
            UserWarning,
            stacklevel=4,
        )
    if going_on:
        with computing:
            assert learner._last_episode_starts is not None
            last_values = torch.from_numpy(predict_values(policy, learner._last_obs)).reshape(-1, 1)
            buffer.compute_returns_and_advantage(last_values=last_values, dones=learner._last_episode_starts)
        # As SB3's loop leaves them.
        log_probs = torch.from_numpy(buffer.log_probs[-1].copy())
        callback.update_locals({"n_steps": buffer.pos, "values": last_values, "log_probs": log_probs})
        callback.on_rollout_end()
    return going_on


class Rollout:
    """
    A buffer while it is filled.

    :param learner: the algorithm
    :param env: its environment
    :param buffer: the buffer, empty
    :param arrays: values, log_probs and rewards, shape (n_steps, n_envs); nobody else can read them until they are complete
    :param recorder: keeps the distribution of each step
    :param steps_at_once: environment steps that one step of every environment is
    """

    def __init__(
        self,
        learner: Learner,
        env: VecEnv,
        buffer: RolloutBuffer,
        arrays: dict[str, np.ndarray],
        recorder: BehaviourRecorder,
        steps_at_once: int,
    ):
        self._learner = learner
        self._steps_at_once = steps_at_once
        self._env = env
        self._buffer = buffer
        self._arrays = arrays
        self._recorder = recorder
        self._actor = ActorAlone(learner.policy)
        self._actions: list[Tensor] = []
        self._timed_out: list[tuple[int, int, Any]] = []

    def fill(self, callback: BaseCallback) -> bool:
        """
        Step until the buffer is full.

        :param callback: called at each step, as SB3's loop calls it
        :return: False if the callback ended it before
        """
        buffer = self._buffer
        shown = {
            "self": self._learner,
            "env": self._env,
            "callback": callback,
            "rollout_buffer": buffer,
            "n_rollout_steps": buffer.buffer_size,
            **LATE_LOCALS,
        }
        while buffer.pos < buffer.buffer_size:
            step = self.step()
            callback.update_locals({**shown, "n_steps": buffer.pos, **step})
            if not callback.on_step():
                return False
            self.store(**step)
        return True

    def step(self) -> dict[str, Any]:
        """
        Act once in every environment.

        :return: what SB3's loop has in its local variables then
        """
        learner, policy, position = self._learner, self._learner.policy, self._buffer.pos
        if learner.use_sde and learner.sde_sample_freq > 0 and position % learner.sde_sample_freq == 0:
            policy.reset_noise(self._env.num_envs)
        assert learner._last_obs is not None, "No previous observation was provided"
        refuse_non_finite("observations", learner._last_obs, position)
        with torch.no_grad():
            obs_tensor = obs_as_tensor(learner._last_obs, learner.device)
            sampled, behaviour = self._actor(obs_tensor)
        self._recorder.keep(position, behaviour)
        # A copy: an environment may write into what it is given.
        self._actions.append(sampled.clone())
        actions = sampled.cpu().numpy().reshape(-1, *(policy.action_space.shape or ()))
        clipped_actions = _within_bounds(policy, actions)
        new_obs, rewards, dones, infos = self._env.step(clipped_actions)
        # Below VecNormalize a guard has looked already: this is for what wrappers make.
        refuse_non_finite("rewards", rewards, position)
        learner.num_timesteps += self._steps_at_once
        return {
            "obs_tensor": obs_tensor,
            "actions": actions,
            "clipped_actions": clipped_actions,
            "new_obs": new_obs,
            "rewards": rewards,
            "dones": dones,
            "infos": infos,
        }

    def store(self, actions: np.ndarray, new_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: Any, **_: Any) -> None:
        """
        Put a step into the buffer, and remember the episodes that were cut off.

        :param actions: as sampled
        :param new_obs: observations behind it
        :param rewards: shape (n_envs,)
        :param dones: shape (n_envs,)
        :param infos: one of each environment
        """
        learner, buffer, position = self._learner, self._buffer, self._buffer.pos
        learner._update_info_buffer(infos, dones)
        _fill(buffer.observations, position, learner._last_obs)
        buffer.actions[position] = actions.reshape(buffer.n_envs, buffer.action_dim)
        self._arrays["rewards"][position] = rewards
        buffer.episode_starts[position] = learner._last_episode_starts
        for index, done in enumerate(dones):
            if done and infos[index].get("TimeLimit.truncated", False):
                observation = infos[index].get("terminal_observation")
                if observation is not None:
                    self._timed_out.append((position, index, copy.deepcopy(observation)))
        learner._last_obs, learner._last_episode_starts = new_obs, dones
        buffer.pos += 1
        buffer.full = buffer.pos == buffer.buffer_size

    def evaluate(self) -> None:
        """Compute log-probabilities and values of all that was stored, and let cut-off episodes go on in expectation."""
        learner, buffer, n_steps = self._learner, self._buffer, self._buffer.pos
        phi = self._recorder.by_step(n_steps) if n_steps > 0 else None
        if phi is None:
            return
        values, rewards = self._arrays["values"], self._arrays["rewards"]
        with torch.no_grad():
            log_prob = with_parameters(learner.policy.action_dist, phi).log_prob(torch.cat(self._actions[:n_steps]))
        self._arrays["log_probs"][:n_steps] = log_prob.cpu().numpy().reshape(n_steps, buffer.n_envs)
        observations = map_arrays(lambda array: array[:n_steps].reshape(-1, *array.shape[2:]), buffer.observations)
        values[:n_steps] = predict_values(learner.policy, observations).reshape(n_steps, buffer.n_envs)
        if self._timed_out:
            steps, environments, last = zip(*self._timed_out, strict=True)
            # One by one, as in SB3: each may have a dimension of length 1 that its space does not have.
            ends = predict_values(learner.policy, _joined([learner.policy.obs_to_tensor(each)[0] for each in last]))
            rewards[steps, environments] += learner.gamma * ends
        # Last, because a dropped step was reported as a time limit and has been bootstrapped as one.
        settle_dropped(rewards, values, self._recorder.dropped)


def settle_dropped(rewards: np.ndarray, values: np.ndarray, dropped: Sequence[tuple[int, int]]) -> None:
    """
    Let the steps before a dropped one go on in expectation, from its state s: the dropped one earns V(s), and that is all.

    Its advantage is V(s) - V(s) = 0 then, and that of the step before it is r + gamma V(s) - V, a bootstrap at the last finite
    state: what SB3 does where a time limit ends an episode.

    :param rewards: of a rollout, shape (n_steps, n_envs), before returns and advantages are computed
    :param values: of the same steps
    :param dropped: step and environment of each
    """
    for step, environment in dropped:
        rewards[step, environment] = values[step, environment]


def settle_collected(learner: Learner, buffer: RolloutBuffer, dropped: Sequence[tuple[int, int]]) -> None:
    """
    The same for a rollout that SB3's loop has collected.

    :param learner: the algorithm
    :param buffer: the buffer, full
    :param dropped: step and environment of each dropped step
    """
    settle_dropped(buffer.rewards, buffer.values, dropped)
    assert learner._last_obs is not None
    assert learner._last_episode_starts is not None
    with torch.no_grad():
        last_values = learner.policy.predict_values(obs_as_tensor(learner._last_obs, learner.device))
    buffer.compute_returns_and_advantage(last_values=last_values, dones=learner._last_episode_starts)


def _within_bounds(policy: ActorCriticPolicy, actions: np.ndarray) -> np.ndarray:
    """What the environment is given: a Gaussian knows no bounds."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    return policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)


def _fill(arrays: Any, position: int, observations: Any) -> None:
    """Store a step's observations; the buffer's shape of a discrete one is (n_envs, 1)."""
    if isinstance(arrays, dict):
        for key, array in arrays.items():
            _fill(array, position, observations[key])
    else:
        arrays[position] = np.reshape(observations, arrays.shape[1:])


def _joined(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: torch.cat([observation[key] for observation in observations]) for key in observations[0]}
    return torch.cat(observations)
