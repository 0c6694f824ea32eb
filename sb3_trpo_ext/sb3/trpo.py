"""
class TRPO: sb3-contrib's, with another update. One update is ``train``; its steps are the rooms of ``core``.

Differences from sb3-contrib that a user may notice:

1. The policy step evaluates the policy as it acts (eval mode), on the whole batch, in float64; a step is verified on the
   parameters as deployed. ``sub_sampling_factor`` thins the Fisher products only, by a random sub-sample.
2. A batch that this policy did not collect, and anything non-finite, is refused before it can do harm.
3. Damping adapts, within a range that begins at ``cg_damping``.
4. The critic trains until its loss is below where it began; parameters that the actor depends on are never moved by it.
5. The last update is logged too, at the end of ``learn``; what was not computed (the explained variance of returns that do
   not vary) is not logged, instead of NaN; every update leaves a row in the run folder. Of more than 10,000 updates, all
   files get a choice (``records.thinning``).
6. ``train`` leaves the policy in eval mode. Modules compiled by TorchScript are refused.
7. Layers that the actor depends on never run in training mode: batch norm, or a normaliser of a user's own, keeps the
   statistics that it has.
8. Launched as one of several processes (torchrun), ``learn`` trains together with the others: ``docs/scaling.md``.
9. A model's zip also holds the statistics of its ``VecNormalize``, and replaces an earlier file at once (``model_files``).
"""

from __future__ import annotations

import io
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sb3_contrib
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.core.critic import CriticResult
from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.core.status import UpdateStatus
from sb3_trpo_ext.core.update import PolicyResult, update_policy
from sb3_trpo_ext.monitoring.observers import with_observers
from sb3_trpo_ext.records.keys import NOT_IN_TENSORBOARD, logged_values
from sb3_trpo_ext.records.thinning import is_recorded
from sb3_trpo_ext.sb3 import hyperparameters
from sb3_trpo_ext.sb3.arguments.constructor import refuses_mistakes
from sb3_trpo_ext.sb3.arguments.validation import notice_unit, refuse_contradictions, refuse_impossible, warn_about_risks
from sb3_trpo_ext.sb3.checkpoints.model_files import add_statistics, statistics_in, statistics_to_save, write_model
from sb3_trpo_ext.sb3.checkpoints.resumption import resume
from sb3_trpo_ext.sb3.collect.rollout import collect_rollout, settle_collected, why_sb3_loop
from sb3_trpo_ext.sb3.errors import NonFiniteError, StaleBatchError, WorkerError
from sb3_trpo_ext.sb3.hyperparameters import Hyperparameters
from sb3_trpo_ext.sb3.integrity.env_guard import dropped_environments, refuse_impossible_truncation
from sb3_trpo_ext.sb3.integrity.finiteness import refuse_non_finite_noise, refuse_non_finite_parameters
from sb3_trpo_ext.sb3.integrity.guard import Held, all_or_nothing, tell
from sb3_trpo_ext.sb3.integrity.preconditions import (
    in_plain_torch,
    plain_torch,
    refuse_impossible_update,
    refuse_overridden_product,
)
from sb3_trpo_ext.sb3.problem.action_distributions import action_distribution
from sb3_trpo_ext.sb3.problem.actor import refuse_scripted_modules
from sb3_trpo_ext.sb3.problem.batch import RolloutBatch, read_batch, refuse_non_finite_rollout
from sb3_trpo_ext.sb3.problem.critic import Critic
from sb3_trpo_ext.sb3.problem.evaluation import Draws, Evaluated, evaluate_batch
from sb3_trpo_ext.sb3.problem.statistics import computing_device, explained_variance
from sb3_trpo_ext.sb3.ranks.launch import place, use_own_gpu
from sb3_trpo_ext.sb3.ranks.minibatches import share_of_minibatches
from sb3_trpo_ext.sb3.ranks.training import Episodes, callbacks_of, seed_of_rank
from sb3_trpo_ext.sb3.session import Session
from sb3_trpo_ext.sb3.update.diagnosis import Seen
from sb3_trpo_ext.sb3.update.messages import stale_batch_message
from sb3_trpo_ext.sb3.update.report import Counts, UpdateInputs, report_of
from sb3_trpo_ext.sb3.update.start import RandomStates, UpdateStart

DAMPING = ("_adapted_damping", "_adapted_damping_unit")
COUNTS = ("_n_updates", "_updates_skipped", *DAMPING, "last_update")
"""What an update leaves in the model beside its policy."""

COMPARED = ("num_timesteps", "_total_timesteps", "_n_updates", "_updates_skipped", *DAMPING)
"""Counts that must be the same on all ranks when a training begins."""

ACTOR_ALONE = "actor alone"
"""How a rollout was collected, as the report says it, where it was not by SB3's loop."""

SelfTRPO = TypeVar("SelfTRPO", bound="TRPO")


class TRPO(sb3_contrib.TRPO):
    """
    Trust Region Policy Optimization (Schulman et al., 2015, arXiv 1502.05477), hardened: a drop-in for sb3-contrib's.

    ``TRPO.load`` unpickles, as in SB3: load a zip only if you trust its author (``docs/resilience_files.md``).

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, ...)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate of the value function, it can be a function of the current progress
        remaining (from 1 to 0)
    :param n_steps: The number of steps to run for each environment per update; n_steps * n_envs must be greater than 1
        if advantages are normalised
    :param batch_size: Minibatch size for the value function
    :param gamma: Discount factor, in [0, 1]
    :param cg_max_steps: Largest number of conjugate-gradient steps
    :param cg_damping: Damping lambda >= 0 of the Fisher matrix, in the unit of ``kl_reduction``
    :param line_search_shrinking_factor: Factor between the candidates of the line search, in (0, 1)
    :param line_search_max_iter: Number of candidates
    :param n_critic_updates: Number of critic epochs per update, enforced
    :param gae_lambda: Trade-off of bias and variance of the Generalized Advantage Estimator, in [0, 1]
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE)
    :param sde_sample_freq: Sample a new noise matrix every n steps when using gSDE; -1: only at the start of the rollout
    :param rollout_buffer_class: Rollout buffer class to use. If ``None``, it will be automatically selected.
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation
    :param normalize_advantage: Whether to normalize the advantage
    :param target_kl: The trust region delta > 0: bound of the mean KL of one update, in the unit of ``kl_reduction``
    :param sub_sampling_factor: Thin the batch of the Fisher products by this factor
    :param stats_window_size: Window size for the rollout logging
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation
    :param verbose: the verbosity level: 0 no output, 1 info, 2 debug
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) of the policy; where it has no float64 (mps), the policy step runs on the CPU
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param kl_reduction: Unit of the bounded KL: "mean" over action dimensions, sb3-contrib's; "joint", the paper's. None:
        "mean", with a notice where the two differ
    :param cg_precision: Precision of the Fisher products and of CG's recurrence: "mixed": float32 products in a float64
        recurrence, whose solution a float64 product verifies; "float64"; "float32"
    :param cg_preconditioner: "none", or "kfac": Kronecker-factored, so that CG needs fewer steps for the same solution; it
        then stops once more of them no longer change it
    :param cg_rtol: CG stops at this relative residual, in [0, 1)
    :param adaptive_damping: Whether lambda follows the reduction ratio, and failed solves are retried with more
    :param cg_damping_range: (low, high) of the adaptive lambda, cg_damping between them. None: cg_damping to 1000 cg_damping;
        of cg_damping=0: 0 to 100, and 0 until a step fails or is much worse than predicted, then 0.1 (joint: a dimension)
    :param max_critic_updates: End of the extra critic epochs, which are run while the value loss is not below where it
        began. None: twice ``n_critic_updates``
    :param critic_tolerance: Also run extra epochs while one lowers the value loss by more than this share. None: don't
    :param min_explained_variance: Below it only the critic is trained. None: off
    :param on_stale_batch: A batch that was not collected by this policy: "raise" StaleBatchError, or "skip" its policy step
    :param on_nonfinite: An environment that gives NaN or infinity: "raise" NonFiniteError before anything has seen it, or
        "truncate": end its episode in the last finite state, drop that sample, count it (``train/samples_dropped``), go on
    :param fisher_chunk_size: Samples that are evaluated together. None: as many as a memory bound allows
    :param log_folder: Run folder (progress.csv, updates.jsonl, histories). None: the folder of the Monitor files, else the
        logger's, else (if it only prints) trpo_runs/TIME; a run that logs nothing (verbose=0) leaves nothing
    :param warn_on_risky: Whether to warn about settings that experience speaks against
    :param final_target_kl: The trust region goes linearly from ``target_kl`` to this > 0, in the same unit, along all steps as
        SB3's schedules do: with ``reset_num_timesteps=False`` they count from the first, so a loop of short calls of ``learn``
        has the final one throughout. None: it stays as it is
    :raises ValueError: for impossible settings, naming argument, value and valid range
    """

    @refuses_mistakes
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float = 0.01,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        kl_reduction: str | None = None,
        cg_precision: str = "mixed",
        cg_preconditioner: str = "none",
        cg_rtol: float = 1e-10,
        adaptive_damping: bool = True,
        cg_damping_range: tuple[float, float] | None = None,
        max_critic_updates: int | None = None,
        critic_tolerance: float | None = None,
        min_explained_variance: float | None = None,
        on_stale_batch: str = "raise",
        on_nonfinite: str = "raise",
        fisher_chunk_size: int | None = None,
        log_folder: str | None = None,
        warn_on_risky: bool = True,
        final_target_kl: float | None = None,
    ):
        use_own_gpu()
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps,
            batch_size,
            gamma,
            cg_max_steps,
            cg_damping,
            line_search_shrinking_factor,
            line_search_max_iter,
            n_critic_updates,
            gae_lambda,
            use_sde,
            sde_sample_freq,
            rollout_buffer_class,
            rollout_buffer_kwargs,
            normalize_advantage,
            target_kl,
            sub_sampling_factor,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
            _init_setup_model=False,
        )
        self.kl_reduction = kl_reduction
        self.cg_precision = cg_precision
        self.cg_preconditioner = cg_preconditioner
        self.cg_rtol = cg_rtol
        self.adaptive_damping = adaptive_damping
        self.cg_damping_range = cg_damping_range
        self.max_critic_updates = max_critic_updates
        self.critic_tolerance = critic_tolerance
        self.min_explained_variance = min_explained_variance
        self.on_stale_batch = on_stale_batch
        self.on_nonfinite = on_nonfinite
        self.fisher_chunk_size = fisher_chunk_size
        self.log_folder = log_folder
        self.warn_on_risky = warn_on_risky
        self.final_target_kl = final_target_kl
        self.last_update: UpdateReport | None = None
        # Plain numbers, so that sb3-contrib can load what we save.
        self._adapted_damping: float | None = None
        self._adapted_damping_unit: str | None = None
        self._updates_skipped = 0
        self.session = Session()
        if _init_setup_model:
            self._setup_model()

    def __getstate__(self) -> dict[str, Any]:
        """For ``pickle``, joblib and worker processes; a logger that writes somewhere is left out, as after ``load``."""
        state = dict(vars(self))
        if "_logger" in state and state["_logger"].output_formats:
            del state["_logger"]
            state["_custom_logger"] = False
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A shallow copy is handed the session of the other object; a pickle of an earlier version has none.
        vars(self).update({**state, "session": state.get("session", Session()).of_a_copy()})

    def _setup_model(self) -> None:
        if place()[0] > 0:
            self.verbose, self.tensorboard_log = 0, None
            self.session.run_log.keep_off()
        refuse_impossible(vars(self))
        refuse_contradictions(vars(self))
        refuse_overridden_product(type(self), vars(self))
        if self.normalize_advantage:
            assert self.n_steps * self.n_envs > 1, (
                f"`n_steps * n_envs` must be greater than 1. Currently n_steps={self.n_steps} and n_envs={self.n_envs}"
            )
        super()._setup_model()
        refuse_scripted_modules(self.policy)
        dims = action_distribution(self.policy).independent_dims
        if self.kl_reduction is None and dims > 1:
            notice_unit(self.target_kl, dims)
        if self.warn_on_risky:
            warn_about_risks(vars(self), self.hyperparameters().kl_scale)
        if computing_device(self.device) != self.device:
            warnings.warn(
                f"TRPO: device {self.device} has no float64: the policy step runs on the CPU", UserWarning, stacklevel=3
            )

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed everything; ranks differently, and each the same every time.

        :param seed: the training's
        """
        super().set_random_seed(seed_of_rank(seed, place()[0], self.n_envs))

    @property
    def kl_unit(self) -> str:
        """Unit of the bounded KL, and of the damping: "mean" or "joint"."""
        return self.kl_reduction or "mean"

    @property
    def max_kl(self) -> float:
        """Bound of the mean KL of the next update, in ``kl_unit``: what ``final_target_kl`` has made of ``target_kl``."""
        if self.final_target_kl is None:
            return float(self.target_kl)
        # SB3's goes below 0 where the last rollout exceeds total_timesteps
        progress = 1.0 - max(self._current_progress_remaining, 0.0)
        return float(self.target_kl + progress * (self.final_target_kl - self.target_kl))

    def _attributes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in hyperparameters.ATTRIBUTES}

    def hyperparameters(self) -> Hyperparameters:
        """
        Read what the next update is asked to do.

        :return: the arguments as they are now, in the terms of ``core``
        :raises ValueError: if one was set to something impossible
        """
        return Hyperparameters.of(self._attributes(), action_distribution(self.policy).independent_dims)

    @property
    def run_folder(self) -> Path | None:
        """Where this run's files are; None before the first update, and if it has none."""
        return self.session.run_log.path

    @property
    def last_update_inputs(self) -> UpdateInputs | None:
        """References to what went into the newest update; they are not saved."""
        return self.session.update_inputs

    def subscribe(self, *names: str) -> None:
        r"""
        Have diagnostics computed with every update from now on, for as long as this object lives (they are not saved).

        :param \*names: of ``core.status.Diagnostic``
        :raises ValueError: for any other name
        """
        self.session.diagnosis.subscribe(names)

    @in_plain_torch
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Collect with the actor alone, values at the end; with SB3's own loop where something may need more than that.

        :param env: The training environment
        :param callback: Callback that will be called at each step
        :param rollout_buffer: Buffer to fill with rollouts
        :param n_rollout_steps: Number of experiences to collect per environment
        :return: True if it was filled, False if the callback terminated the rollout
        :raises NonFiniteError: at a parameter or an observation that is not finite
        """
        self._enter(env)
        session, ranks = self.session, self.session.ranks
        session.loaded_statistics = None
        ranks.meet(self.policy, env, self._compared(), {name: getattr(self, name) for name in COMPARED})
        session.stop_signal = ranks.any_signal(session.stop_signal)
        if session.stop_signal is not None:
            # Rank 0 takes a checkpoint.
            for goes_on in session.between_updates:
                goes_on()
            return False
        ranks.begin_rollout(self._episodes)
        with ranks.together("a rollout"):
            filled = self._collect(env, callback, rollout_buffer, n_rollout_steps)
        filled, self.num_timesteps = ranks.exchange(filled, self.num_timesteps, env, self._compared(), self._episodes)
        return filled

    def _compared(self) -> dict[str, str]:
        return hyperparameters.comparable(self._attributes())

    @property
    def _episodes(self) -> Episodes:
        # SB3 makes them when ``learn`` begins; who collects by hand before has none.
        assert self.ep_info_buffer is not None, "call learn() first: nothing was set up to collect with"
        assert self.ep_success_buffer is not None
        return self.ep_info_buffer, self.ep_success_buffer

    def _enter(self, env: VecEnv) -> None:
        """Restore the checkpoint's episodes and random streams, if this model was resumed from one."""
        if self.session.resumption is not None:
            self.session.resumption.enter(self, env)
            self.session.resumption = None

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        session, recorder = self.session, self.session.recorder
        if not all([goes_on() for goes_on in session.between_updates]):
            return False
        refuse_non_finite_parameters(self.policy)
        refuse_non_finite_noise(self.policy)
        reason: str | None = "a subclass collects in its own way"
        if type(self).collect_rollouts is TRPO.collect_rollouts:
            reason = why_sb3_loop(self.policy, recorder, callback, rollout_buffer, n_rollout_steps)
        recorder.begin(ACTOR_ALONE if reason is None else f"SB3's loop: {reason}")
        at_once = session.ranks.steps_at_once(env)
        with self._guarded(env, callback):
            if reason is None:
                return collect_rollout(self, env, callback, rollout_buffer, recorder, at_once, session.computing)
            before = self.num_timesteps
            with recorder.recording(self.policy, rollout_buffer):
                filled = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
            # SB3's loop counts this rank's steps only.
            self.num_timesteps = before + (self.num_timesteps - before) // env.num_envs * at_once
            if filled and recorder.dropped:
                settle_collected(self, rollout_buffer, recorder.dropped)
            return filled

    @contextmanager
    def _guarded(self, env: VecEnv, callback: BaseCallback | None = None) -> Iterator[None]:
        """Watch what is stepped or reset."""
        try:
            with self.session.env_guard.watching(
                env, self.on_nonfinite, lambda: getattr(self.rollout_buffer, "pos", None), callback
            ):
                yield
        except NonFiniteError:
            # Environments and these observations are no longer of one step: the next ``learn`` begins with a reset.
            self._last_obs = None
            raise

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """Every loop calls this once a step, before the step is stored: note dropped samples, and the episodes that ended."""
        position = getattr(self.rollout_buffer, "pos", 0)
        if self.on_nonfinite == "truncate":
            dropped = dropped_environments(infos, dones)
            self.session.recorder.dropped.extend((position, index) for index in dropped)
        self.session.ranks.note(position, infos, dones)
        super()._update_info_buffer(infos, dones)

    def train(self) -> None:
        """
        One update: check the batch, take a verified step within the trust region or none, train the critic, report.

        :raises StaleBatchError: the batch was not collected by this policy (``on_stale_batch="raise"``)
        :raises NonFiniteError: something in the rollout, the policy or its optimiser is not finite
        :raises ValueError: the rollout is not complete, or a setting that was changed since is impossible
        """
        session, ranks, streams = self.session, self.session.ranks, RandomStates.now()
        # Now: an update that raises has a folder, too.
        session.run_log.find(self._n_updates + 1, self.log_folder, self.env, self.logger)
        with (
            plain_torch(),
            session.computing,
            all_or_nothing(self.policy, (self, COUNTS), (session, ("update_inputs",))) as held,
        ):
            self._update_learning_rate(self.policy.optimizer)
            asked = self.hyperparameters()
            refuse_impossible_update(self.rollout_buffer, self.policy, self._n_updates + 1, self._current_progress_remaining)
            self.policy.set_training_mode(False)
            with ranks.together("the check of a rollout"):
                batch = self._read_batch(asked, held, streams)
            draws = Draws(asked.sub_sample(len(batch)), asked.scores())
            evaluated = evaluate_batch(
                self.policy, batch, asked.kl_scale, self.fisher_chunk_size, session.choice, draws, ranks.reducer
            )
            self._remember_choice(evaluated)
            n_parameters = sum(parameter.numel() for parameter in evaluated.problem.parameters)
            result = update_policy(evaluated.problem, asked.policy_settings(n_parameters), asked.damping)
            evaluated.problem.linearised.release()
            step = ranks.agree(result, evaluated.problem.parameters)
            self._treat_stale_batch(result, batch, evaluated)
            share = share_of_minibatches(batch, self.batch_size, self.rollout_buffer, ranks)
            critic = Critic(self.policy, batch, self.rollout_buffer, self.batch_size, evaluated, ranks.reducer, share)
            critic_result = critic.fit(asked.critic_settings)
            explained_after = explained_variance(critic.values(), batch.returns, ranks.reducer)
            self.policy.set_training_mode(False)
            ranks.verify(step, self.policy, self.env, (self.num_timesteps, self._total_timesteps))
            self._conclude(UpdateInputs(batch, evaluated, result), asked, critic_result, explained_after)
        if not session.keep_update_start:
            session.update_start = None

    def _read_batch(self, asked: Hyperparameters, held: Held, streams: RandomStates) -> RolloutBatch:
        """The rollout, checked; what the update begins with is noted before, so that it is known if it is refused."""
        batch = read_batch(self.rollout_buffer, self.session.recorder)
        self.session.update_start = UpdateStart(
            n_updates=self._n_updates + 1,
            num_timesteps=self.num_timesteps,
            held=held,
            streams=streams,
            batch=batch,
            learning_rate=float(self.lr_schedule(self._current_progress_remaining)),
            max_kl=asked.max_kl,
            adapted_damping=self._adapted_damping,
            adapted_damping_unit=self._adapted_damping_unit,
            updates_skipped=self._updates_skipped,
            n_ranks=self.session.ranks.size,
        )
        refuse_non_finite_parameters(self.policy)
        refuse_non_finite_rollout(batch, self.rollout_buffer, self._last_obs)
        return batch

    def _remember_choice(self, evaluated: Evaluated) -> None:
        """The ladder is climbed once for all updates, unless circumstances change."""
        if evaluated.choice is None:
            return
        if self.session.choice is None and evaluated.dtype is torch.float32:
            warnings.warn("TRPO: this policy can't be evaluated in float64: the policy step runs in float32", stacklevel=4)
        self.session.choice = evaluated.choice

    def _treat_stale_batch(self, result: PolicyResult, batch: RolloutBatch, evaluated: Evaluated) -> None:
        if result.status is not UpdateStatus.STALE_BATCH:
            return
        message = stale_batch_message(result.check, batch, evaluated, self.max_kl)
        if self.on_stale_batch == "raise":
            raise StaleBatchError(message)
        warnings.warn(f"TRPO: policy step skipped: {message}", UserWarning, stacklevel=3)

    def _conclude(
        self, inputs: UpdateInputs, asked: Hyperparameters, critic: CriticResult, explained_after: float | None
    ) -> None:
        """Report, log, and then count: nothing here can change the policy."""
        session = self.session
        start = session.update_start
        before_first = start.held.snapshot if start is not None and self._n_updates == 0 else None
        seen = Seen(inputs, self.policy, self.rollout_buffer, self._last_episode_starts, self.num_timesteps, before_first)
        dropped = None
        if self.on_nonfinite == "truncate":
            dropped = int(session.ranks.reduce(torch.tensor(inputs.batch.n_dropped)))
        counts = Counts(self.num_timesteps, self._updates_skipped, dropped, session.recorder.collection)
        found = session.diagnosis.compute(seen)
        report = report_of(inputs, asked, counts, self.policy, critic, explained_after, found)
        for key, value in logged_values(report):
            self.logger.record(key, value, exclude="tensorboard" if key in NOT_IN_TENSORBOARD else None)
        session.run_log.write(report, self.log_folder, self.env, self.logger)
        self._n_updates, self._updates_skipped = report.n_updates, report.updates_skipped
        if self.adaptive_damping:
            self._adapted_damping, self._adapted_damping_unit = inputs.result.damping.value, self.kl_unit
        self.last_update, session.update_inputs = report, inputs

    @classmethod
    def resume(
        cls: type[SelfTRPO],
        folder: str | Path,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **changes: Any,
    ) -> SelfTRPO:
        r"""
        Go on from the newest whole checkpoint of a run (``Checkpoints`` writes them); others are passed over with a warning.

        The next ``learn`` is given the arguments of the one that was interrupted, among them the number of steps of the whole
        training. From here on torch uses as many threads as it did then. A checkpoint holds pickles: as with ``load``, resume
        only from files that you trust.

        :param folder: the run's folder, or that of its checkpoints
        :param env: the training environment, made as it was for that run
        :param device: Device (cpu, cuda, ...) of the policy
        :param \**changes: attributes to change, as in ``load``
        :return: the model
        :raises ValueError: if there is no whole checkpoint
        """
        model, resumption = resume(cls.load, folder, env, device, **changes)
        model.session.resumption = resumption
        return model

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment; that of a resumed run gets the checkpoint's statistics at once.

        :param env: the environment
        :param force_reset: as in SB3
        """
        super().set_env(env, force_reset)
        if self.session.resumption is not None:
            self.session.resumption.prepare(self)

    @classmethod
    def load(
        cls: type[SelfTRPO],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfTRPO:
        r"""
        Load a model as SB3 does; statistics that were saved with it stay with it.

        :param path: of the zip
        :param env: the environment; None: it is set later
        :param device: Device (cpu, cuda, ...) of the policy
        :param custom_objects: as in SB3
        :param print_system_info: as in SB3
        :param force_reset: as in SB3
        :param \**kwargs: attributes to change, as in SB3
        :return: the model
        """
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        model.session.loaded_statistics = statistics_in(path)
        return model

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model, and with it the statistics of its environment's ``VecNormalize``: an entry ``vecnormalize.pkl``.

        A model that was loaded and has not learned since keeps those that it was loaded with, unless its environment has
        others that have seen something.

        :param path: of the zip; an earlier file is replaced at once
        :param exclude: as in SB3
        :param include: as in SB3
        """
        saved = io.BytesIO()
        super().save(saved, exclude, include)
        statistics = statistics_to_save(self.get_vec_normalize_env(), self.session.loaded_statistics)
        if statistics is not None:
            add_statistics(saved, statistics)
        write_model(path, saved.getvalue())

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        arguments: dict[str, Any] = {"callback": callback, "tb_log_name": tb_log_name, "progress_bar": progress_bar}
        if self.on_nonfinite == "truncate" and self.env is not None:
            refuse_impossible_truncation(self.env, self.rollout_buffer)
        with self._guarded(self.env) if self.env is not None else nullcontext():
            if self.env is not None and self.session.resumption is not None and self.session.resumption.is_over:
                self._enter(self.env)
            if self.session.resumption is not None:
                return self.session.resumption.begin(
                    self, super()._setup_learn, total_timesteps, reset_num_timesteps, **arguments
                )
            self.session.first_update = self._n_updates
            return super()._setup_learn(total_timesteps, reset_num_timesteps=reset_num_timesteps, **arguments)

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write log, if it is this iteration's turn: those before a resumed training count, and few of very many are written.

        :param iteration: Current logging iteration
        """
        iteration += self.session.earlier_iterations
        if iteration % self.session.log_interval == 0 and self._is_row_recorded():
            self.session.run_log.dump(self.logger, partial(super().dump_logs, iteration))

    def _is_row_recorded(self) -> bool:
        """Rows are counted over all calls of ``learn``: by the update whose figures are in them."""
        return is_recorded(self._n_updates // self.session.log_interval)

    def learn(
        self: SelfTRPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTRPO:
        """
        Train; the last update's log, which SB3 would never write, is written at the end (unless ``log_interval`` is None).

        :param total_timesteps: The total number of samples (env steps) to train on
        :param callback: callback(s) called at every step with state of the algorithm
        :param log_interval: updates between logs
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: the trained model
        :raises SystemExit: 143, if SIGTERM has asked for an end: after ``Checkpoints`` has written one, or without one where
            no training step was made for 30 s
        :raises KeyboardInterrupt: the same after Ctrl-C
        :raises WorkerError: if a worker process of the environment, or of one that is evaluated in, has died
        """
        session = self.session
        session.failure_observers, session.between_updates, session.stop_signal = [], [], None
        session.earlier_iterations, session.log_interval, interval = 0, log_interval or 1, log_interval
        resumption = session.resumption
        if resumption is not None and not resumption.is_over and log_interval is not None:
            session.earlier_iterations, interval = self._n_updates - resumption.first_update, 1
        try:
            with session.on_ranks():
                if session.ranks.rank > 0:
                    self.set_logger(Logger(None, []))
                observers = with_observers(callbacks_of(session.ranks.rank, callback))
                bar = progress_bar and session.ranks.rank == 0
                super().learn(total_timesteps, observers, interval, tb_log_name, reset_num_timesteps, bar)
                if session.resumption is not None:
                    session.resumption.is_over = True  # it had nothing left to do
        except BaseException as error:
            tell(session.failure_observers, error)
            if not isinstance(error, WorkerError) or session.stop_signal is None:
                raise
            # Workers that have received the signal, too: the training ends as it was asked to.
        if log_interval is not None and self.logger.name_to_value and self._is_row_recorded():
            session.run_log.dump(self.logger, partial(self.logger.dump, step=self.num_timesteps))
        if session.stop_signal == signal.SIGINT:
            raise KeyboardInterrupt
        if session.stop_signal is not None:
            sys.exit(128 + session.stop_signal)  # by this function: W&B listens to it
        return self

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "session", "last_update"]
