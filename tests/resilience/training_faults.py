"""Faults of the critic, its optimiser, and the settings."""

from typing import Any

import torch

from tests.resilience.faults import before, between, group

NAN, INF = float("nan"), float("inf")


@torch.no_grad()
def fill_critic(model: Any, value: float) -> None:
    model.policy.value_net.weight[0, 0] = value


group("Critic and optimiser")


@between("NonFiniteError: .*'value_net.weight'")
def nan_weight_of_the_critic(model: Any) -> None:
    """A weight of the critic is NaN."""
    fill_critic(model, NAN)


@before("NonFiniteError: |critic ")
def critic_of_1e30(model: Any) -> None:
    """A weight of the critic is 1e30: values beyond what can be squared."""
    fill_critic(model, 1e30)


@between("critic non_finite|NonFiniteError")
def critic_that_overflows(model: Any) -> None:
    """Two layers of the critic of the size of 1e25: its values are infinite."""
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if "value" in name and parameter.ndim == 2:
                parameter.mul_(1e25)


@between("critic non_finite", n_critic_updates=1, batch_size=1)
def return_of_1e19(model: Any) -> None:
    """A return whose square float32 holds, and whose gradient squared it does not: Adam's second moment is infinite."""
    model.rollout_buffer.returns[9, 1] = 1.2e19
    with torch.no_grad():
        model.policy.value_net.weight.mul_(1e3)


@between("critic non_finite")
def learning_rate_of_1e30(model: Any) -> None:
    """The learning rate explodes."""
    model.lr_schedule = lambda _: 1e30


@between("TRPO: .*learning_rate")
def learning_rate_nan(model: Any) -> None:
    """The schedule of the learning rate gives NaN."""
    model.lr_schedule = lambda _: NAN


@between("TRPO: .*learning_rate")
def learning_rate_negative(model: Any) -> None:
    """The schedule of the learning rate gives -0.1."""
    model.lr_schedule = lambda _: -0.1


@between("Bug", theirs=ZeroDivisionError)
def learning_rate_raises(model: Any) -> None:
    """The schedule of the learning rate raises."""

    def schedule(_: float) -> float:
        raise ZeroDivisionError("Bug")

    model.lr_schedule = schedule


def _moments(model: Any, value: float) -> None:
    optimizer = model.policy.optimizer
    critic = [p for name, p in model.policy.named_parameters() if "value" in name and p in optimizer.state]
    for parameter in critic[:1]:
        for name, tensor in optimizer.state[parameter].items():
            if name.startswith(("exp_avg", "momentum")):
                tensor.view(-1)[0] = value


@between("NonFiniteError: .*optimi[sz]er")
def nan_moments(model: Any) -> None:
    """Adam's moments of the critic hold a NaN."""
    _moments(model, NAN)


@between("NonFiniteError: .*optimi[sz]er")
def infinite_moments(model: Any) -> None:
    """Adam's moments of the critic are infinite: it would stand still for ever, and nothing would be seen of it."""
    _moments(model, INF)


@between(policy_kwargs={"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 0.1}})
def gradients_left_over(model: Any) -> None:
    """Somebody has left gradients behind, and the optimiser has momentum and weight decay."""
    for parameter in model.policy.parameters():
        parameter.grad = torch.ones_like(parameter)


class MovesEverything(torch.optim.Adam):
    """Moves every parameter, whether it has a gradient or not."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for parameter_group in self.param_groups:
            for parameter in parameter_group["params"]:
                parameter.add_(0.1)


@between(policy_kwargs={"optimizer_class": MovesEverything})
def optimiser_that_moves_everything(model: Any) -> None:
    """An optimiser that moves parameters without gradients, the actor's too."""


def _at_call(owner: Any, name: str, number: int, error: BaseException) -> None:
    honest, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            raise error
        return honest(*args, **kwargs)

    setattr(owner, name, counted)


@between("Bug", theirs=ZeroDivisionError)
def optimiser_raises(model: Any) -> None:
    """The optimiser raises at its second step."""
    _at_call(model.policy.optimizer, "step", 2, ZeroDivisionError("Bug"))


@between(n_critic_updates=0)
def no_critic_epochs(model: Any) -> None:
    """n_critic_updates=0."""


group("Settings that a callback changes")


@between("TRPO: target_kl=nan is impossible")
def target_kl_nan(model: Any) -> None:
    """A schedule of the KL gives NaN."""
    model.target_kl = NAN


@between("TRPO: target_kl=-0.01 is impossible")
def target_kl_negative(model: Any) -> None:
    """A schedule of the KL goes below zero."""
    model.target_kl = -0.01


@between("TRPO: cg_damping=nan is impossible")
def damping_nan(model: Any) -> None:
    """The damping becomes NaN."""
    model.cg_damping = NAN


@between("TRPO: cg_damping=-10.0 is impossible")
def damping_negative(model: Any) -> None:
    """The damping becomes negative."""
    model.cg_damping = -10.0


@between("TRPO: cg_max_steps=0 is impossible")
def no_cg_steps(model: Any) -> None:
    """cg_max_steps=0."""
    model.cg_max_steps = 0


@between("TRPO: line_search_max_iter=0 is impossible")
def no_candidates(model: Any) -> None:
    """line_search_max_iter=0."""
    model.line_search_max_iter = 0


@between()
def target_kl_on_a_schedule(model: Any) -> None:
    """The KL's bound is lowered between updates, soundly."""
    model.target_kl = 1e-4


@between(line_search_max_iter=1)
def target_kl_that_no_step_keeps(model: Any) -> None:
    """A bound so wide that the quadratic model fails, and one candidate."""
    model.target_kl = 50.0
