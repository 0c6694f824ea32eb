"""
The three invariants of an update (``docs/resilience.md``) as one checker, of our TRPO and of sb3-contrib's alike.

``Before(model)`` keeps what an update may touch, and SB3's own view of the actor on the whole batch; ``Before.broken`` says
afterwards what does not hold. Nothing of it is computed by the package: the distributions are torch's, in float64.
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from sb3_trpo_ext import TRPO, UpdateReport
from tests.resilience.view import View, tensors_of
from tests.sb3.spaces import n_hooks, same

KL_ACCURACY = (1e-3, 1e-6)
"""Relative and absolute: the view is made of the policy's own float32 numbers."""

GAIN_ACCURACY = 1e-5
"""Of the mean absolute advantage, for the same reason."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and other state by name, and the learning rates."""
    state = optimizer.state_dict()
    found = {f"group {i}'s lr": torch.as_tensor(float(group["lr"])) for i, group in enumerate(state["param_groups"])}
    for index, values in state["state"].items():
        found |= {f"{key} of parameter {index}": value for key, value in values.items() if isinstance(value, Tensor)}
    return found


class Before:
    """
    What a model holds before an update.

    :param model: the model
    :param collected: whether its rollout is there; buffers of modules may change while it is collected
    """

    def __init__(self, model: Any, collected: bool = True):
        self.model = model
        self.collected = collected
        self.ours = isinstance(model, TRPO)
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors_of(model.policy).items()}
        self.optimizer = copy.deepcopy(model.policy.optimizer.state_dict())
        self.modes = [module.training for module in model.policy.modules()]
        self.trainable = [parameter.requires_grad for parameter in model.policy.parameters()]
        self.n_hooks = n_hooks(model.policy)
        self.counters = self._counters()
        self.batch = self._batch()
        self.view = self._view()

    def _counters(self) -> tuple[Any, ...]:
        names = ("_n_updates", "_updates_skipped", "_adapted_damping", "last_update")
        return tuple(getattr(self.model, name, None) for name in names)

    def _batch(self) -> Any:
        buffer = self.model.rollout_buffer
        if not buffer.full:
            return None
        random = np.random.get_state()  # noqa: NPY002
        with torch.inference_mode(False):
            next(iter(buffer.get(1)))
            np.random.set_state(random)  # noqa: NPY002
            # What a fault has spoiled is no sample where its episode is ended: its places are known from the fault alone.
            truncates = getattr(self.model, "on_nonfinite", None) == "truncate"
            lost = [env * buffer.buffer_size + step for step, env in getattr(self.model, "injected", ()) if truncates]
            kept = np.setdiff1d(np.arange(buffer.buffer_size * buffer.n_envs), lost)
            return buffer._get_samples(kept) if len(kept) else None

    def _view(self) -> View | None:
        if self.batch is None:
            return None
        actions = self.batch.actions
        actions = actions.long().flatten() if isinstance(self.model.action_space, spaces.Discrete) else actions
        try:
            return View(self.model, self.batch.observations, actions)
        except (ValueError, RuntimeError):  # distributions that are not finite have no view
            return None

    def broken(self, error: BaseException | None, theirs: type[BaseException] | None = None) -> list[str]:
        """
        Say which invariants don't hold.

        :param error: what ``train`` raised
        :param theirs: a kind of exception that somebody else raises: it may pass as it is
        :return: one line each, beginning with the invariant
        """
        found = [*self.i1(error), *self.i2()]
        if self.ours:
            found += self.i3_of_an_error(error, theirs) if error is not None else self.i3_of_a_report()
        return found

    # ------------------------------------------------------------ I1

    def i1(self, error: BaseException | None) -> list[str]:
        """Finite and consistent."""
        now = tensors_of(self.model.policy)
        if now.keys() != self.tensors.keys():
            return ["I1: the policy consists of other tensors"]
        known = optimizer_tensors(self.model.policy.optimizer)
        was_bad = {name for name, tensor in self.tensors.items() if not _finite(tensor)} | self._bad_moments()
        found = [
            f"I1: {name} is not finite"
            for name, tensor in [*now.items(), *known.items()]
            if not _finite(tensor) and name not in was_bad
        ]
        if error is not None:
            found += self._left_behind(now)
        elif self.ours and self.model.last_update.critic_status == "non_finite":
            state = self.model.policy.optimizer.state_dict()["state"]
            found += [] if same(state, self.optimizer["state"]) else ["I1: the optimiser is not that of the restored critic"]
            critic = [name for name in now if "value" in name and self.view is not None and name not in self.view.actor]
            found += [f"I1: {name} of the critic is not restored" for name in critic if not self._as_before(name, now)]
        return found

    def _bad_moments(self) -> set[str]:
        held = self.optimizer["state"].items()
        return {
            f"{key} of parameter {index}"
            for index, values in held
            for key, value in values.items()
            if isinstance(value, Tensor) and not _finite(value)
        }

    def _left_behind(self, now: dict[str, Tensor]) -> list[str]:
        """After an exception everything is what it was."""
        held = now if self.collected else dict(self.model.policy.named_parameters())
        found = [f"I1: {name} is not what it was before the exception" for name in held if not self._as_before(name, now)]
        if not same(self.model.policy.optimizer.state_dict(), self.optimizer):
            found.append("I1: the optimiser is not what it was before the exception")
        if self.ours:
            policy = self.model.policy
            found += ["I1: hooks are left behind"] * (n_hooks(policy) != self.n_hooks)
            found += ["I1: training modes changed"] * (self.modes != [module.training for module in policy.modules()])
            found += ["I1: requires_grad changed"] * (self.trainable != [p.requires_grad for p in policy.parameters()])
        return found

    def _as_before(self, name: str, now: dict[str, Tensor]) -> bool:
        return same(now[name].detach(), self.tensors[name])

    # ------------------------------------------------------------ I2

    def _moved(self, view: View | None) -> bool:
        """Whether the actor is not bit for bit what it was: its parameters, or what it does."""
        now = tensors_of(self.model.policy)
        if self.view is None or view is None:
            return any("value" not in name and not self._as_before(name, now) for name in now)
        weights = any(not self._as_before(name, now) for name in self.view.actor)
        return weights or not same(self.view.raw, view.raw)

    def i2(self) -> list[str]:
        """Bit-identical, or within the trust region and better."""
        view = self._view()
        if not self._moved(view):
            return []
        if self.view is None or view is None:
            return ["I2: the actor moved where it can't be evaluated"]
        found = []
        if not self.kl(view) <= self.model.target_kl * (1 + KL_ACCURACY[0]) + KL_ACCURACY[1]:
            found.append(f"I2: the KL is {self.kl(view):.3g}, the bound {self.model.target_kl:.3g}")
        gain, size = self.gain(view)
        if not gain > -GAIN_ACCURACY * size:
            found.append(f"I2: the surrogate rose by {gain:.3g}")
        return found

    def kl(self, view: View) -> float:
        """In the unit that is bounded."""
        assert self.view is not None
        scale = 1.0 if getattr(self.model, "kl_reduction", "mean") == "joint" else 1.0 / view.dims
        return scale * view.joint_kl(self.view)

    def gain(self, view: View) -> tuple[float, float]:
        """Of the surrogate, and the mean absolute advantage."""
        assert self.view is not None
        advantages = self.batch.advantages.double()
        if self.model.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gain = advantages * torch.expm1(view.log_prob - self.view.log_prob)
        return float(gain.mean()), float(advantages.abs().mean())

    # ------------------------------------------------------------ I3

    def i3_of_an_error(self, error: BaseException, theirs: type[BaseException] | None) -> list[str]:
        """It names cause, place and remedy, and nothing was counted."""
        found = ["I3: an update that raised was counted"] * (self._counters() != self.counters)
        if theirs is not None and isinstance(error, theirs):
            return found
        own = type(error).__module__.startswith("sb3_trpo_ext.") or str(error).startswith("TRPO")
        return found if own and len(str(error)) > 60 else [*found, f"I3: {error!r} names no cause"]

    def i3_of_a_report(self) -> list[str]:
        """Report and log say what was done."""
        report, logged = self.model.last_update, self.model.logger.name_to_value
        if report is None or report is self.counters[-1]:
            return ["I3: no new report"]
        view = self._view()
        moved = self._moved(view)
        checks = {
            "the report is not that of the next update": report.n_updates == self.counters[0] + 1 == self.model._n_updates,
            "the report does not survive JSON": _survives_json(report),
            f"status {report.status}, but the actor {'moved' if moved else 'did not move'}": report.accepted == moved,
            "the log is not the report": logged.get("train/kl_divergence_loss") == report.kl,
            "a step that was not applied is reported": report.accepted or report.kl == report.surrogate_improvement == 0.0,
            "no advice": bool(report.advice and report.critic_advice),
        }
        if moved and view is not None and self.view is not None:
            kl = self.kl(view)
            checks[f"the KL is {kl}, reported {report.kl}"] = math.isclose(
                kl, report.kl, rel_tol=KL_ACCURACY[0], abs_tol=KL_ACCURACY[1]
            )
        return [f"I3: {text}" for text, holds in checks.items() if not holds]


def _survives_json(report: UpdateReport) -> bool:
    try:
        return UpdateReport.from_json(report.to_json()) == report
    except ValueError:  # it holds NaN or infinity
        return False


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all()) if tensor.is_floating_point() else True
