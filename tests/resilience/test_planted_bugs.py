"""
Bugs, planted one at a time into the package, and the fault under which the checker finds each of them. What it must find is
the beginning of a line; a checker that finds nothing fails here.
"""

import dataclasses
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.core import critic, flat, line_search, update
from sb3_trpo_ext.core.flat import as_deployed, assign, flatten
from sb3_trpo_ext.core.objective import OnPolicyStatus
from sb3_trpo_ext.core.status import TrialStatus
from sb3_trpo_ext.sb3 import hyperparameters, trpo
from sb3_trpo_ext.sb3.integrity import guard
from sb3_trpo_ext.sb3.integrity.env_guard import EnvGuard
from sb3_trpo_ext.sb3.problem.actor import PolicyFunction
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder
from sb3_trpo_ext.sb3.problem.critic import Critic
from sb3_trpo_ext.sb3.update import report as conclusion
from tests.resilience.faults import FAULTS, run
from tests.resilience.networks import DEFAULT, Config
from tests.resilience.table import fault_names

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]
NORMED = Config("box", "vector", "batch norm apart")
PLANTED: list[tuple[Bug, str, Config | None, str]] = []


def planted(fault: str, found: str, config: Config | None = None) -> Callable[[Bug], Bug]:
    def keep(bug: Bug) -> Bug:
        PLANTED.append((bug, fault, config, found))
        return bug

    return keep


# ---------------------------------------------------------------- I1


@planted("nothing", "I1: .* is not finite")
def line_search_that_accepts_nan(patch: Patch) -> None:
    honest = update.step_scale
    patch.setattr(update, "step_scale", lambda *a, **k: dataclasses.replace(honest(*a, **k), scale=1e60))
    patch.setattr(line_search, "judge", lambda e, s: TrialStatus.KL_TOO_LARGE if e.kl > s.max_kl else TrialStatus.ACCEPTED)


@planted("interrupted_in_a_critic_epoch", "I1: .*running_mean is not what it was", NORMED)
def restore_that_forgets_buffers(patch: Patch) -> None:
    patch.setattr(guard, "_tensors", lambda policy: dict(policy.named_parameters()))


@planted("interrupted_in_a_critic_epoch", "I1: .*weight is not what it was", NORMED)
def restore_that_forgets_parameters(patch: Patch) -> None:
    patch.setattr(guard, "_tensors", lambda policy: dict(policy.named_buffers()))


@planted("optimiser_raises", "I1: the optimiser is not what it was")
def restore_that_forgets_the_optimiser(patch: Patch) -> None:
    patch.setattr(guard.Held, "restore", lambda self, policy: self.snapshot.restore())


@planted("interrupted_in_a_critic_epoch", "I1: training modes changed", NORMED)
def restore_that_forgets_the_mode(patch: Patch) -> None:
    honest = guard.Held.restore
    patch.setattr(guard.Held, "restore", lambda self, policy: honest(dataclasses.replace(self, modes=()), policy))


@planted("interrupted_in_a_critic_epoch", "I1: .* is not what it was", NORMED)
def restore_on_exceptions_but_not_on_ctrl_c(patch: Patch) -> None:
    honest = guard.Held.restore

    def restore(self: Any, policy: Any) -> None:
        if isinstance(sys.exc_info()[1], Exception):
            honest(self, policy)

    patch.setattr(guard.Held, "restore", restore)


@planted("learning_rate_of_1e30", "I1: the optimiser is not that of the restored critic")
def optimiser_not_restored_with_the_critic(patch: Patch) -> None:
    patch.setattr(torch.optim.Adam, "load_state_dict", lambda *_: None)


@planted("learning_rate_of_1e30", "I1: .*value.* is not finite")
def critic_not_guarded(patch: Patch) -> None:
    patch.setattr(critic, "math", SimpleNamespace(isfinite=lambda _: True))
    patch.setattr(critic, "_finite_state", lambda _: True)
    patch.setattr(critic, "_another_epoch", lambda done, *_: done < 2)


@planted("return_of_1e19", "I1: exp_avg_sq of parameter")
def moments_not_looked_at(patch: Patch) -> None:
    patch.setattr(critic, "_finite_state", lambda _: True)


@planted("learning_rate_nan", "I1: group 0's lr is not finite")
def learning_rate_not_looked_at(patch: Patch) -> None:
    patch.setattr(trpo, "refuse_impossible_update", lambda *_: None)


# ---------------------------------------------------------------- I2


def _loose(patch: Patch) -> None:
    honest = update.step_scale
    patch.setattr(update, "step_scale", lambda *a, **k: dataclasses.replace(honest(*a, **k), scale=20 * honest(*a, **k).scale))


@planted("nothing", "I2: the KL is")
def line_search_that_takes_the_full_step(patch: Patch) -> None:
    _loose(patch)
    patch.setattr(line_search, "judge", lambda *_: TrialStatus.ACCEPTED)


@planted("nothing", "I2: the surrogate rose by -")
def line_search_that_ignores_the_surrogate(patch: Patch) -> None:
    honest = update.step_scale
    patch.setattr(update, "step_scale", lambda *a, **k: dataclasses.replace(honest(*a, **k), scale=-honest(*a, **k).scale))
    patch.setattr(line_search, "judge", lambda e, s: TrialStatus.ACCEPTED if e.kl <= s.max_kl else TrialStatus.KL_TOO_LARGE)


@planted("heterogeneous_batch_thinned", "I[23]: the (surrogate|KL)")
def line_search_on_the_subsample(patch: Patch) -> None:
    honest = update.search_along

    def search(direction: Any, surrogate: Any, problem: Any, settings: Any) -> Any:
        return honest(direction, dataclasses.replace(surrogate, mean=problem.fisher_mean), problem, settings)

    patch.setattr(update, "search_along", search)


@planted("target_kl_on_a_schedule", "I[23]: the KL is")
def cast_after_the_check(patch: Patch) -> None:
    honest = update.backtrack

    def backtrack(start: Any, step: Any, deploy: Any, evaluate: Any, limits: Any) -> Any:
        result = honest(start, step, deploy, evaluate, limits)
        if result.parameters is None:
            return result
        return dataclasses.replace(result, parameters=tuple(part.bfloat16().to(part.dtype) for part in result.parameters))

    patch.setattr(update, "backtrack", backtrack)


@planted("target_kl_that_no_step_keeps", "I[23]: ")
def rejected_candidate_left_behind(patch: Patch) -> None:
    honest = update.search_along

    def search(direction: Any, surrogate: Any, problem: Any, settings: Any) -> Any:
        result = honest(direction, surrogate, problem, settings)
        if result.parameters is None:
            step = flatten(problem.theta) + direction.scale.scale * direction.vector
            assign(problem.parameters, as_deployed(step, problem.parameters))
        return result

    patch.setattr(update, "search_along", search)


@planted("batch_norm_shared", "I[23]: ")
def kl_in_train_mode(patch: Patch) -> None:
    patch.setattr(ActorCriticPolicy, "set_training_mode", lambda self, mode: self.train(True))
    honest = update.check_on_policy

    def check(*args: Any) -> Any:
        return dataclasses.replace(honest(*args), status=OnPolicyStatus.ON_POLICY)

    patch.setattr(update, "check_on_policy", check)


@planted("optimiser_that_moves_everything", "I2: the KL is")
def critic_epochs_that_may_move_the_actor(patch: Patch) -> None:
    patch.setattr(flat.Snapshot, "changed", lambda self: False)


@planted("statistics_that_drift_in_every_mode", "I[23]: ")
def critic_epochs_that_may_move_the_actors_buffers(patch: Patch) -> None:
    patch.setattr(Critic, "_acts_otherwise", lambda self, before: False)


@planted("statistics_that_drift_and_no_signal", "not told: StaleBatchError: the policy gives different distributions")
def evaluation_that_writes_into_the_policy(patch: Patch) -> None:
    patch.setattr(PolicyFunction, "_fresh", staticmethod(lambda buffers: buffers))


@planted("sensors_fail_at_every_third_step_truncated", "I[23]: the (surrogate|KL)")
def dropped_samples_that_count(patch: Patch) -> None:
    patch.setattr(BehaviourRecorder, "places", lambda *_: None)


@planted("sensors_fail_at_every_third_step_truncated", "I[23]: the (surrogate|KL)")
def other_samples_dropped_than_those(patch: Patch) -> None:
    honest = BehaviourRecorder.places

    def places(self: Any, n_steps: int, n_envs: int) -> Any:
        kept = honest(self, n_steps, n_envs)
        return None if kept is None else n_steps * n_envs - 1 - kept[::-1]

    patch.setattr(BehaviourRecorder, "places", places)


# ---------------------------------------------------------------- I3


@planted("sensor_fails_truncated", "not told: NonFiniteError: non-finite observations in the rollout")
def environments_not_watched(patch: Patch) -> None:
    patch.setattr(EnvGuard, "watching", lambda *_: nullcontext())


@planted("trained_twice", "not told: accepted")
def no_on_policy_check(patch: Patch) -> None:
    honest = update.check_on_policy
    patch.setattr(update, "check_on_policy", lambda *args: dataclasses.replace(honest(*args), status=OnPolicyStatus.ON_POLICY))


@planted("one_environment_of_eight_a_version_old", "not told: accepted")
def on_policy_check_of_a_mean_that_is_lax(patch: Patch) -> None:
    honest = update.check_on_policy
    patch.setattr(
        update, "check_on_policy", lambda evidence, noise, _, mean, kl: honest(evidence, noise, None, mean, 100 * kl)
    )


@planted("nan_reward", "not told: |I[123]: ")
def rollout_not_looked_at(patch: Patch) -> None:
    patch.setattr(trpo, "refuse_non_finite_rollout", lambda *_: None)


@planted("damping_nan", "I3: the report does not survive JSON")
def settings_not_looked_at(patch: Patch) -> None:
    patch.setattr(hyperparameters, "refuse_impossible", lambda _: None)


@planted("partial_rollout", "I3: AssertionError.* names no cause")
def buffer_not_looked_at(patch: Patch) -> None:
    patch.setattr(trpo, "refuse_impossible_update", lambda *_: None)


@planted("advantages_all_equal", "I3: status accepted, but the actor did not move")
def report_of_a_step_that_was_not_taken(patch: Patch) -> None:
    honest = conclusion.summarise
    patch.setattr(conclusion, "summarise", lambda *a, **k: dataclasses.replace(honest(*a, **k), status="accepted"))


@planted("nothing", "I3: the KL is .*, reported")
def report_of_another_kl(patch: Patch) -> None:
    honest = conclusion.summarise

    def summarise(*args: Any, **kwargs: Any) -> Any:
        report = honest(*args, **kwargs)
        return dataclasses.replace(report, kl=1.05 * report.kl)

    patch.setattr(conclusion, "summarise", summarise)


@planted("nothing", "I3: the log is not the report")
def log_that_lacks_the_kl(patch: Patch) -> None:
    honest = trpo.logged_values
    patch.setattr(trpo, "logged_values", lambda report: [pair for pair in honest(report) if "kl_divergence" not in pair[0]])


@planted("logger_raises", "I3: an update that raised was counted")
def counts_that_are_not_set_back(patch: Patch) -> None:
    patch.setattr(trpo, "COUNTS", ())
    honest = TRPO._conclude

    def conclude(self: Any, *args: Any) -> None:
        self._n_updates += 1
        honest(self, *args)

    patch.setattr(TRPO, "_conclude", conclude)


@pytest.mark.parametrize(("bug", "fault", "config", "found"), PLANTED, ids=[bug.__name__ for bug, *_ in PLANTED])
def test_the_checker_finds_it(bug: Bug, fault: str, config: Config | None, found: str, monkeypatch: Patch) -> None:
    assert fault in fault_names()
    with monkeypatch.context() as patch:
        outcome = run(FAULTS[fault], config=config or DEFAULT, plant=lambda: bug(patch))
    failures = outcome.failures(FAULTS[fault])
    assert any(re.match(found, line) for line in failures), failures
    # And without it nothing is found.
    assert run(FAULTS[fault], config=config or DEFAULT).broken == []
